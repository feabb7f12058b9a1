// A cluster of worker processes: opens, joins, breaks and repairs nodes, and in the end judges what is on their disks.
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { comparePlaces } from '../../src/failover/quorum.js';
import type { CommitRule, EngineOptions, EngineStatus } from '../../src/index.js';
import { assertRecords, compareSegments, type LogCopy, readLog } from './logfiles.js';
import type { Network } from './network.js';
import { NodeProcess } from './process.js';
import type { Acknowledged, Opened, WorkerEvent, WorkloadEnd, WorkloadSettings } from './protocol.js';

const KiB = 1024;
const MiB = 1024 * KiB;
export const credentials = { id: 'test-cluster', secret: 'a secret of the test cluster' };
export const any1: CommitRule = { level: 'received', any: 1 };

/** Small pages and a small arena: every test crosses page, segment and arena borders. */
export const smallLog = { pageBytes: 64 * KiB, segmentBytes: 1 * MiB, spareSegments: 1 };
export const smallArena = { bytes: 2 * MiB, hugePages: false };

export type Overrides = Partial<EngineOptions>;

export interface Member {
  readonly index: number;
  readonly name: string;
  dir: string;
  process: NodeProcess;
  options: EngineOptions;
  port: number;
  open: boolean;
  opened: Opened | undefined;
}

export async function pause(milliseconds: number): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, milliseconds));
}

/** Worker processes that outlive a scenario: starting node costs more than most scenarios. */
export class Workers {
  readonly network: Network;
  readonly #processes = new Map<number, NodeProcess>();

  constructor(network: Network) {
    this.network = network;
  }

  at(index: number): NodeProcess {
    const found = this.#processes.get(index);
    if (found !== undefined && !found.over) return found;
    const made = new NodeProcess(String.fromCharCode(97 + index), this.network.prefix(index));
    this.#processes.set(index, made);
    return made;
  }

  /** After a failure: what state they are in is not known. */
  async renew(): Promise<void> {
    await Promise.all([...this.#processes.values()].map((each) => each.kill()));
    this.#processes.clear();
  }

  async close(): Promise<void> {
    await this.renew();
    this.network.close();
  }
}

export class Cluster {
  readonly network: Network;
  readonly members: Member[] = [];
  /** What the scenario found out, printed with its result. */
  readonly notes: string[] = [];
  readonly base: string;
  readonly #workers: Workers;
  readonly #defaults: Overrides;
  readonly #cleanUps: (() => void | Promise<void>)[] = [];
  #writer = 0;
  #disposed = false;
  #loading: { process: NodeProcess; from: number } | undefined;
  readonly #loaded = new Set<NodeProcess>();

  constructor(workers: Workers, defaults: Overrides = {}) {
    this.#workers = workers;
    this.network = workers.network;
    this.#defaults = defaults;
    const shm = '/dev/shm';
    this.base = mkdtempSync(join(process.env['WALSHIP_TEST_DIR'] ?? (shm || tmpdir()), 'walship-test-'));
  }

  note(text: string): void {
    this.notes.push(text);
  }

  /** Runs at the end, whatever happens. */
  onEnd(cleanUp: () => void | Promise<void>): void {
    this.#cleanUps.unshift(cleanUp);
  }

  // ---- nodes ----

  member(index: number): Member {
    const found = this.members[index];
    if (found === undefined) throw new Error(`there is no node ${index}`);
    return found;
  }

  optionsOf(index: number, overrides: Overrides = {}): EngineOptions {
    const name = String.fromCharCode(97 + index);
    const verbs = this.network.verbs(index);
    return {
      dir: join(this.base, name),
      nodeId: name,
      cluster: credentials,
      listen: `${this.network.address(index)}:0`,
      log: smallLog,
      arena: smallArena,
      commitRule: any1,
      ...this.network.options,
      ...(verbs && { verbs }),
      ...this.#defaults,
      ...overrides,
    };
  }

  /** Opens node `index`, for the first time or again (then with the options it had, and at the port it had). */
  async open(index: number, overrides: Overrides = {}): Promise<Member> {
    const known = this.members[index];
    const process = this.#workers.at(index);
    if (known?.process !== process) process.events.length = process.acknowledged.length = 0;
    const options = { ...(known?.options ?? this.optionsOf(index)), ...overrides };
    mkdirSync(options.dir, { recursive: true });
    const listen = options.listen as string;
    const fixed = known ? { ...options, listen: listen.replace(/:\d+$/, `:${known.port}`) } : options;
    if (known === undefined) process.events.length = process.acknowledged.length = 0;
    const opened = await process.open(fixed);
    const member: Member = known ?? {
      index,
      name: options.nodeId,
      dir: options.dir,
      process,
      options,
      port: opened.port,
      open: true,
      opened,
    };
    Object.assign(member, { process, options, port: opened.port, open: true, opened });
    this.members[index] = member;
    return member;
  }

  /**
   * Opens a node for every entry, promotes the first and lets the others follow: `upstreams[i]` is the upstream of node
   * i; the first entry is ignored.
   */
  async start(upstreams: readonly number[], overrides: Overrides = {}): Promise<void> {
    await Promise.all(upstreams.map((_, index) => this.open(index, overrides)));
    await this.member(0).process.promote();
    for (let index = 1; index < upstreams.length; index++)
      await this.follow(index, upstreams[index] as number);
    for (let index = 1; index < upstreams.length; index++) {
      await this.until(`${index} is up`, async () => this.isLinked(index, upstreams[index] as number));
    }
  }

  upstreamOf(index: number, upstream: number) {
    const { port, name } = this.member(upstream);
    return {
      address: `${this.network.address(upstream)}:${port}`,
      node: name,
      ...this.network.source(index),
    };
  }

  async follow(index: number, upstream: number): Promise<void> {
    await this.member(index).process.follow(this.upstreamOf(index, upstream));
  }

  async isLinked(index: number, upstream: number): Promise<boolean> {
    const { links } = await this.member(index).process.status();
    return links.some(
      (link) => link.direction === 'upstream' && link.streaming && link.node === this.member(upstream).name,
    );
  }

  async status(index: number): Promise<EngineStatus> {
    return this.member(index).process.status();
  }

  async kill(index: number): Promise<void> {
    const member = this.member(index);
    await member.process.kill();
    member.open = false;
  }

  async close(index: number): Promise<void> {
    const member = this.member(index);
    member.open = false;
    await member.process.close();
  }

  events(index: number, type: string): WorkerEvent[] {
    return this.member(index).process.events.filter((event) => event.type === type);
  }

  // ---- waiting ----

  /** Waits until `condition` holds; fails with the state of every node if it does not within `seconds`. */
  async until(what: string, condition: () => Promise<boolean> | boolean, seconds = 10): Promise<number> {
    const started = performance.now();
    const deadline = started + seconds * 1000 * this.network.slow;
    while (!(await condition())) {
      if (this.#disposed) throw new Error('the scenario is over');
      if (performance.now() > deadline) {
        throw new Error(`not within ${seconds * this.network.slow} s: ${what}\n${await this.describe()}`);
      }
      await pause(10);
    }
    return performance.now() - started;
  }

  async describe(): Promise<string> {
    const lines: string[] = [];
    for (const { process, name, open } of this.members.filter((each) => each !== undefined)) {
      if (!open || process.over) {
        lines.push(`${name}: ${process.crashed ? 'crashed' : 'closed'}`);
        continue;
      }
      const status = await Promise.race([process.status().catch(String), pause(500)]);
      const short = (value: unknown) =>
        JSON.stringify(value, (_, each) => (typeof each === 'bigint' ? String(each) : each));
      if (typeof status === 'object') {
        const { role, epoch, positions, links, nodes, arena, storageProblem } = status;
        lines.push(`${name}: ${short({ role, epoch, positions, storageProblem, arena })}`);
        for (const link of links) lines.push(`   link ${short(link)}`);
        for (const node of nodes) lines.push(`   node ${short(node)}`);
      } else {
        lines.push(`${name}: no status (${status})`);
      }
      for (const event of process.events.slice(-6)) lines.push(`   event ${short(event)}`);
    }
    return lines.join('\n');
  }

  /** Until node `index` has all that `reference` has, on disk. */
  async caughtUp(index: number, reference: number, seconds = 15): Promise<number> {
    return this.until(
      `node ${index} has flushed what node ${reference} has`,
      async () => {
        const { received } = await this.member(reference).process.positions();
        const { flushed } = await this.member(index).process.positions();
        return flushed >= received;
      },
      seconds,
    );
  }

  // ---- the workload ----

  async load(index: number, settings: Partial<WorkloadSettings> = {}): Promise<void> {
    const { process } = this.member(index);
    const slow = this.network.slow;
    const all: WorkloadSettings = {
      writer: ++this.#writer,
      bytesMin: 16,
      bytesMax: 8 * KiB,
      bytesPerSecond: this.network.bytesPerSecond,
      pendingBytesMax: 1 * MiB,
      drainMs: 5000 * slow,
      ...settings,
    };
    this.#loaded.add(process);
    this.#loading = { process, from: process.acknowledged.length };
    await process.load(all);
  }

  /** The workload's node is dead or no longer primary: nobody waits for its end. */
  forgetLoad(): void {
    this.#loading = undefined;
  }

  async endLoad(): Promise<WorkloadEnd> {
    if (this.#loading === undefined) throw new Error('no workload is running');
    const end = await this.#loading.process.endLoad();
    this.#loading = undefined;
    return end;
  }

  /** Every record that any primary has reported committed to its client; the primary may have died since. */
  get acknowledged(): Acknowledged[] {
    return [...this.#loaded].flatMap((process) => process.acknowledged);
  }

  acknowledgedNow(): number {
    return this.#loading ? this.#loading.process.acknowledged.length - this.#loading.from : 0;
  }

  /** Until `records` more are acknowledged: the cluster commits. Gives back how long that took in ms. */
  async progress(records = 50, seconds = 15): Promise<number> {
    const from = this.acknowledgedNow();
    return this.until(
      `${records} more records are committed`,
      () => this.acknowledgedNow() >= from + records,
      seconds,
    );
  }

  // ---- roles ----

  /**
   * What a controller does when the primary is lost: promises from all that are left, the most advanced becomes
   * primary, the others follow it. Gives back the new primary.
   */
  async failOver(candidates: readonly number[]): Promise<number> {
    const epochs = await Promise.all(candidates.map(async (index) => (await this.status(index)).epoch));
    const epoch = epochs.reduce((a, b) => (a > b ? a : b)) + 1n;
    const promised = await Promise.all(
      candidates.map(async (index) => ({ index, ...(await this.member(index).process.promise(epoch)) })),
    );
    const { index: primary } = promised.reduce((best, each) => (comparePlaces(each, best) > 0 ? each : best));
    await this.member(primary).process.promote(epoch);
    for (const index of candidates) if (index !== primary) await this.follow(index, primary);
    return primary;
  }

  // ---- the verdict ----

  /**
   * Ends the workload, waits until all have everything, closes every node cleanly, and compares: every acknowledged
   * record on every node, every segment file the same.
   */
  async verify(primary = 0): Promise<LogCopy[]> {
    if (this.#loading !== undefined) {
      const end = await this.endLoad();
      if (end.code !== '') throw new Error(`the workload ended with ${end.code}`);
      if (end.unacknowledged > 0) throw new Error(`${end.unacknowledged} appends were never committed`);
    }
    const indexes = this.members.flatMap((member) => (member?.open ? [member.index] : []));
    for (const index of indexes) if (index !== primary) await this.caughtUp(index, primary, 30);
    for (const index of indexes.toReversed()) await this.close(index);
    const copies = indexes.map((index) => readLog(this.member(index).dir));
    const [first] = copies;
    if (first === undefined) throw new Error('no node is left to compare');
    let compared = 0;
    for (const copy of copies.slice(1)) compared += compareSegments(first, copy);
    const { acknowledged } = this;
    let records = 0;
    for (const copy of copies) records += assertRecords(copy, acknowledged);
    this.note(
      `${acknowledged.length} records acknowledged, ${records} found on ${copies.length} nodes; ` +
        `${first.payload.length} bytes, ${first.frames} frames, ${first.pages} pages; ${compared} bytes compared`,
    );
    for (const { process, name } of this.members) {
      if (process.crashed) throw new Error(`node ${name} crashed`);
    }
    return copies;
  }

  /** After a scenario, good or bad: no engine stays open, no fault in force, no file behind. */
  async dispose(): Promise<void> {
    this.#disposed = true;
    for (const cleanUp of this.#cleanUps) await cleanUp();
    for (const member of this.members.filter((each) => each?.open)) {
      if (!member.process.over) member.process.thaw();
      const closed = await Promise.race([
        member.process
          .endLoad()
          .then(() => member.process.close())
          .then(
            () => true,
            () => false,
          ),
        pause(5000 * this.network.slow).then(() => false),
      ]);
      if (!closed) await member.process.kill();
    }
    rmSync(this.base, { recursive: true, force: true });
  }
}

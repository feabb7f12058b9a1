// A cluster that decides itself who is primary, clients that append to it, and what must be true of its logs at the end.
import { cpSync, mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Router } from '../../src/cluster/router.js';
import type { MembershipSettings } from '../../src/failover/membership.js';
import type { CommitRule, EngineOptions } from '../../src/index.js';
import { Client } from './appender.js';
import { type Audited, audit, readLog } from './audit.js';
import { Disk } from './disk.js';
import { Etcd, type EtcdOptions } from './etcd.js';
import { type MemberDatabase, MemberProcess } from './member.js';
import type { Network } from './network.js';

export { type Acknowledgement, Client } from './appender.js';

export interface FailoverOptions {
  readonly nodes: number;
  readonly network: Network;
  readonly dir: string;
  /**
   * `etcd`: so many members of it, on the test's own address; or, if the network has places for more than the nodes, in
   * those behind the nodes' from `at` on.
   */
  readonly coordinator: 'embedded' | { readonly etcd: number; readonly at?: number };
  readonly rule: CommitRule;
  readonly engine?: Pick<EngineOptions, 'log' | 'arena'>;
  /** Are members, but not started with the others. */
  readonly away?: readonly string[];
  /** Each node's log is on a disk of its own of this size, that can be filled. Needs root. */
  readonly diskMebibytes?: number;
  readonly failover?: Partial<MembershipSettings>;
  readonly database?: MemberDatabase;
}

const ports = { log: 7100, control: 7200, http: 7300, clients: 7400 };
const cluster = { id: 'failover', secret: 'known to every node of it' };

function withVerbs(network: Network, index: number): Pick<EngineOptions, 'verbs'> {
  const verbs = network.verbs(index);
  return verbs ? { verbs } : {};
}

function placeOf(network: Network, at: number | undefined): Pick<EtcdOptions, 'host' | 'prefix'> {
  if (at === undefined) return { host: () => network.ownAddress };
  return { host: (index) => network.address(at + index), prefix: (index) => network.prefix(at + index) };
}

export class FailoverCluster {
  readonly members: readonly MemberProcess[];
  readonly etcd: Etcd | undefined;
  readonly network: Network;
  readonly dir: string;
  readonly disks: ReadonlyMap<string, Disk>;
  /** Not expected to run: neither well() nor audit() asks for them. */
  readonly away: Set<string>;
  readonly #addresses: ReadonlyMap<string, string>;

  static async start(options: FailoverOptions): Promise<FailoverCluster> {
    const { coordinator, network } = options;
    const etcd =
      coordinator === 'embedded'
        ? undefined
        : await Etcd.start({ members: coordinator.etcd, ...placeOf(network, coordinator.at) });
    let made: FailoverCluster | undefined;
    try {
      made = new FailoverCluster(options, etcd);
      await Promise.all(made.present.map((member) => member.start()));
      await made.well();
      return made;
    } catch (error) {
      await (made ?? etcd)?.close();
      made?.keep();
      throw error;
    }
  }

  private constructor(options: FailoverOptions, etcd: Etcd | undefined) {
    const { network, dir, nodes, rule } = options;
    this.network = network;
    this.etcd = etcd;
    this.dir = dir;
    rmSync(dir, { recursive: true, force: true });
    mkdirSync(dir, { recursive: true });
    const names = Array.from({ length: nodes }, (_, index) => 'abcdefgh'[index] as string);
    const { diskMebibytes } = options;
    this.away = new Set(options.away);
    this.disks = new Map(
      diskMebibytes === undefined
        ? []
        : names.map((name) => [name, new Disk(join(dir, name), diskMebibytes)]),
    );
    // On one address every node has ports of its own.
    const at = (port: number, index: number) => `${network.address(index)}:${port + index}`;
    this.#addresses = new Map(names.map((name, index) => [name, at(ports.clients, index)]));
    this.members = names.map((name, index) => {
      const failover: MembershipSettings = {
        listen: at(ports.control, index),
        http: at(ports.http, index),
        coordinator: etcd
          ? { kind: 'etcd', endpoints: etcd.endpoints }
          : { kind: 'embedded', path: join(dir, 'coordinator') },
        bootstrap: index === 0,
        ...options.failover,
      };
      return new MemberProcess(
        name,
        {
          options: {
            dir: this.disks.get(name)?.log ?? join(dir, name),
            nodeId: name,
            cluster,
            listen: at(ports.log, index),
            commitRule: rule,
            log: { segmentBytes: 8 << 20, spareSegments: 1 },
            ...options.engine,
            ...network.options,
            ...withVerbs(network, index),
          },
          failover,
          clients: at(ports.clients, index),
          ...(options.database && { database: options.database.of(name) }),
        },
        network.prefix(index),
        options.database?.program,
      );
    });
  }

  member(name: string): MemberProcess {
    return this.members.find((member) => member.name === name) as MemberProcess;
  }

  get present(): MemberProcess[] {
    return this.members.filter(({ name }) => !this.away.has(name));
  }

  get urls(): string[] {
    return this.members.map((_, index) => `http://${this.network.address(index)}:${ports.http + index}`);
  }

  router(): Router {
    return new Router({ nodes: this.urls, discover: false });
  }

  client(id: string, pauseMs = 0, paddingBytes = 0): Client {
    return new Client(id, this.router(), this.#addresses, pauseMs, paddingBytes);
  }

  /** The member that reigns, of the newest epoch. */
  async primary(): Promise<MemberProcess | undefined> {
    const all = await this.#statuses();
    const reigning = all.filter(({ status }) => status.leaseMs !== undefined && status.role === 'primary');
    reigning.sort((x, y) => Number(y.status.epoch - x.status.epoch));
    return reigning[0]?.member;
  }

  async #statuses() {
    const asked = this.members
      .filter((member) => member.alive)
      .map(async (member) => {
        const status = await Promise.race([
          member.status(),
          sleep(2000 * this.network.slow).then(() => undefined),
        ]).catch(() => undefined);
        return status && { member, status };
      });
    return (await Promise.all(asked)).filter((each) => each !== undefined);
  }

  /** Waits until there is one primary, and every other node follows and has what it has. */
  async well(boundMs = 20_000 * this.network.slow): Promise<void> {
    const until = performance.now() + boundMs;
    let why = '';
    while (performance.now() < until) {
      why = (await this.#unwell()) ?? '';
      if (why === '') return;
      await sleep(10 * this.network.slow);
    }
    const said = await this.#statuses();
    const waiting = said.map(
      ({ member, status }) => `${member.name}: ${status.role} ${status.epoch} ${status.waiting}`,
    );
    throw new Error(
      `the cluster is not well after ${boundMs} ms: ${why}\n${waiting.join('\n')}\n${this.story(60)}`,
    );
  }

  async #unwell(): Promise<string | undefined> {
    for (const member of this.present) {
      if (member.crash !== '') throw new Error(member.crash);
      if (!member.alive) return `${member.name} does not run`;
    }
    const all = await this.#statuses();
    if (all.length < this.present.length) return 'a node does not answer';
    const primaries = all.filter(({ status }) => status.role === 'primary');
    const [primary] = primaries;
    if (!primary || primaries.length > 1) return `${primaries.length} primaries`;
    const { commitRule } = primary.member.settings.options;
    if (commitRule?.level !== 'async' && primary.status.counting.length < this.present.length - 1)
      return `only ${primary.status.counting} count`;
    for (const { member, status } of all) {
      if (member === primary.member) continue;
      if (status.epoch !== primary.status.epoch) return `${member.name} is in epoch ${status.epoch}`;
      const links = await member.links();
      if (!links.some((link) => link.direction === 'upstream' && link.streaming))
        return `${member.name} is not connected`;
      if (status.positions.received < primary.status.positions.committed) return `${member.name} lags`;
    }
    return undefined;
  }

  /** What the members told last, in the order of time. */
  story(lines: number): string {
    const told = this.members.flatMap((member) => member.events.map((event) => ({ member, event })));
    told.sort((x, y) => x.event.at - y.event.at);
    return told
      .slice(-lines)
      .map(({ member, event }) => `${event.at.toFixed(1)} ${member.name} ${event.event}: ${event.message}`)
      .join('\n');
  }

  async close(): Promise<void> {
    for (const member of this.members) member.signal('SIGCONT');
    await Promise.all(this.members.map((member) => member.close()));
    await this.etcd?.close();
  }

  /** Instead of remove(): the logs are wanted. */
  keep(): void {
    for (const disk of this.disks.values()) {
      cpSync(disk.log, `${disk.dir}.kept`, { recursive: true });
      disk.remove();
    }
  }

  /** After close() and audit(). */
  remove(): void {
    for (const disk of this.disks.values()) disk.remove();
    rmSync(this.dir, { recursive: true, force: true });
  }

  /**
   * Compares the logs, after close(), with what the clients were told: see {@link audit}.
   *
   * @param how.lossAccepted somebody has said that acknowledged records may be lost
   */
  async audit(clients: readonly Client[], how: { lossAccepted?: boolean } = {}): Promise<Audited> {
    const logs = await Promise.all(
      this.present.map(({ name, settings }) => readLog(name, settings.options.dir)),
    );
    const reigns = this.members.flatMap(({ name, reigns }) =>
      reigns.map(({ epoch }) => ({ node: name, epoch })),
    );
    try {
      return audit(logs, clients, reigns, how.lossAccepted === true);
    } catch (error) {
      throw new Error(`${(error as Error).message}\n${this.story(80)}`, { cause: error });
    }
  }
}

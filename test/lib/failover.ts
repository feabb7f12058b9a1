// A cluster that decides itself who is primary, clients that append to it, and what must be true of its logs at the end.
import { closeSync, mkdirSync, openSync, readFileSync, rmSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { notApplied } from '../../src/cluster/outcome.js';
import { Router } from '../../src/cluster/router.js';
import type { MembershipSettings } from '../../src/failover/membership.js';
import { type CommitRule, type EngineOptions, exportLog, inspectLog } from '../../src/index.js';
import { Etcd } from './etcd.js';
import { MemberProcess, monotonicMs } from './member.js';
import type { Network } from './network.js';

export interface FailoverOptions {
  readonly nodes: number;
  readonly network: Network;
  readonly dir: string;
  /** `etcd`: so many members of it, on the test's own address. */
  readonly coordinator: 'embedded' | { readonly etcd: number };
  readonly rule: CommitRule;
  readonly failover?: Partial<MembershipSettings>;
}

const ports = { log: 7100, control: 7200, http: 7300, clients: 7400 };
const cluster = { id: 'failover', secret: 'known to every node of it' };

function withVerbs(network: Network, index: number): Pick<EngineOptions, 'verbs'> {
  const verbs = network.verbs(index);
  return verbs ? { verbs } : {};
}

export class FailoverCluster {
  readonly members: readonly MemberProcess[];
  readonly etcd: Etcd | undefined;
  readonly network: Network;
  readonly dir: string;
  readonly #addresses: ReadonlyMap<string, string>;

  static async start(options: FailoverOptions): Promise<FailoverCluster> {
    const { coordinator, network } = options;
    const etcd =
      coordinator === 'embedded'
        ? undefined
        : await Etcd.start({ members: coordinator.etcd, host: () => network.ownAddress });
    const made = new FailoverCluster(options, etcd);
    await Promise.all(made.members.map((member) => member.start()));
    await made.well();
    return made;
  }

  private constructor(options: FailoverOptions, etcd: Etcd | undefined) {
    const { network, dir, nodes, rule } = options;
    this.network = network;
    this.etcd = etcd;
    this.dir = dir;
    rmSync(dir, { recursive: true, force: true });
    mkdirSync(dir, { recursive: true });
    const names = Array.from({ length: nodes }, (_, index) => 'abcdefgh'[index] as string);
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
            dir: join(dir, name),
            nodeId: name,
            cluster,
            listen: at(ports.log, index),
            commitRule: rule,
            log: { segmentBytes: 8 << 20, spareSegments: 1 },
            ...network.options,
            ...withVerbs(network, index),
          },
          failover,
          clients: at(ports.clients, index),
        },
        network.prefix(index),
      );
    });
  }

  member(name: string): MemberProcess {
    return this.members.find((member) => member.name === name) as MemberProcess;
  }

  get urls(): string[] {
    return this.members.map((_, index) => `http://${this.network.address(index)}:${ports.http + index}`);
  }

  router(): Router {
    return new Router({ nodes: this.urls, discover: false });
  }

  client(id: string, pauseMs = 0): Client {
    return new Client(id, this.router(), this.#addresses, pauseMs);
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
        const status = await Promise.race([member.status(), sleep(2000).then(() => undefined)]).catch(
          () => undefined,
        );
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
    for (const member of this.members) {
      if (member.crash !== '') throw new Error(member.crash);
      if (!member.alive) return `${member.name} does not run`;
    }
    const all = await this.#statuses();
    if (all.length < this.members.length) return 'a node does not answer';
    const primaries = all.filter(({ status }) => status.role === 'primary');
    const [primary] = primaries;
    if (!primary || primaries.length > 1) return `${primaries.length} primaries`;
    if (primary.status.counting.length < this.members.length - 1 && primary.status.counting.length > 0)
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

  /**
   * Compares the logs, after close(), with what the clients were told: everything acknowledged is there, on every node,
   * once and in its client's order; what was refused is not; and all nodes hold the same.
   */
  async audit(clients: readonly Client[]): Promise<{ acknowledged: number; unknown: number }> {
    let first: string | undefined;
    for (const member of this.members) {
      const text = await payloadOf(join(this.dir, member.name));
      if (first === undefined) first = text;
      else if (text !== first)
        throw new Error(`the logs of ${this.members[0]?.name} and ${member.name} differ`);
    }
    const found = new Map<string, number[]>(clients.map(({ id }) => [id, []]));
    for (const line of (first ?? '').split('\n')) {
      if (line === '') continue;
      const [id, number] = line.split(' ') as [string, string];
      const list = found.get(id);
      if (!list) throw new Error(`a record of nobody: ${line}`);
      list.push(Number(number));
    }
    let acknowledged = 0;
    let unknown = 0;
    for (const client of clients) {
      const list = found.get(client.id) as number[];
      for (let i = 1; i < list.length; i++) {
        if ((list[i] as number) <= (list[i - 1] as number))
          throw new Error(`client ${client.id}: record ${list[i]} comes after record ${list[i - 1]}`);
      }
      const there = new Set(list);
      for (const { number, node } of client.acknowledged) {
        if (!there.has(number))
          throw new Error(
            `client ${client.id}: record ${number}, acknowledged by ${node}, is lost\n${this.story(80)}`,
          );
      }
      for (const number of client.refused) {
        if (there.has(number))
          throw new Error(`client ${client.id}: record ${number} was refused and is there`);
      }
      acknowledged += client.acknowledged.length;
      unknown += client.unknown.length;
    }
    return { acknowledged, unknown };
  }
}

async function payloadOf(dir: string): Promise<string> {
  const { firstLsn, tail } = await inspectLog(dir);
  const file = `${dir}.payload`;
  const fd = openSync(file, 'w');
  try {
    await exportLog(dir, { from: firstLsn, to: tail.lsn }, fd);
  } finally {
    closeSync(fd);
  }
  return readFileSync(file, 'utf8');
}

export interface Acknowledgement {
  readonly number: number;
  readonly node: string;
  readonly sentAt: number;
  readonly at: number;
}

/** Appends numbered records, one after the other, to whoever is primary. */
export class Client {
  readonly id: string;
  readonly acknowledged: Acknowledgement[] = [];
  /** May be there, or not. */
  readonly unknown: number[] = [];
  /** Is not there. */
  readonly refused: number[] = [];
  readonly #router: Router;
  readonly #addresses: ReadonlyMap<string, string>;
  readonly #pauseMs: number;
  readonly #connections = new Map<string, Connection>();
  #number = 0;
  #stopped = false;
  #ended: Promise<void> = Promise.resolve();

  constructor(id: string, router: Router, addresses: ReadonlyMap<string, string>, pauseMs: number) {
    this.id = id;
    this.#router = router;
    this.#addresses = addresses;
    this.#pauseMs = pauseMs;
  }

  start(): void {
    this.#ended = this.#run();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#ended;
    this.#router.close();
    for (const connection of this.#connections.values()) connection.close();
  }

  /** The first record that was sent after `since` and acknowledged by another node than `not`. */
  async acknowledgedSince(since: number, not: string | undefined, boundMs: number): Promise<Acknowledgement> {
    const until = performance.now() + boundMs;
    let from = 0;
    while (performance.now() < until) {
      for (; from < this.acknowledged.length; from++) {
        const each = this.acknowledged[from] as Acknowledgement;
        if (each.at >= since && each.node !== not) return each;
      }
      await sleep(1);
    }
    throw new Error(`nothing was acknowledged to client ${this.id} within ${boundMs} ms`);
  }

  async #run(): Promise<void> {
    while (!this.#stopped) {
      const number = this.#number++;
      const sentAt = monotonicMs();
      let sent = false;
      try {
        const node = await this.#router.withPrimary(
          async (primary, signal) => {
            const answer = await this.#connection(primary.node).append(`${this.id} ${number}`, signal, () => {
              sent = true;
            });
            if (answer.startsWith('ok ')) return primary.node;
            if (!answer.startsWith('no ')) throw new Error(answer);
            sent = false;
            throw notApplied(new Error(answer));
          },
          { timeoutMs: 3000, retryMs: 5 },
        );
        this.acknowledged.push({ number, node, sentAt, at: monotonicMs() });
      } catch {
        (sent ? this.unknown : this.refused).push(number);
      }
      if (this.#pauseMs > 0) await sleep(this.#pauseMs);
    }
  }

  #connection(node: string): Connection {
    let connection = this.#connections.get(node);
    if (!connection?.usable) {
      connection = new Connection(this.#addresses.get(node) as string);
      this.#connections.set(node, connection);
    }
    return connection;
  }
}

class Connection {
  readonly #socket: Socket;
  readonly #waiting = new Map<number, { resolve(answer: string): void; reject(error: Error): void }>();
  readonly #connected: Promise<void>;
  #next = 1;
  usable = true;

  constructor(address: string) {
    const [host, port] = address.split(/:(?=\d+$)/) as [string, string];
    this.#socket = connect({ host, port: Number(port) });
    this.#socket.setNoDelay(true);
    this.#connected = new Promise((resolve, reject) => {
      this.#socket.once('connect', resolve);
      this.#socket.once('error', reject);
    });
    this.#connected.catch(() => {});
    const end = (error?: Error) => {
      this.usable = false;
      for (const { reject } of this.#waiting.values())
        reject(error ?? new Error('the connection was closed'));
      this.#waiting.clear();
    };
    this.#socket.on('error', end);
    this.#socket.on('close', () => end());
    createInterface({ input: this.#socket })
      .on('line', (line) => {
        const [number] = line.split(' ', 1) as [string];
        this.#waiting.get(Number(number))?.resolve(line.slice(number.length + 1));
        this.#waiting.delete(Number(number));
      })
      .on('error', () => {});
  }

  async append(record: string, signal: AbortSignal, onSent: () => void): Promise<string> {
    const number = this.#next++;
    let abort = () => {};
    const aborted = new Promise<never>((_, reject) => {
      abort = () => {
        this.close();
        reject(signal.reason);
      };
    });
    signal.addEventListener('abort', abort);
    try {
      return await Promise.race([this.#send(number, record, onSent), aborted]);
    } finally {
      signal.removeEventListener('abort', abort);
    }
  }

  async #send(number: number, record: string, onSent: () => void): Promise<string> {
    await this.#connected;
    onSent();
    return new Promise((resolve, reject) => {
      this.#waiting.set(number, { resolve, reject });
      this.#socket.write(`${number} ${record}\n`);
    });
  }

  close(): void {
    this.usable = false;
    this.#socket.destroy();
  }
}

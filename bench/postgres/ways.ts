// The ways by which the primary's WAL gets to another host, each as its users have it: processes of their own, and TCP, or
// RDMA, between the hosts.
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chownSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { gid, type Server, uid } from '../../test/databases/postgres/support.js';
import type { Transport } from '../lib/bench.js';
import { NodeProcess } from '../lib/cluster.js';
import { type Host, hosts, inLab } from '../lib/hosts.js';
import type { PostgresNodeCalls } from './node.js';

/** One of them is on at a time: what is not measured would take processor time from what is. */
export interface Way {
  /** Its `application_name` at the primary. */
  readonly name: string;
  /** The highest level of `synchronous_commit` that it acknowledges. */
  readonly reaches: 'on' | 'remote_apply';
  on(): Promise<void>;
  off(): Promise<void>;
}

/** A way that ends in a log, not in a server: it can be held up, and asked what it costs. */
export interface Shipping extends Way {
  hold(on: boolean): void;
  /** Processor time of its processes by now, in seconds, each by its name. */
  cpuSeconds(): Promise<Readonly<Record<string, number>>>;
}

/** PostgreSQL's own streaming into a standby server. */
export class OwnStandby implements Way {
  readonly name = 'own';
  readonly reaches = 'remote_apply';
  readonly #standby: Server;

  constructor(standby: Server) {
    this.#standby = standby;
  }

  on(): Promise<void> {
    return this.#standby.start();
  }

  off(): Promise<void> {
    return this.#standby.stop('fast');
  }
}

/** `pg_receivewal --synchronous`, with a slot, into a folder: both new each time, so that nothing is to be caught up. */
export class ReceiveWal implements Shipping {
  readonly name = 'receivewal';
  readonly reaches = 'on';
  readonly #dir: string;
  readonly #primary: Server;
  readonly #conninfo: string;
  #child: ChildProcess | undefined;
  #said = '';

  /** @param conninfo of the primary, as from another host */
  constructor(dir: string, primary: Server, conninfo: string) {
    this.#dir = join(dir, 'receivewal');
    this.#primary = primary;
    this.#conninfo = `${conninfo} application_name=${this.name}`;
  }

  async on(): Promise<void> {
    rmSync(this.#dir, { recursive: true, force: true });
    mkdirSync(this.#dir);
    chownSync(this.#dir, uid, gid);
    await this.#primary.sql('checkpoint');
    await this.#primary.sql(`select pg_create_physical_replication_slot('${this.name}', true)`);
    const program = join(this.#primary.bin, 'pg_receivewal');
    const args = ['-d', this.#conninfo, '-S', this.name, '--synchronous', '-D', this.#dir];
    const child = spawn(program, args, { uid, gid, cwd: '/', stdio: ['ignore', 'ignore', 'pipe'] });
    this.#said = '';
    child.stderr?.on('data', (chunk: Buffer) => {
      this.#said += chunk;
    });
    const end = () => child.kill('SIGKILL');
    process.once('exit', end);
    child.once('close', () => process.off('exit', end));
    this.#child = child;
  }

  async off(): Promise<void> {
    const child = this.#child;
    this.#child = undefined;
    if (!child) return;
    if (child.exitCode !== null || child.signalCode !== null)
      throw new Error(`pg_receivewal has ended: ${this.#said}`);
    const ended = once(child, 'close');
    child.kill('SIGINT');
    await ended;
    await this.#primary.sql(`select pg_drop_replication_slot('${this.name}')`);
  }

  hold(on: boolean): void {
    this.#child?.kill(on ? 'SIGSTOP' : 'SIGCONT');
  }

  async cpuSeconds(): Promise<Record<string, number>> {
    return { [this.name]: threadSeconds(this.#child?.pid as number) };
  }
}

/** Of a process with one thread, on a processor. */
export function threadSeconds(pid: number): number {
  return Number(readFileSync(`/proc/${pid}/schedstat`, 'utf8').split(' ')[0]) / 1e9;
}

const nodeIds = ['a', 'b', 'c'] as const;
type NodeId = (typeof nodeIds)[number];
const servePort = 6001;

/** walship's nodes, a → b → c: processes that are used again by every chain, and their logs. */
export class Nodes {
  readonly #dir: string;
  readonly #transport: Transport;
  readonly #server: Server;
  readonly #processes = new Map<NodeId, NodeProcess<PostgresNodeCalls>>();

  constructor(dir: string, transport: Transport, server: Server) {
    this.#dir = dir;
    this.#transport = transport;
    this.#server = server;
  }

  /** Where the last node of a chain serves the log. */
  get conninfo(): string {
    return `host=${this.#dir} port=${servePort} user=postgres`;
  }

  /** Each commit waits for the last one. */
  async open(chain: readonly NodeId[], level: 'received' | 'flushed'): Promise<void> {
    const places = hosts(chain.length);
    const last = chain.at(-1) as NodeId;
    let upstream: { address: string; source: string } | undefined;
    for (const [index, nodeId] of chain.entries()) {
      const { address, device } = places[index] as Host;
      const { port } = await this.#process(nodeId).call('open', {
        dir: join(this.#dir, `log-${nodeId}`),
        nodeId,
        cluster: { id: 'bench', secret: 'a-secret-of-no-consequence' },
        listen: `${address}:0`,
        transport: this.#transport,
        ...(this.#transport === 'verbs' && device !== undefined && { verbs: { device, address } }),
        // One that is held up is not to be taken for dead.
        links: { timeoutMs: 60_000 },
        ...(inLab && { log: { segmentBytes: 16 << 20, retainBytes: 64 << 20 } }),
        // The server's own disk has everything before it is sent: the one of the node beside it may follow.
        commitRule: { level, any: 1, nodes: [last], ownDisk: false },
        ...(upstream === undefined
          ? { server: { conninfo: this.#server.conninfo } }
          : { upstream: { ...upstream, source: address } }),
        ...(nodeId === last && { serve: { directory: this.#dir, port: servePort } }),
      });
      upstream = { address: `${address}:${port}`, source: address };
    }
  }

  async close(chain: readonly NodeId[]): Promise<void> {
    for (const nodeId of [...chain].reverse()) await this.#process(nodeId).call('close');
  }

  async end(): Promise<void> {
    await Promise.all([...this.#processes.values()].map((node) => node.end()));
  }

  /** An open node keeps nothing for that one, which does not come back. */
  forget(nodeId: NodeId, gone: NodeId): Promise<void> {
    return this.#process(nodeId).call('forgetReader', gone);
  }

  hold(chain: readonly NodeId[], on: boolean): void {
    for (const nodeId of chain) this.#process(nodeId).signal(on ? 'SIGSTOP' : 'SIGCONT');
  }

  async cpuSeconds(chain: readonly NodeId[]): Promise<Record<string, number>> {
    const found: Record<string, number> = {};
    for (const nodeId of chain) found[`node ${nodeId}`] = await this.#process(nodeId).call('cpuSeconds');
    return found;
  }

  #process(nodeId: NodeId): NodeProcess<PostgresNodeCalls> {
    const node = this.#processes.get(nodeId) ?? new NodeProcess('../postgres/node.ts');
    this.#processes.set(nodeId, node);
    return node;
  }
}

/** Over as many of walship's nodes as `chain` names, into a standby server beside the last one if there is one. */
export class Chain implements Shipping {
  readonly name = 'walship';
  readonly #nodes: Nodes;
  readonly #chain: readonly NodeId[];
  readonly #standby: Server | undefined;
  readonly #level: 'received' | 'flushed';

  /** @param level what its commits wait for most, as its users would set it */
  constructor(
    nodes: Nodes,
    chain: readonly NodeId[],
    standby?: Server,
    level: 'received' | 'flushed' = 'flushed',
  ) {
    this.#level = level;
    this.#nodes = nodes;
    this.#chain = chain;
    this.#standby = standby;
  }

  get reaches(): Way['reaches'] {
    return this.#standby ? 'remote_apply' : 'on';
  }

  async on(): Promise<void> {
    await this.#nodes.open(this.#chain, this.#level);
    await this.#standby?.start();
  }

  async off(): Promise<void> {
    await this.#standby?.stop('fast');
    await this.#nodes.close(this.#chain);
  }

  hold(on: boolean): void {
    this.#nodes.hold(this.#chain, on);
  }

  cpuSeconds(): Promise<Record<string, number>> {
    return this.#nodes.cpuSeconds(this.#chain);
  }
}

import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { CommitRule, EngineOptions, EngineStatus } from '../../src/index.js';
import type { Transport } from './bench.js';
import { type Host, hosts, inLab } from './hosts.js';
import type { Calls } from './node.js';
import type { Reply } from './serve.js';

const patienceMs = inLab ? 120_000 : 30_000;
const MiB = 1 << 20;
/** As by default; the lab's guests have little memory. */
const segmentBytes = (inLab ? 16 : 64) * MiB;

/** What a process can be asked to do, by name. */
type Callable = Record<string, (argument: never) => Promise<unknown>>;

/** One node process. */
export class NodeProcess<C extends Callable = Calls> {
  readonly #child: ChildProcess;
  readonly #waiting = new Map<number, { resolve: (value: never) => void; reject: (error: Error) => void }>();
  #next = 0;

  constructor(script = './node.ts') {
    this.#child = fork(new URL(script, import.meta.url), [], {
      execArgv: ['--import', 'tsx'],
      serialization: 'advanced',
    });
    this.#child.on('message', (reply: Reply) => {
      const waiting = this.#waiting.get(reply.id);
      this.#waiting.delete(reply.id);
      if ('error' in reply) waiting?.reject(new Error(`a node of the bench failed: ${reply.error}`));
      else waiting?.resolve(reply.value as never);
    });
    this.#child.on('exit', (code, signal) => {
      for (const { reject } of this.#waiting.values())
        reject(new Error(`a node of the bench ended (${signal ?? code})`));
      this.#waiting.clear();
    });
  }

  call<Name extends keyof C & string>(
    name: Name,
    ...argument: Parameters<C[Name]>
  ): Promise<Awaited<ReturnType<C[Name]>>> {
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#child.send({ id, call: name, argument: argument[0] });
    });
  }

  signal(name: 'SIGSTOP' | 'SIGCONT'): void {
    this.#child.kill(name);
  }

  async end(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const exit = once(this.#child, 'exit');
    this.#child.kill('SIGKILL');
    await exit;
  }
}

export interface TreeOptions {
  readonly transport: Transport;
  /** Fresh; one folder per node is made in it. */
  readonly dir: string;
  /** For each standby, from node 1 on, the number of its upstream; node 0 is the primary. */
  readonly parents: readonly number[];
  readonly commitRule: CommitRule;
  readonly completion: 'busy' | 'event' | 'adaptive';
  readonly linkTimeoutMs?: number;
}

/** The nodes of a bench: processes that are used again, engines that are not. */
export class Cluster {
  readonly #nodes: NodeProcess[] = [];
  readonly #hosts: Host[];
  #opened: { dir: string; count: number } | undefined;
  #trees = 0;

  private constructor(count: number) {
    this.#hosts = hosts(count);
    for (let i = 0; i < count; i++) this.#nodes.push(new NodeProcess());
  }

  static async with<T>(count: number, body: (cluster: Cluster) => Promise<T>): Promise<T> {
    const cluster = new Cluster(count);
    try {
      return await body(cluster);
    } finally {
      await Promise.all(cluster.#nodes.map((node) => node.end()));
    }
  }

  static nodeId(index: number): string {
    return `n${index}`;
  }

  get primary(): NodeProcess {
    return this.node(0);
  }

  node(index: number): NodeProcess {
    return this.#nodes[index] as NodeProcess;
  }

  /** Opens an engine in as many processes as the tree has nodes and returns when every standby is in it. */
  async open(options: TreeOptions): Promise<void> {
    const dir = join(options.dir, `tree${this.#trees++}`);
    const count = options.parents.length + 1;
    this.#opened = { dir, count };
    const ports: number[] = [];
    for (let i = 0; i < count; i++) {
      const { port } = await this.node(i).call(
        'open',
        this.#engineOptions(i, join(dir, Cluster.nodeId(i)), options),
      );
      ports.push(port);
    }
    await this.primary.call('promote');
    for (const [index, parent] of options.parents.entries()) {
      const { address } = this.#hosts[parent] as Host;
      const source = (this.#hosts[index + 1] as Host).address;
      await this.node(index + 1).call('follow', { address: `${address}:${ports[parent]}`, source });
    }
    await this.#until('every standby', 1, ({ nodes }) => nodes.length === options.parents.length);
    await this.#prepare(count);
  }

  get isOpen(): boolean {
    return this.#opened !== undefined;
  }

  async close(): Promise<void> {
    const opened = this.#opened;
    if (!opened) return;
    this.#opened = undefined;
    const all = this.#nodes.slice(0, opened.count).reverse();
    await Promise.all(all.map((node) => node.call('close')));
    rmSync(opened.dir, { recursive: true, force: true });
  }

  /** Processor time that the nodes of the tree took while `body` ran, in seconds. */
  async cpuSeconds<T>(body: () => Promise<T>): Promise<{ value: T; cpu: number }> {
    const now = async () => {
      const nodes = this.#nodes.slice(0, this.#opened?.count ?? 0);
      return (await Promise.all(nodes.map((node) => node.call('cpuSeconds')))).reduce((a, b) => a + b, 0);
    };
    const before = await now();
    const value = await body();
    return { value, cpu: (await now()) - before };
  }

  #engineOptions(index: number, dir: string, options: TreeOptions): EngineOptions {
    const { address, device } = this.#hosts[index] as Host;
    return {
      dir,
      nodeId: Cluster.nodeId(index),
      cluster: { id: 'bench', secret: 'a-secret-of-no-consequence' },
      listen: `${address}:0`,
      transport: options.transport,
      ...(options.transport === 'verbs' && device !== undefined && { verbs: { device, address } }),
      commitRule: options.commitRule,
      completion: { mode: options.completion },
      // What is written in a second of full speed must fit the memory that the logs are in.
      log: { retainBytes: 64 * MiB, segmentBytes, spareSegments: 2 },
      links: { timeoutMs: options.linkTimeoutMs ?? 5000 },
    };
  }

  /**
   * Begins the first segment and waits until every node has its spare ones: they are written whole in the background,
   * and a segment that is begun before it is written whole syncs more slowly.
   */
  async #prepare(count: number): Promise<void> {
    const spares = 2 * segmentBytes;
    await this.#until('spare segments', count, ({ log }) => log.bytesOnDisk >= spares);
    const one = { appendBytes: 512, inFlight: 1, appendsMax: 1, seconds: 60, warmupAppends: 0, spin: false };
    await this.primary.call('drive', one);
    await this.#until('another spare segment', count, ({ log }) => log.bytesOnDisk >= spares + segmentBytes);
  }

  async #until(what: string, count: number, reached: (status: EngineStatus) => boolean): Promise<void> {
    const deadline = Date.now() + patienceMs;
    for (const node of this.#nodes.slice(0, count)) {
      while (!reached(await node.call('status'))) {
        if (Date.now() > deadline) throw new Error(`waited ${patienceMs} ms in vain: ${what}`);
        await delay(20);
      }
    }
  }
}

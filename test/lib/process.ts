// A worker process (worker.mjs) as the test sees it.
import { type ChildProcess, spawn } from 'node:child_process';
import { readFileSync, statSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { EngineOptions, EngineStatus, Positions } from '../../src/index.js';
import type { Acknowledged, FromWorker, Opened, Resources, WorkerEvent, WorkloadEnd } from './protocol.js';

const worker = fileURLToPath(new URL('worker.mjs', import.meta.url));

/** An error of the worker's engine. Not the package's own class: the lab is too slow to load the package twice. */
export class NodeError extends Error {
  readonly code: string;

  constructor(code: string, message: string) {
    super(message);
    this.code = code;
  }
}

interface Waiting {
  resolve(value: unknown): void;
  reject(error: Error): void;
}

export class NodeProcess {
  readonly name: string;
  readonly events: WorkerEvent[] = [];
  readonly acknowledged: Acknowledged[] = [];
  readonly #child: ChildProcess;
  readonly #ready: Promise<void>;
  readonly #exited: Promise<void>;
  readonly #waiting = new Map<number, Waiting>();
  #nextId = 1;
  #stderr = '';
  #over = false;
  #killed = false;

  /** `prefix`: a command to run it under, such as nsenter. */
  constructor(name: string, prefix: readonly string[] = []) {
    this.name = name;
    // A small young generation: how far it grows depends on how much garbage there was, and tells nothing of leaks.
    const command = [...prefix, process.execPath, '--expose-gc', '--max-semi-space-size=1', worker];
    this.#child = spawn(command[0] as string, command.slice(1), {
      stdio: ['ignore', 'inherit', 'pipe', 'ipc'],
      serialization: 'advanced',
    });
    let isReady = () => {};
    this.#ready = new Promise((resolve) => {
      isReady = resolve;
    });
    this.#child.on('message', (message) => this.#take(message as FromWorker, isReady));
    this.#child.stderr?.on('data', (chunk: Buffer) => {
      this.#stderr += chunk;
      process.stderr.write(chunk);
    });
    this.#exited = new Promise((resolve) => {
      this.#child.on('exit', (code, signal) => {
        this.#over = true;
        const why = new Error(`worker ${name} ended (${signal ?? code}) ${this.#stderr.slice(-2000)}`);
        for (const waiting of this.#waiting.values()) waiting.reject(why);
        this.#waiting.clear();
        resolve();
      });
    });
  }

  get pid(): number {
    return this.#child.pid as number;
  }

  /** Whether it ended without the test having ended it: a crash. */
  get crashed(): boolean {
    return this.#over && !this.#killed;
  }

  get over(): boolean {
    return this.#over;
  }

  #take(message: FromWorker, isReady: () => void): void {
    if ('ready' in message) {
      isReady();
      return;
    }
    if ('event' in message) {
      this.events.push(message.event);
      return;
    }
    if ('acknowledged' in message) {
      for (const one of message.acknowledged) this.acknowledged.push(one);
      return;
    }
    const waiting = this.#waiting.get(message.id);
    this.#waiting.delete(message.id);
    if ('error' in message) waiting?.reject(new NodeError(message.error.code, message.error.message));
    else waiting?.resolve(message.value);
  }

  async #call<T>(operation: string, argument?: unknown): Promise<T> {
    await Promise.race([this.#ready, this.#exited]);
    if (this.#over) throw new Error(`worker ${this.name} has ended`);
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve: resolve as (value: unknown) => void, reject });
      this.#child.send({ id, operation, argument }, (error) => {
        if (error && this.#waiting.delete(id)) reject(error);
      });
    });
  }

  open = (options: EngineOptions) => this.#call<Opened>('open', options);
  promote = (epoch = 0n) => this.#call<bigint>('promote', epoch);
  promise = (epoch: bigint) => this.#call<{ lsn: bigint; logEpoch: bigint }>('promise', epoch);
  follow = (upstream: unknown) => this.#call<void>('follow', upstream);
  status = () => this.#call<EngineStatus>('status');
  positions = () => this.#call<Positions>('positions');
  setCommitRule = (rule: unknown) => this.#call<void>('setCommitRule', rule);
  applied = (lsn: bigint) => this.#call<void>('applied', lsn);
  append = (writer: number, number: number, length: number) =>
    this.#call<bigint>('append', { writer, number, length });
  committed = (lsn: bigint) => this.#call<void>('committed', lsn);
  load = (settings: unknown) => this.#call<void>('load', settings);
  endLoad = () => this.#call<WorkloadEnd>('endLoad');
  read = (from: bigint, end: bigint) => this.#call<number>('read', { from, end });
  block = (milliseconds: number) => this.#call<void>('block', milliseconds);
  resources = () => this.#call<Resources>('resources');
  chooseRails = (choice: unknown) => this.#call<void>('chooseRails', choice);
  close = () => this.#call<void>('close');

  signal(signal: 'SIGSTOP' | 'SIGCONT'): void {
    process.kill(this.pid, signal);
  }

  /** Resolves when it stands still (or runs again): the signal alone only asks for it. */
  async freeze(): Promise<void> {
    this.signal('SIGSTOP');
    while (readFileSync(`/proc/${this.pid}/stat`, 'utf8').split(') ')[1]?.[0] !== 'T') {
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  }

  thaw(): void {
    this.signal('SIGCONT');
  }

  async kill(): Promise<void> {
    this.#killed = true;
    if (!this.#over) process.kill(this.pid, 'SIGKILL');
    await this.#exited;
  }
}

/** The workers run the built package: a stale one would test something else. */
export function assertBuilt(): void {
  const built = new URL('../../dist/engine/engine.js', import.meta.url);
  for (const source of ['../../src/engine/engine.ts', '../../src/engine/options.ts']) {
    if (statSync(new URL(source, import.meta.url)).mtimeMs > statSync(built).mtimeMs) {
      throw new Error('dist/ is older than src/: run npm run build');
    }
  }
}

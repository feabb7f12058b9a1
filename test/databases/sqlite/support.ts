// Replicated databases for tests: in this process, or each in a process of its own that can be killed.
import { type ChildProcess, execFileSync, fork, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import Sqlite from 'better-sqlite3';
import { afterEach, beforeEach, expect } from 'vitest';
import {
  type EngineEvent,
  type Lsn,
  openReplicated,
  type Replicated,
  type ReplicatedOptions,
  type ReplicatedStatus,
} from '../../../src/index.js';
import { credentials, pause, smallArena } from '../../lib/cluster.js';
import { checkpoint, differenceOf } from './files.js';

export { checkpoint, pause };

const MiB = 1024 * 1024;

/** The directory of the test that runs. */
export let base = '';
const cleanUps: (() => Promise<void> | void)[] = [];

/** Runs after the test, the last one first. */
export function onEnd(cleanUp: () => Promise<void> | void): void {
  cleanUps.unshift(cleanUp);
}

beforeEach(() => {
  base = mkdtempSync('/dev/shm/walship-sqlite-');
});

afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0)) await cleanUp();
  rmSync(base, { recursive: true, force: true });
});

export type More = Partial<ReplicatedOptions>;

export function options(name: string, more: More = {}): ReplicatedOptions {
  return {
    path: join(base, `${name}.db`),
    nodeId: name,
    cluster: credentials,
    transport: 'tcp',
    listen: '127.0.0.1:0',
    log: { segmentBytes: 4 * MiB, spareSegments: 1, pageBytes: 64 * 1024 },
    arena: { ...smallArena, bytes: 4 * MiB },
    links: { reconnectMsMin: 5, reconnectMsMax: 100 },
    ...more,
  };
}

// ---- nodes of this process ----

const events = new WeakMap<Replicated, EngineEvent[]>();

/** What the node has told of itself so far. */
export const eventsOf = (node: Replicated): readonly EngineEvent[] => events.get(node) ?? [];

export async function open(name: string, more: More = {}): Promise<Replicated> {
  const node = await openReplicated(options(name, more));
  const seen: EngineEvent[] = [];
  events.set(node, seen);
  node.on('event', (event) => seen.push(event));
  onEnd(() => node.close());
  return node;
}

export const upstreamOf = (node: Replicated) => ({ address: `127.0.0.1:${node.engine.listenPort}` });

export interface Pair {
  readonly a: Replicated;
  readonly b: Replicated;
}

/** A primary `a` and its standby `b`, which is there when a commit returns from `committed()`. */
export async function pair(more: More = {}): Promise<Pair> {
  const a = await open('a', { commitRule: { level: 'flushed', any: 1 }, ...more });
  return { a, b: await open('b', { upstream: upstreamOf(a) }) };
}

// ---- nodes and writers in processes of their own ----

interface Waiting {
  resolve(value: unknown): void;
  reject(error: Error): void;
}

/** An error of a child's; with its code. */
export class ChildError extends Error {
  readonly code: string;

  constructor(code: string, message: string) {
    super(message);
    this.code = code;
  }
}

export class Child {
  readonly events: EngineEvent[] = [];
  /** The last transfer that `committed()` has returned for. */
  acknowledged = 0;
  readonly #process: ChildProcess;
  readonly #exited: Promise<void>;
  readonly #waiting = new Map<number, Waiting>();
  #nextId = 1;
  #over = false;

  constructor() {
    this.#process = fork(fileURLToPath(new URL('worker.mjs', import.meta.url)), {
      serialization: 'advanced',
      execArgv: [],
    });
    this.#process.on('message', (message) => this.#take(message as Record<string, unknown>));
    // 'close' and not 'exit': what it had sent has arrived by then.
    this.#exited = new Promise((resolve) => {
      this.#process.on('close', (code, signal) => {
        this.#over = true;
        for (const waiting of this.#waiting.values())
          waiting.reject(new Error(`it ended: ${signal ?? code}`));
        this.#waiting.clear();
        resolve();
      });
    });
  }

  get over(): boolean {
    return this.#over;
  }

  #take(message: Record<string, unknown>): void {
    if ('event' in message) this.events.push(message['event'] as EngineEvent);
    else if ('acknowledged' in message) this.acknowledged = message['acknowledged'] as number;
    else {
      const waiting = this.#waiting.get(message['id'] as number);
      this.#waiting.delete(message['id'] as number);
      const error = message['error'] as { code: string; message: string } | undefined;
      if (error) waiting?.reject(new ChildError(error.code, error.message));
      else waiting?.resolve(message['value']);
    }
  }

  #call<T>(operation: string, argument?: unknown): Promise<T> {
    if (this.#over) return Promise.reject(new Error('the process has ended'));
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve: resolve as (value: unknown) => void, reject });
      this.#process.send({ id, operation, argument }, (error) => {
        if (error && this.#waiting.delete(id)) reject(error);
      });
    });
  }

  open = (settings: ReplicatedOptions) => this.#call<number>('open', settings);
  promote = (epoch?: bigint) => this.#call<bigint>('promote', epoch);
  follow = (upstream: { address: string }) => this.#call<void>('follow', upstream);
  committed = () => this.#call<Lsn>('committed');
  lsn = () => this.#call<Lsn>('lsn');
  status = () => this.#call<ReplicatedStatus>('status');
  readAt = <T>(lsn: Lsn, sql: string, ...parameters: unknown[]) =>
    this.#call<T[]>('readAt', { lsn, sql, parameters });
  /** Plain better-sqlite3, which knows nothing of walship. */
  plain = (path: string) => this.#call<void>('plain', path);
  exec = (sql: string) => this.#call<void>('exec', sql);
  pragma = <T>(source: string) => this.#call<T>('pragma', source);
  run = (sql: string, ...parameters: unknown[]) => this.#call<void>('run', { sql, parameters });
  all = <T>(sql: string, ...parameters: unknown[]) => this.#call<T[]>('all', { sql, parameters });
  stream = (count: number, everyMs: number) => this.#call<void>('stream', { count, everyMs });
  transfers = () => this.#call<void>('transfers');
  endTransfers = () => this.#call<void>('endTransfers');
  close = () => this.#call<void>('close');

  async kill(): Promise<void> {
    if (!this.#over) this.#process.kill('SIGKILL');
    await this.#exited;
  }
}

/** A process that ends with the test. */
export function child(): Child {
  const made = new Child();
  onEnd(() => made.kill());
  return made;
}

// ---- the sqlite3 command line ----

/** What the command line prints; an error of SQLite's is one here, too. */
export function sqlite3(path: string, ...commands: string[]): string {
  return execFileSync('sqlite3', ['-batch', '-bail', path, ...commands], {
    encoding: 'utf8',
    stdio: 'pipe',
  }).trim();
}

/** The same where it is expected to fail. */
export function sqlite3Failure(path: string, ...commands: string[]): string {
  const { status, stderr } = spawnSync('sqlite3', ['-batch', '-bail', path, ...commands], {
    encoding: 'utf8',
  });
  expect(status).not.toBe(0);
  return stderr.trim();
}

// ---- comparing ----

export function expectSameFile(one: string, other: string): void {
  expect(differenceOf(one, other)).toBe('');
}

/** Everything that was written on `a` is on `b`: the same file, whole, and as good as SQLite can tell. */
export async function expectSame(a: Replicated, ...standbys: Replicated[]): Promise<void> {
  const lsn = await a.committed();
  await checkpoint(a.path);
  for (const b of standbys) {
    const db = await b.readAt(lsn);
    expect(db.pragma('integrity_check', { simple: true })).toBe('ok');
    await checkpoint(b.path);
    expectSameFile(a.path, b.path);
  }
}

/** A file that has nothing to do with walship. */
export function plainDatabase(name: string, make: (db: Sqlite.Database) => void): string {
  const path = join(base, name);
  const db = new Sqlite(path);
  make(db);
  db.close();
  return path;
}

export const walFileOf = (path: string): string | undefined =>
  existsSync(`${path}-wal`) ? `${path}-wal` : undefined;

export function codeOf(call: () => unknown): string {
  try {
    call();
  } catch (error) {
    return (error as { code: string }).code;
  }
  return '';
}

export async function codeOfPromise(promise: Promise<unknown>): Promise<string> {
  return promise.then(
    () => '',
    (error: { code: string }) => error.code,
  );
}

// The load: pgbench, and one client that keeps account of what it was told is done. Both find the primary by themselves,
// with nothing but libpq's target_session_attrs over all hosts.
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { binDir, type Host, psql } from './host.js';

export const pgbenchClients = 4;
const againMs = 20;

/** How a client of PostgreSQL finds the primary server. */
export function anywhere(hosts: readonly Host[]): string {
  const [sockets, ports] = ['host', 'port'].map((key) =>
    hosts.map(({ conninfo }) => new RegExp(`${key}=(\\S+)`).exec(conninfo)?.[1]).join(','),
  );
  return `host=${sockets} port=${ports} user=postgres dbname=postgres target_session_attrs=read-write connect_timeout=2`;
}

/** What pgbench says of itself, every second. */
export interface Progress {
  readonly perSecond: number;
  readonly latencyMs: number;
}

/** pgbench, begun again each time that its server dies. */
export class Pgbench {
  readonly #conninfo: string;
  readonly #onProgress: (progress: Progress) => void;
  /** Transactions that pgbench says were done. */
  done = 0;
  /** Transactions that may be there or not: they were under way when their server died. */
  unknown = 0;

  constructor(conninfo: string, onProgress: (progress: Progress) => void) {
    this.#conninfo = conninfo;
    this.#onProgress = onProgress;
  }

  async run(seconds: number): Promise<void> {
    const end = performance.now() + seconds * 1000;
    for (;;) {
      const left = Math.round((end - performance.now()) / 1000);
      if (left <= 0) return;
      if (!(await this.#once(left))) await new Promise((wake) => setTimeout(wake, againMs));
    }
  }

  /** @returns false: it could not even begin */
  async #once(seconds: number): Promise<boolean> {
    const clients = String(pgbenchClients);
    const args = ['-n', '-c', clients, '-j', '1', '-T', String(seconds), '-P', '1', this.#conninfo];
    const child = spawn(join(binDir, 'pgbench'), args, { stdio: ['ignore', 'pipe', 'pipe'] });
    let output = '';
    child.stdout.on('data', (text) => {
      output += text;
    });
    createInterface({ input: child.stderr }).on('line', (line) => {
      const [, perSecond, latencyMs] = /^progress: .* s, ([\d.]+) tps, lat ([\d.]+) ms/.exec(line) ?? [];
      if (latencyMs !== undefined)
        this.#onProgress({ perSecond: Number(perSecond), latencyMs: Number(latencyMs) });
    });
    const code = await new Promise((resolve) => child.on('close', resolve));
    const said = /number of transactions actually processed: (\d+)/.exec(output)?.[1];
    this.done += Number(said ?? 0);
    if (said !== undefined && code !== 0) this.unknown += pgbenchClients;
    return said !== undefined;
  }
}

/** One transaction after the other, each a number; what was acknowledged is kept here, outside of every server. */
export class Bookkeeper {
  readonly acknowledged: number[] = [];
  readonly #conninfo: string;
  #next = 1;
  #running: Promise<void> | undefined;
  #stopped = false;
  #acknowledgedAt = 0;
  #longestPauseMs = 0;
  #latenciesMs: number[] = [];
  #onAcknowledged: (() => void) | undefined;

  constructor(conninfo: string) {
    this.#conninfo = conninfo;
  }

  start(): void {
    this.#stopped = false;
    this.#acknowledgedAt = performance.now();
    this.#longestPauseMs = 0;
    this.#running = this.#run();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#running;
  }

  /** Resolves at the next acknowledgement of a transaction that begins from now on. */
  next(): Promise<void> {
    return new Promise((resolve) => {
      this.#onAcknowledged = resolve;
    });
  }

  /** Without an acknowledgement, since start(). */
  get longestPauseMs(): number {
    return this.#longestPauseMs;
  }

  /** Since the last call, ascending; connecting included. */
  takeLatencies(): Float64Array {
    const taken = Float64Array.from(this.#latenciesMs).sort();
    this.#latenciesMs = [];
    return taken;
  }

  async #run(): Promise<void> {
    while (!this.#stopped) {
      const n = this.#next++;
      const awaited = this.#onAcknowledged;
      const from = performance.now();
      try {
        await psql(this.#conninfo, `insert into ledger values (${n})`);
      } catch {
        await new Promise((wake) => setTimeout(wake, againMs));
        continue;
      }
      const now = performance.now();
      this.acknowledged.push(n);
      this.#latenciesMs.push(now - from);
      this.#longestPauseMs = Math.max(this.#longestPauseMs, now - this.#acknowledgedAt);
      this.#acknowledgedAt = now;
      if (awaited && awaited === this.#onAcknowledged) {
        this.#onAcknowledged = undefined;
        awaited();
      }
    }
  }
}

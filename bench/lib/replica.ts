// A process of its own for one node of a replicated SQLite database. Does what its parent says over IPC; ends with it.
import { performance } from 'node:perf_hooks';
import { setTimeout as delay } from 'node:timers/promises';
import Sqlite from 'better-sqlite3';
import { openReplicated, type Replicated, type ReplicatedOptions } from '../../src/index.js';
import { serve } from './serve.js';
import { quantile } from './statistics.js';

export interface Rate {
  readonly perSecond: number;
  readonly p50Us: number;
  readonly p99Us: number;
}

/** Which database of this process: the replicated one, or one beside it that nobody replicates. */
export type Which = 'replicated' | 'plain';

let node: Replicated | undefined;
let plain: Sqlite.Database | undefined;

function database(which: Which): Sqlite.Database {
  const found = which === 'plain' ? plain : node?.db;
  if (!found) throw new Error('nothing is open in this process');
  return found;
}

const schema = 'CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, at REAL, data TEXT)';
const insertion = 'INSERT INTO t (at, data) VALUES (?, ?)';
const row = 'x'.repeat(100);
const nowMs = () => performance.timeOrigin + performance.now();

function rate(times: readonly number[], seconds: number, count = times.length): Rate {
  const all = Float64Array.from(times);
  return { perSecond: count / seconds, p50Us: quantile(all, 0.5), p99Us: quantile(all, 0.99) };
}

const calls = {
  /** The plain database is opened first: its connection knows nothing of walship's VFS. */
  async open({ options, plainPath }: { options: ReplicatedOptions; plainPath: string }): Promise<number> {
    plain = new Sqlite(plainPath);
    plain.pragma('journal_mode = WAL');
    plain.exec(schema);
    node = await openReplicated(options);
    if (node.role === 'primary') node.db.exec(schema);
    return node.engine.listenPort;
  },
  async close(): Promise<void> {
    plain?.close();
    await node?.close();
  },
  async setCommitMode(mode: 'async' | 'wait'): Promise<void> {
    node?.setCommitMode(mode);
  },
  committed: (): Promise<bigint> => (node as Replicated).committed(),
  async reached(lsn: bigint): Promise<void> {
    await (node as Replicated).readAt(lsn, 60_000);
  },
  /** One row after the other, each a transaction of its own. */
  async autocommit({ which, seconds }: { which: Which; seconds: number }): Promise<Rate> {
    const insert = database(which).prepare(insertion);
    const times: number[] = [];
    const start = performance.now();
    let before = start;
    while (before - start < seconds * 1000) {
      insert.run(0, row);
      const after = performance.now();
      times.push((after - before) * 1000);
      before = after;
    }
    return rate(times, (before - start) / 1000);
  },
  /** Transactions of 10,000 rows. */
  async bulk({ which, seconds }: { which: Which; seconds: number }): Promise<Rate> {
    const insert = database(which).prepare(insertion);
    const rows = 10_000;
    const batch = database(which).transaction(() => {
      for (let i = 0; i < rows; i++) insert.run(0, row);
    });
    const times: number[] = [];
    const start = performance.now();
    let before = start;
    while (before - start < seconds * 1000) {
      batch();
      const after = performance.now();
      times.push((after - before) * 1000);
      before = after;
      await delay(0); // the event loop turns, as in any program
    }
    return rate(times, (before - start) / 1000, times.length * rows);
  },
  /** Commits at a pace, each with the time at which it was made. */
  async paced({ perSecond, seconds }: { perSecond: number; seconds: number }): Promise<number> {
    const insert = database('replicated').prepare(insertion);
    const start = performance.now();
    let done = 0;
    for (let now = start; now - start < seconds * 1000; now = performance.now()) {
      for (; done < ((now - start) / 1000) * perSecond; done++) insert.run(nowMs(), row);
      await delay(1);
    }
    return done / seconds;
  },
  /** How old the newest row is that a reader here sees, looked at every millisecond or so. */
  async staleness({ seconds }: { seconds: number }): Promise<Rate> {
    const newest = database('replicated').prepare('SELECT at FROM t ORDER BY id DESC LIMIT 1').pluck();
    const times: number[] = [];
    const start = performance.now();
    while (performance.now() - start < seconds * 1000) {
      await delay(1);
      times.push((nowMs() - (newest.get() as number)) * 1000);
    }
    return rate(times, seconds);
  },
  /** Rows read by their key. */
  async reads({ which, seconds }: { which: Which; seconds: number }): Promise<Rate> {
    const read = database(which).prepare('SELECT data FROM t WHERE id = ?');
    const times: number[] = [];
    const start = performance.now();
    let before = start;
    for (let id = 1; before - start < seconds * 1000; id = (id % 1000) + 1) {
      read.get(id);
      const after = performance.now();
      times.push((after - before) * 1000);
      before = after;
    }
    return rate(times, (before - start) / 1000);
  },
};

export type ReplicaCalls = typeof calls;

serve(calls);

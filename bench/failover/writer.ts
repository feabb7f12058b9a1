// A client of a cluster of PostgreSQL servers, as libpq makes it: all hosts, and whoever takes writes.
import { setTimeout as sleep } from 'node:timers/promises';
import { nativePostgres } from '../../src/databases/postgres/native.js';
import { settled } from '../../src/engine/native.js';

/** The first column of the first row, over a connection of its own. */
export async function query(conninfo: string, text: string, timeoutMs = 5000): Promise<string> {
  return (
    (await settled(nativePostgres.queryPostgres(`${conninfo} dbname=postgres`, text, timeoutMs)))[0] ?? ''
  );
}

interface Acknowledged {
  readonly n: number;
  readonly atMs: number;
  /** The data directory of the server that has taken it. */
  readonly by: string;
}

/** Writes one number after the other, each over a new connection to whichever host takes writes. */
export class Writer {
  readonly acknowledged: Acknowledged[] = [];
  readonly #conninfo: string;
  #stopped = false;
  readonly #ended: Promise<void>;

  /** @param hosts libpq's connection string, with all of them; there is a table `mark (n int)` */
  constructor(hosts: string) {
    this.#conninfo = `${hosts} connect_timeout=2 target_session_attrs=read-write`;
    this.#ended = this.#run();
  }

  /** The first one that was acknowledged after `sinceMs`, by another server than `not`. */
  async next(sinceMs: number, not: string, timeoutMs: number): Promise<Acknowledged> {
    for (const end = performance.now() + timeoutMs; performance.now() < end; await sleep(5)) {
      const found = this.acknowledged.find(({ atMs, by }) => atMs > sinceMs && by !== not);
      if (found) return found;
    }
    throw new Error(`no other server took a write within ${timeoutMs} ms`);
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#ended;
  }

  async #run(): Promise<void> {
    for (let n = 1; !this.#stopped; n++) {
      try {
        const text = `insert into mark values (${n}) returning current_setting('data_directory')`;
        const by = await query(this.#conninfo, text);
        this.acknowledged.push({ n, atMs: performance.now(), by });
      } catch {
        // The next try finds another one.
      }
      await sleep(5);
    }
  }
}

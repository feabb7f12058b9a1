// `kill -9` of the primary while it writes: what was acknowledged is there afterwards, on the standby and on the primary
// itself, and a transaction is there whole or not at all. How often: WALSHIP_SQLITE_KILLS.
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { base, Child, checkpoint, expectSameFile, onEnd, options, pause } from './support.js';

const kills = Number(process.env['WALSHIP_SQLITE_KILLS'] ?? 16);
const accounts = 20;
const total = accounts * 1000;

interface Books {
  total: number;
  rows: number;
  last: number;
}

const books = `select (select sum(balance) from account) total, (select count(*) from journal) rows,
  (select coalesce(max(seq), 0) from journal) last`;

/** One of the two nodes; its process is another one after each kill, its port stays. */
class Seat {
  readonly name: string;
  process = new Child();
  port = 0;

  constructor(name: string) {
    this.name = name;
  }

  get path(): string {
    return join(base, `${this.name}.db`);
  }

  async open(upstream?: Seat, commitMode: 'async' | 'wait' = 'async'): Promise<void> {
    this.port = await this.process.open(
      options(this.name, {
        commitMode,
        listen: `127.0.0.1:${this.port}`,
        commitRule: { level: 'flushed', any: 1 },
        checkpoint: { everyMs: 40, walBytes: 256 * 1024 },
        ...(upstream && { upstream: { address: `127.0.0.1:${upstream.port}` } }),
      }),
    );
  }

  async kill(): Promise<void> {
    await this.process.kill();
    this.process = new Child();
  }
}

async function readBooks(seat: Seat): Promise<Books> {
  const [found] = await seat.process.all<Books>(books);
  expect(await seat.process.pragma('integrity_check')).toBe('ok');
  return found as Books;
}

function expectWhole(found: Books, acknowledged: number): void {
  expect(found.total).toBe(total);
  expect(found.rows).toBe(found.last);
  expect(found.last).toBeGreaterThanOrEqual(acknowledged);
}

/** The standby has the log; what is acknowledged becomes visible as soon as it is applied. */
async function awaitBooks(seat: Seat, acknowledged: number): Promise<Books> {
  for (const until = performance.now() + 10_000; ; await pause(2)) {
    const found = await readBooks(seat);
    expect(found.total).toBe(total);
    expect(found.rows).toBe(found.last);
    if (found.last >= acknowledged || performance.now() > until) return found;
  }
}

test(`${kills} kills of the primary, at any moment`, { timeout: 60_000 + kills * 3000 }, async () => {
  let primary = new Seat('a');
  let standby = new Seat('b');
  onEnd(() => Promise.all([primary.process.kill(), standby.process.kill()]).then(() => {}));
  await primary.open();
  await primary.process.exec(`create table account(id integer primary key, balance int);
    create table journal(seq integer primary key, note text);
    with recursive n(i) as (select 1 union all select i + 1 from n where i < ${accounts})
      insert into account select i, 1000 from n`);
  await standby.open(primary);
  await standby.process.readAt(await primary.process.committed(), 'select 1');
  let seed = 20260704;
  const random = (below: number) => {
    seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
    return (seed >>> 8) % below;
  };
  let acknowledgedAll = 0;
  let lostUnacknowledged = 0;
  for (let kill = 0; kill < kills; kill++) {
    await primary.process.transfers();
    await pause(random(120));
    const victim = primary.process;
    await primary.kill();
    const acknowledged = Math.max(acknowledgedAll, victim.acknowledged);
    expectWhole(await awaitBooks(standby, acknowledged), acknowledged);
    if (kill % 2 === 0) {
      // The same primary again, with everything that it had committed; its standby finds it by itself.
      await primary.open(undefined, kill % 4 === 0 ? 'wait' : 'async');
    } else {
      // The standby takes over, and the old primary comes back as a standby of it: without what it alone had.
      await standby.process.promote();
      [primary, standby] = [standby, primary];
      await standby.open(primary);
    }
    const after = await readBooks(primary);
    expectWhole(after, acknowledged);
    acknowledgedAll = after.last;
    const lsn = await primary.process.committed();
    const [there] = await standby.process.readAt<Books>(lsn, books);
    expect(there).toEqual(after);
    if (kill % 4 === 3) {
      await checkpoint(primary.path);
      await checkpoint(standby.path);
      expectSameFile(primary.path, standby.path);
    }
    lostUnacknowledged += after.last > acknowledged ? 1 : 0;
  }
  expect(acknowledgedAll).toBeGreaterThan(kills);
  // Some of them came between a commit and its acknowledgement, or the moments were not random.
  if (kills >= 16) expect(lostUnacknowledged).toBeGreaterThan(0);
  await primary.process.close();
  await standby.process.close();
  expectSameFile(primary.path, standby.path);
});

// Reading on a standby while another process commits on the primary, as fast as it can.
import Sqlite from 'better-sqlite3';
import { expect, test } from 'vitest';
import type { Replicated } from '../../../src/index.js';
import { child, codeOfPromise, expectSame, open, options, pair, pause, upstreamOf } from './support.js';

const schema = `create table pair(side text primary key, n int); insert into pair values ('left', 0), ('right', 0);
  create table stream(id integer primary key, v text)`;
/** Each commit adds one to all three, in three different pages and moments. */
const snapshot = `select (select n from pair where side = 'left') l, (select count(*) from stream) s,
  (select n from pair where side = 'right') r`;

function standbyOf(node: Replicated) {
  const { sqlite } = node.status();
  if (sqlite.role !== 'standby') throw new Error(`it is a ${sqlite.role}`);
  return sqlite;
}

interface Snapshot {
  l: number;
  s: number;
  r: number;
}

test('every snapshot is a committed state, never busy, and whole', async () => {
  const writer = child();
  const port = await writer.open(options('a', { commitRule: { level: 'received', any: 1 } }));
  await writer.exec(schema);
  const b = await open('b', {
    upstream: { address: `127.0.0.1:${port}` },
    checkpoint: { everyMs: 20, walBytes: 128 * 1024 },
  });
  await b.readAt(await writer.committed());
  // A connection of its own without any patience: SQLITE_BUSY would come at once.
  const impatient = new Sqlite(b.path, { readonly: true, timeout: 0 });
  const other = child();
  await other.plain(b.path);
  const reads = [b.db, impatient].map((db) => ({ db, ask: db.prepare(snapshot), last: 0, snapshots: 0 }));
  let commits = 0;
  let writes = true;
  // As long as it takes until each reader has seen enough different states.
  const stream = async () => {
    do {
      await writer.stream(1000, 0);
      commits += 1000;
    } while (
      commits < 3000 ||
      (commits < 20_000 && (far < 3 || reads.some(({ snapshots }) => snapshots < 60)))
    );
  };
  let rounds = 0;
  let far = 0;
  let farLast = 0;
  const ended = stream().finally(() => {
    writes = false;
  });
  while (writes) {
    for (const reader of reads) {
      const { l, s, r } = reader.ask.get() as Snapshot;
      expect(s).toBe(l);
      expect(r).toBe(l);
      expect(l).toBeGreaterThanOrEqual(reader.last);
      reader.snapshots += l > reader.last ? 1 : 0;
      reader.last = l;
    }
    if (rounds++ % 100 === 0) {
      expect(impatient.pragma('quick_check', { simple: true })).toBe('ok');
      const [{ l, s, r }] = (await other.all<Snapshot>(snapshot)) as [Snapshot];
      expect([s, r]).toEqual([l, l]);
      expect(l).toBeGreaterThanOrEqual(farLast);
      farLast = l;
      far++;
    }
    await new Promise((resolve) => setImmediate(resolve));
  }
  await ended;
  // Otherwise nothing was read meanwhile.
  for (const reader of reads) expect(reader.snapshots).toBeGreaterThan(50);
  expect(far).toBeGreaterThan(2);
  const db = await b.readAt(await writer.committed());
  expect(db.prepare(snapshot).get()).toEqual({ l: commits, s: commits, r: commits });
  expect(db.pragma('integrity_check', { simple: true })).toBe('ok');
  impatient.close();
});

test('readAt: what was written on the primary is there', async () => {
  const { a, b } = await pair();
  a.db.exec('create table t(id integer primary key, v text)');
  const insert = a.db.prepare('insert into t(v) values (?)');
  for (let i = 1; i <= 200; i++) {
    insert.run(`v${i}`);
    const db = await b.readAt(await a.lsn());
    expect(db.prepare('select max(id) m from t').get()).toEqual({ m: i });
  }
  expect(await codeOfPromise(b.readAt((await a.lsn()) + 1n, 50))).toBe('WALSHIP_ERR_TIMEOUT');
  await expectSame(a, b);
});

test('an old snapshot stays what it was, and the WAL begins anew when it is let go', async () => {
  const { a, b } = await pair({ checkpoint: { everyMs: 20, walBytes: 65536 } });
  const c = await open('c', { upstream: upstreamOf(b), checkpoint: { everyMs: 20, walBytes: 65536 } });
  a.db.exec(schema);
  await c.readAt(await a.committed());
  const step = a.db.transaction(() => {
    a.db.exec('update pair set n = n + 1');
    a.db.prepare('insert into stream(v) values (?)').run('x'.repeat(500));
  });
  step();
  await c.readAt(await a.committed());
  const old = new Sqlite(c.path, { readonly: true });
  old.exec('begin');
  expect(old.prepare(snapshot).get()).toEqual({ l: 1, s: 1, r: 1 });
  for (let i = 0; i < 600; i++) {
    step();
    if (i % 100 === 0) {
      // The newest is there beside it.
      const db = await c.readAt(await a.lsn());
      expect(db.prepare(snapshot).get()).toEqual({ l: i + 2, s: i + 2, r: i + 2 });
      expect(old.prepare(snapshot).get()).toEqual({ l: 1, s: 1, r: 1 });
    }
  }
  await c.readAt(await a.committed());
  await pause(100);
  const held = standbyOf(c);
  expect(held.blockedMs).toBeGreaterThan(0);
  expect(held.walBytes).toBeGreaterThan(600 * 4096);
  expect(old.prepare(snapshot).get()).toEqual({ l: 1, s: 1, r: 1 });
  expect(old.pragma('integrity_check', { simple: true })).toBe('ok');
  old.exec('commit');
  old.close();
  const until = performance.now() + 5000;
  while (standbyOf(c).walBytes > 200_000 && performance.now() < until) {
    step();
    await pause(20);
  }
  expect(standbyOf(c).walBytes).toBeLessThanOrEqual(200_000);
  await expectSame(a, b, c);
});

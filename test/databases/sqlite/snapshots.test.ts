// Nodes that the log alone cannot bring up to date: new ones and those that were away for too long.
import { existsSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { setLogAside, snapshotDue } from '../../../src/databases/sqlite/snapshots.js';
import { eventsOf, open, options, upstreamOf } from './support.js';

const KiB = 1024;
const MiB = 1024 * KiB;
/** Trims as soon as it can: 1 MiB is kept, whoever needs more. */
const small = { log: { ...options('x').log, segmentBytes: MiB, retainBytes: MiB, retainBytesMax: MiB } };

describe('the log', () => {
  test.each([
    ['holds everything from its first byte on', 0n, 0n, 'no'],
    ['still holds the last snapshot', 500n, 500n, 'no'],
    ['has lost it', 501n, 500n, 'yes'],
    ['has been trimmed, and there was none in this run', 1n, 0n, 'yes'],
  ] as const)('%s', (_, firstLsn, snapshotLsn, due) => {
    const facts = { firstLsn, snapshotLsn, databaseBytes: 100, retainBytes: 200 };
    expect(snapshotDue(facts)).toBe(due);
    expect(snapshotDue({ ...facts, databaseBytes: 101 })).toBe(due === 'yes' ? 'too-large' : 'no');
  });

  test('that is not there is not set aside', () => {
    expect(setLogAside('/nowhere/at/all', new Date())).toBeUndefined();
  });
});

async function write(node: Awaited<ReturnType<typeof open>>, bytes: number): Promise<bigint> {
  const insert = node.db.prepare('INSERT OR REPLACE INTO t VALUES (?, randomblob(8000))');
  for (let done = 0; done < bytes; done += 8000) insert.run((done / 8000) % 40);
  return node.committed();
}

test('a standby that comes when the log no longer reaches back gets the whole database, while the primary writes', async () => {
  const a = await open('a', small);
  a.db.exec('CREATE TABLE t (id INTEGER PRIMARY KEY, data BLOB)');
  await write(a, 6 * MiB);
  await expect.poll(() => a.status().log.firstLsn, { timeout: 10_000 }).toBeGreaterThan(0n);
  await expect
    .poll(() => a.status().sqlite, { timeout: 10_000 })
    .toMatchObject({ role: 'primary', snapshots: 2 });
  const b = await open('b', { ...small, upstream: upstreamOf(a) });
  const writing = write(a, 200 * KiB);
  const lsn = await writing;
  const rows = 'SELECT id, hex(data) FROM t ORDER BY id';
  expect((await b.readAt(lsn)).prepare(rows).all()).toEqual(a.db.prepare(rows).all());
  expect(b.db.pragma('integrity_check', { simple: true })).toBe('ok');
});

test('a standby that was away for too long is refused; reseed sets its log aside and begins anew', async () => {
  const a = await open('a', small);
  a.db.exec('CREATE TABLE t (id INTEGER PRIMARY KEY, data BLOB)');
  const b = await open('b', { ...small, upstream: upstreamOf(a) });
  await b.readAt(await write(a, 100 * KiB));
  await b.close();
  await write(a, 8 * MiB);
  const again = await open('b', { ...small, upstream: upstreamOf(a) });
  await expect
    .poll(() => eventsOf(again).map(({ code }) => code), { timeout: 10_000 })
    .toContain('WALSHIP_ERR_TOO_FAR_BEHIND');
  expect(again.db.prepare('SELECT count(*) AS rows FROM t').get()).toEqual({ rows: 13 });
  await expect(open('b', { ...small, upstream: upstreamOf(a), reseed: true })).rejects.toMatchObject({
    code: 'WALSHIP_ERR_LOG_LOCKED',
  });
  await again.close();

  const seeded = await open('b', { ...small, upstream: upstreamOf(a), reseed: true });
  expect(existsSync(String(seeded.logSetAside))).toBe(true);
  const lsn = await write(a, 100 * KiB);
  const rows = 'SELECT id, hex(data) FROM t ORDER BY id';
  expect((await seeded.readAt(lsn)).prepare(rows).all()).toEqual(a.db.prepare(rows).all());
  expect(seeded.db.pragma('integrity_check', { simple: true })).toBe('ok');
});

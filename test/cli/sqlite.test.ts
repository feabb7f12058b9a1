// walship sqlite: on the files of a primary and a standby that are closed.
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import Database from 'better-sqlite3';
import { expect, test } from 'vitest';
import { formatLsn, type Lsn, openReplicated, type Replicated, restoreDatabase } from 'walship';
import { scratch, walship } from './support.js';

const cluster = { id: 'cli', secret: 'a secret of the command line tests' };
const small = {
  cluster,
  listen: '127.0.0.1:0',
  transport: 'tcp',
  log: { pageBytes: 64 << 10, segmentBytes: 1 << 20, spareSegments: 1 },
  arena: { bytes: 4 << 20, hugePages: false },
} as const;

const open = (dir: string, name: string, more = {}): Promise<Replicated> =>
  openReplicated({ ...small, path: join(dir, `${name}.db`), nodeId: name, ...more });

interface Moment {
  readonly lsn: Lsn;
  /** By a clock that read so between this transaction and the next. */
  readonly time: string;
  readonly rows: number;
}

/** Rows in `file`, by stock SQLite. */
function rowsIn(file: string): number {
  const database = new Database(file, { fileMustExist: true });
  expect(database.pragma('integrity_check', { simple: true })).toBe('ok');
  const { rows } = database.prepare('SELECT count(*) AS rows FROM t').get() as { rows: number };
  database.close();
  return rows;
}

const state = (dir: string) =>
  readdirSync(dir, { recursive: true })
    .map((each) => join(dir, String(each)))
    .filter((file) => statSync(file).isFile())
    .map((file) => [file, statSync(file).mtimeMs, readFileSync(file).toString('base64')]);

/** A primary `a` and a standby `b`, closed; and what the primary was at several moments. */
async function history(dir: string, existing: boolean): Promise<Moment[]> {
  const moments: Moment[] = [];
  if (existing) {
    const database = new Database(join(dir, 'a.db'));
    database.exec(`CREATE TABLE t (id INTEGER PRIMARY KEY, v BLOB);
                   WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)
                   INSERT INTO t SELECT i, randomblob(3000) FROM n`);
    database.close();
  }
  const a = await open(dir, 'a');
  if (!existing) a.db.exec('CREATE TABLE t (id INTEGER PRIMARY KEY, v BLOB)');
  const b = await open(dir, 'b', { upstream: { address: `127.0.0.1:${a.engine.listenPort}` } });
  const insert = a.db.prepare('INSERT INTO t (v) VALUES (randomblob(?))');
  let rows = existing ? 300 : 0;
  const mark = async () => {
    const lsn = await a.lsn();
    await sleep(5);
    moments.push({ lsn, time: new Date().toISOString(), rows });
    await sleep(5);
  };
  await mark();
  for (let i = 0; i < 20; i++) insert.run(2000);
  rows += 20;
  await mark();
  // Several records: more than 1 MiB in one transaction.
  a.db.transaction(() => {
    for (let i = 0; i < 600; i++) insert.run(4000);
  })();
  rows += 600;
  await mark();
  a.db.exec('DELETE FROM t WHERE id % 2 = 0');
  rows /= 2;
  await mark();
  a.db.exec('VACUUM');
  await mark();
  a.db.transaction(() => {
    for (let i = 0; i < 100; i++) insert.run(1000);
  })();
  rows += 100;
  await mark();
  await b.readAt((moments.at(-1) as Moment).lsn);
  await a.close();
  await b.close();
  return moments;
}

test.each([true, false])('restores every moment; database there before: %s', async (existing) => {
  const dir = scratch();
  const moments = await history(dir, existing);
  const end = moments.at(-1) as Moment;
  const before = state(dir);
  const out = join(scratch(), 'out');
  mkdirSync(out);
  for (const node of ['a', 'b']) {
    for (const [i, { lsn, time, rows }] of moments.entries()) {
      for (const to of [formatLsn(lsn), time]) {
        const file = join(out, `${node}-${i}-${to.includes('/') ? 'lsn' : 'time'}.db`);
        const restored = await walship(['sqlite', 'restore', join(dir, `${node}.db-log`), file, '--to', to]);
        expect(restored).toMatchObject({ code: 0, stderr: '' });
        expect(restored.stdout).toContain(`${file}: LSN ${formatLsn(lsn)}, 20`);
        expect(restored.stdout).toMatch(/\n\d+ transactions? from the .* LSN .*; integrity_check ok\n$/);
        expect(rowsIn(file)).toBe(rows);
      }
    }
  }
  // One byte less: the transaction before.
  const file = join(out, 'less.db');
  const { reached, transactions } = await restoreDatabase(join(dir, 'b.db-log'), file, { lsn: end.lsn - 1n });
  expect(reached.lsn).toBe((moments.at(-2) as Moment).lsn);
  expect(transactions).toBeGreaterThan(20);
  expect(rowsIn(file)).toBe((moments.at(-2) as Moment).rows);
  // Nothing but the files asked for, and nothing changed.
  expect(readdirSync(out).filter((name) => !/^([ab]-\d-(lsn|time)|less)\.db$/.test(name))).toEqual([]);
  expect(state(dir)).toEqual(before);

  // A whole restore is the database, byte for byte.
  const whole = join(out, 'whole.db');
  const outcome = await walship(['sqlite', 'restore', join(dir, 'a.db-log'), whole, '--json']);
  expect(JSON.parse(outcome.stdout)).toMatchObject({
    reached: { lsn: String(end.lsn) },
    fromSnapshot: true,
    integrity: [],
  });
  const database = new Database(join(dir, 'a.db'));
  database.pragma('wal_checkpoint(TRUNCATE)');
  database.close();
  expect(readFileSync(whole).equals(readFileSync(join(dir, 'a.db')))).toBe(true);
});

test('refuses to overwrite, and targets that are not there', async () => {
  const dir = scratch();
  const moments = await history(dir, false);
  const log = join(dir, 'a.db-log');
  const refused = async (message: RegExp, ...args: string[]) => {
    const outcome = await walship(['sqlite', 'restore', log, ...args]);
    expect(outcome.stderr).toMatch(message);
    expect(outcome).toMatchObject({ code: 1, stdout: '' });
  };
  const kept = readFileSync(join(dir, 'b.db'));
  await refused(/b\.db exists: a restore makes a new file.*\[WALSHIP_ERR_OUTPUT\]/, join(dir, 'b.db'));
  expect(readFileSync(join(dir, 'b.db')).equals(kept)).toBe(true);
  writeFileSync(join(dir, 'new.db-wal'), '');
  await refused(/new\.db-wal exists/, join(dir, 'new.db'));
  await refused(/cannot write the database.*\[WALSHIP_ERR_OUTPUT\]/, '/nowhere/new.db');
  const file = join(dir, 'x.db');
  const { lsn } = moments.at(-1) as Moment;
  await refused(
    /the log ends at LSN \d+, before LSN \d+ \[WALSHIP_ERR_LOG_RANGE\]/,
    file,
    '--to',
    String(lsn * 2n),
  );
  await refused(
    /holds no whole transaction at or before the target: its first one ends at LSN/,
    file,
    '--to',
    '1',
  );
  await refused(/no whole transaction.* committed 20.*Z/, file, '--to', '2001-01-01T00:00:00Z');
  // The first segment trimmed away, and with it the snapshot. VACUUM has written every page since, so the end can be had.
  const segments = readdirSync(log).filter((name) => /^[0-9a-f]{16}\.wal$/.test(name));
  expect(segments.length).toBeGreaterThan(2);
  for (const gone of ['mark', segments[0] as string]) rmSync(join(log, gone));
  await refused(
    /\d+ of \d+ pages are older than the log, which begins at LSN .*\[WALSHIP_ERR_LOG_TRIMMED\]/,
    file,
    '--to',
    String((moments[3] as Moment).lsn),
  );
  expect(existsSync(file) || existsSync(`${file}-restoring`)).toBe(false);
  const outcome = await walship(['sqlite', 'restore', log, file]);
  expect(outcome.stdout).toContain(' from the start of the log, LSN ');
  expect(rowsIn(file)).toBe((moments.at(-1) as Moment).rows);
});

test('check: finds the page that is wrong; status: the facts', async () => {
  const dir = scratch();
  const moments = await history(dir, true);
  const end = moments.at(-1) as Moment;
  for (const node of ['a', 'b']) {
    const before = state(dir);
    const right = await walship(['sqlite', 'check', join(dir, `${node}.db`)]);
    expect(right).toMatchObject({ code: 0, stderr: '' });
    expect(right.stdout).toMatch(/^(\d+) of \1 pages compared with the log; integrity_check ok\n/);
    expect(right.stdout).toContain(`\nthe database is what the log says at LSN ${formatLsn(end.lsn)}, 20`);

    const facts = await walship(['sqlite', 'status', join(dir, `${node}.db`)]);
    expect(facts).toMatchObject({ code: 0, stderr: '' });
    expect(facts.stdout).toMatch(new RegExp(`^role +${node === 'a' ? 'primary' : 'standby'}$`, 'm'));
    expect(facts.stdout).toMatch(new RegExp(`^applied +LSN ${formatLsn(end.lsn)} at least$`, 'm'));
    expect(facts.stdout).toMatch(/^state +closed cleanly$/m);
    expect(facts.stdout).toMatch(new RegExp(`^last commit +LSN ${formatLsn(end.lsn)}, 20`, 'm'));
    expect(facts.stdout).toMatch(/^snapshot +LSN/m);
    expect(state(dir)).toEqual(before);
  }

  // Restored, and so at another LSN than the end.
  const middle = moments[2] as Moment;
  const older = join(dir, 'older.db');
  await restoreDatabase(join(dir, 'a.db-log'), older, { lsn: middle.lsn });
  const restored = await walship(['sqlite', 'check', older, '--log', join(dir, 'b.db-log')]);
  expect(restored.stdout).toContain(`the database is what the log says at LSN ${formatLsn(middle.lsn)}, 20`);

  // One bit, in a page that SQLite's integrity check has no sum for.
  const damaged = join(dir, 'damaged.db');
  copyFileSync(older, damaged);
  const bytes = readFileSync(damaged);
  const page = 200;
  bytes[page * 4096 - 10] = (bytes[page * 4096 - 10] as number) ^ 1;
  writeFileSync(damaged, bytes);
  const found = await walship(['sqlite', 'check', damaged, '--log', join(dir, 'a.db-log')]);
  expect(found.code).toBe(4);
  expect(found.stdout).toContain(
    `PROBLEM  1 page not as the log says; it comes closest to LSN ${formatLsn(middle.lsn)}`,
  );
  expect(found.stdout).toMatch(/^different: page 200 at offset 815104$/m);
  writeFileSync(damaged, bytes.subarray(0, bytes.length - 4096));
  const short = await walship(['sqlite', 'check', damaged, '--log', join(dir, 'a.db-log')]);
  expect(short.code).toBe(4);
  expect(short.stdout).toMatch(/PROBLEM {2}2 pages not as the log says/);
  expect(short.stdout).toMatch(/^it has (\d+) pages, the log says \d+$/m);
  writeFileSync(damaged, 'no database at all, but longer than the header of one'.repeat(100));
  const none = await walship(['sqlite', 'check', damaged, '--log', join(dir, 'a.db-log')]);
  expect(none).toMatchObject({
    code: 1,
    stderr: expect.stringMatching(/is no SQLite database.*WALSHIP_ERR_SQLITE/),
  });

  // While a node runs: restore and status read, check waits for its end.
  const a = await open(dir, 'a');
  a.db.exec('DELETE FROM t');
  const lsn = await a.committed();
  const busy = await walship(['sqlite', 'check', join(dir, 'a.db')]);
  expect(busy).toMatchObject({
    code: 1,
    stderr: expect.stringMatching(/stop the node first.*WALSHIP_ERR_LOG_LOCKED/),
  });
  const live = join(dir, 'live.db');
  const during = await walship(['sqlite', 'restore', join(dir, 'a.db-log'), live, '--to', formatLsn(lsn)]);
  expect(during).toMatchObject({ code: 0, stderr: '' });
  expect(rowsIn(live)).toBe(0);
  const running = JSON.parse((await walship(['sqlite', 'status', join(dir, 'a.db'), '--json'])).stdout);
  expect(running).toMatchObject({
    sidecar: { role: 'primary' },
    log: { inUse: true, last: { lsn: String(lsn) } },
  });
  await a.close();
});

test.each([
  [['status'], 2, /missing required argument 'database'/],
  [['restore', 'x', 'y', '--to', 'yesterday'], 2, /'yesterday' is invalid. It must be an LSN.* or a time/],
  [['restore', 'x', 'y', '--to', '2026-05-01'], 2, /It must be an LSN, such as 0\/16B3740, or a time/],
  [['restore', 'x', 'y', '--to', '0/16B3740/2'], 2, /is not an LSN/],
  [['restore', '/nowhere', '/tmp/nowhere.db'], 1, /nowhere does not exist.*\[WALSHIP_ERR_LOG_NOT_FOUND\]/],
  [['check', '/nowhere/x.db'], 1, /\/nowhere\/x\.db does not exist \[WALSHIP_ERR_SQLITE\]/],
  [['status', '/nowhere/x.db'], 1, /\/nowhere\/x\.db does not exist \[WALSHIP_ERR_SQLITE\]/],
  [['check', 'x', '--all'], 2, /unknown option '--all'/],
  [['chek', 'x'], 2, /unknown command 'chek'\n\(Did you mean check\?\)/],
])('sqlite %j', async (args, code, message) => {
  const outcome = await walship(['sqlite', ...args], '/');
  expect(outcome.stderr).toMatch(message);
  expect(outcome.code).toBe(code);
});

test('help shows how', async () => {
  for (const command of ['status', 'restore', 'check']) {
    const { code, stdout } = await walship(['sqlite', command, '--help']);
    expect(code).toBe(0);
    expect(stdout).toMatch(new RegExp(`Examples?:\\n {2}\\$ walship sqlite ${command} `));
  }
});

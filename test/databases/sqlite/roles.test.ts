// Who writes, who follows, and how they change places; what an old primary had alone is taken back.
import { existsSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import Sqlite from 'better-sqlite3';
import { describe, expect, test } from 'vitest';
import { openReplicated, type Replicated, type ReplicatedOptions, WalshipError } from '../../../src/index.js';
import {
  base,
  child,
  codeOf,
  codeOfPromise,
  eventsOf,
  expectSame,
  expectSameFile,
  open,
  options,
  pair,
  pause,
  upstreamOf,
} from './support.js';

const rows = (node: Replicated): unknown[] => node.db.prepare('select v from t order by id').pluck().all();

function fill(node: Replicated, ...values: string[]): void {
  node.db.exec('create table if not exists t(id integer primary key, v text)');
  for (const value of values) node.db.prepare('insert into t(v) values (?)').run(value);
}

describe('a change of roles', () => {
  test('promote and follow, to and fro, with everybody open', async () => {
    const { a, b } = await pair();
    fill(a, 'a1');
    await b.readAt(await a.committed());
    const roles: string[] = [];
    for (const [name, node] of [
      ['a', a],
      ['b', b],
    ] as const)
      node.on('role', (role) => roles.push(`${name} ${role}`));
    let [primary, standby] = [a, b];
    for (let round = 0; round < 6; round++) {
      const before = standby.db;
      await standby.readAt(await primary.committed());
      const old = upstreamOf(standby);
      await standby.promote();
      await primary.follow(old);
      [primary, standby] = [standby, primary];
      // Another object: the old one is closed.
      expect(before.open).toBe(false);
      expect(primary.role).toBe('primary');
      expect(standby.role).toBe('standby');
      primary.engine.setCommitRule({ level: 'flushed', any: 1 });
      fill(primary, `round ${round}`);
      await expectSame(primary, standby);
    }
    expect(rows(standby)).toEqual(['a1', ...[0, 1, 2, 3, 4, 5].map((round) => `round ${round}`)]);
    expect(roles.filter((role) => role.endsWith('primary'))).toHaveLength(6);
    // None of them needed the database anew.
    expect(primary.status().sqlite).toMatchObject({ role: 'primary', snapshots: 0 });
  });

  test('a chain: the middle one is promoted, the last one goes on', async () => {
    const { a, b } = await pair();
    const c = await open('c', { upstream: upstreamOf(b) });
    fill(a, 'one', 'two');
    await expectSame(a, b, c);
    await a.close();
    await b.promote();
    fill(b, 'three');
    await expectSame(b, c);
    expect(rows(c)).toEqual(['one', 'two', 'three']);
  });

  test('close and reopen, again and again, is not a new beginning', async () => {
    const { a, b } = await pair();
    fill(a, 'first');
    await expectSame(a, b);
    await a.close();
    await b.close();
    for (let round = 0; round < 4; round++) {
      const again = await open('a', { commitRule: { level: 'flushed', any: 1 } });
      const there = await open('b', { upstream: upstreamOf(again) });
      fill(again, `round ${round}`);
      await expectSame(again, there);
      expect(again.status().sqlite).toMatchObject({ role: 'primary', snapshots: 0 });
      expect(there.status().sqlite.problem).toBeUndefined();
      if (round % 2 === 0) await there.close();
      await again.close();
      await there.close();
    }
  });

  test('a file that others have changed while no node had it comes into the log whole', async () => {
    const { a, b } = await pair();
    fill(a, 'first');
    await expectSame(a, b);
    await a.close();
    const other = new Sqlite(a.path);
    other.exec("insert into t(v) values ('behind our back')");
    other.close();
    const again = await open('a', { commitRule: { level: 'flushed', any: 1 } });
    await b.follow(upstreamOf(again));
    expect(again.status().sqlite).toMatchObject({ role: 'primary', snapshots: 1 });
    await expectSame(again, b);
    expect(rows(b)).toEqual(['first', 'behind our back']);
  });

  test('what is called after close says so', async () => {
    const { a, b } = await pair();
    fill(a, 'first');
    await b.readAt(await a.committed());
    await Promise.all([b.close(), a.close()]);
    const closed = 'WALSHIP_ERR_CLOSED';
    expect(codeOf(() => a.db)).toBe(closed);
    for (const call of [
      a.committed(),
      a.lsn(),
      a.promote(),
      a.follow({ address: '127.0.0.1:1' }),
      b.readAt(1n),
    ])
      expect(await codeOfPromise(call)).toBe(closed);
    await a.close();
  });
});

describe('the return of an old primary', () => {
  /** Files that hold what was taken back. */
  const kept = (name: string): string[] => [
    ...readdirSync(join(base, `${name}.db-log`)).filter((file) => file.startsWith('diverged-')),
    ...readdirSync(base).filter((file) => file.startsWith(`${name}.db-lost-`)),
  ];

  test('closed with commits that no standby had', async () => {
    const { a, b } = await pair();
    fill(a, 'one', 'two');
    // Pages that the successor does not touch before the old primary is back.
    a.db.exec(`create table wide(id integer primary key, v text);
      with recursive n(i) as (select 1 union all select i + 1 from n where i < 300)
        insert into wide select i, hex(zeroblob(500)) from n;
      create table later(v blob)`);
    // Their last images lie far back in the log.
    for (let i = 0; i < 100; i++) a.db.exec('insert into later values (zeroblob(30000))');
    await expectSame(a, b);
    await b.close();
    fill(a, 'lost 1', 'lost 2');
    a.db.exec("update wide set v = 'lost' where id % 7 = 0; delete from wide where id > 250");
    a.db.exec("update t set v = 'changed' where id = 1; create table lost(x); create index lost_v on t(v)");
    a.db.prepare('insert into lost values (zeroblob(100000))').run();
    await a.close();
    const successor = await open('b', { commitRule: { level: 'flushed', any: 1 } });
    fill(successor, 'three');
    const back = await open('a', { upstream: upstreamOf(successor) });
    await expectSame(successor, back);
    expect(rows(back)).toEqual(['one', 'two', 'three']);
    expect(back.db.prepare("select count(*) c from wide where v <> 'lost'").get()).toEqual({ c: 300 });
    expect(codeOf(() => back.db.prepare('select * from lost'))).toBe('SQLITE_ERROR');
    expect(kept('a')).not.toEqual([]);
    expect(back.status().sqlite).toMatchObject({ role: 'standby', snapshotNeeded: false });
    expect(back.status().sqlite.problem).toBeUndefined();
  });

  test('without having been closed, while a reader looks on', async () => {
    const { a, b } = await pair();
    fill(a, 'one');
    await expectSame(a, b);
    await b.close();
    fill(a, 'lost 1');
    const successor = await open('b', { commitRule: { level: 'flushed', any: 1 } });
    fill(successor, 'two');
    const reader = new Sqlite(a.path, { readonly: true });
    const ask = reader.prepare('select v from t order by id').pluck();
    expect(ask.all()).toEqual(['one', 'lost 1']);
    await a.follow(upstreamOf(successor));
    const until = performance.now() + 10_000;
    let seen = ask.all();
    while (seen[1] !== 'two' && performance.now() < until) {
      expect([['one', 'lost 1'], ['one']]).toContainEqual(seen);
      await pause(1);
      seen = ask.all();
    }
    expect(seen).toEqual(['one', 'two']);
    reader.close();
    await expectSame(successor, a);
    expect(kept('a')).not.toEqual([]);
    expect(eventsOf(a).map((event) => event.type)).toContain('log-cut');
  });

  test('killed in the midst of it, several times', async () => {
    for (let round = 0; round < 3; round++) {
      const old = child();
      const port = await old.open(
        options('a', { commitRule: { level: 'flushed', any: 1 }, checkpoint: { everyMs: 10 } }),
      );
      await old.exec('create table if not exists t(id integer primary key, v text)');
      const standby = await open('b', { upstream: { address: `127.0.0.1:${port}` } });
      await standby.readAt(await old.committed());
      await standby.close();
      const lost = `insert into t(v) values (hex(zeroblob(${round * 4000 + 2000})))`;
      for (let i = 0; i < 20; i++) await old.run(lost);
      // The last of it may not even be in the log.
      const last = old.run(lost).catch(() => {});
      await old.kill();
      await last;
      const successor = await open('b', { commitRule: { level: 'flushed', any: 1 } });
      successor.db.prepare('insert into t(v) values (?)').run(`round ${round}`);
      const back = await open('a', { upstream: upstreamOf(successor) });
      await expectSame(successor, back);
      expect(rows(back)).toHaveLength(round + 1);
      expect(back.status().sqlite.problem).toBeUndefined();
      await back.close();
      await successor.close();
    }
    const files = kept('a');
    expect(files.length).toBeGreaterThanOrEqual(3);
    for (const file of files.filter((name) => name.startsWith('diverged-')))
      expect(statSync(join(base, 'a.db-log', file)).size).toBeGreaterThan(0);
  });
});

describe('a standby', () => {
  test('refuses every write and says where to write', async () => {
    const { a, b } = await pair();
    fill(a, 'one');
    const db = await b.readAt(await a.committed());
    const refusals = [
      () => db.prepare("insert into t(v) values ('x')").run(),
      () => db.prepare("insert into t(v) values ('x') returning id").get(),
      () => db.prepare('delete from t returning id').all(),
      () => [...db.prepare('update t set v = 1 returning id').iterate()],
      () => db.exec('create table u(x)'),
      () => db.pragma('user_version = 5'),
      () => db.transaction(() => db.prepare('delete from t').run())(),
    ];
    for (const refusal of refusals) {
      try {
        refusal();
        expect.unreachable();
      } catch (error) {
        expect(error, `${refusal}`).toBeInstanceOf(WalshipError);
        const { code, message, details } = error as WalshipError;
        expect(code).toBe('WALSHIP_ERR_SQLITE_STANDBY');
        expect(message).toContain(`127.0.0.1:${a.engine.listenPort}`);
        expect(details).toMatchObject({ upstream: `127.0.0.1:${a.engine.listenPort}` });
      }
    }
    // Whatever connection of this process.
    const other = new Sqlite(b.path);
    expect(codeOf(() => other.exec("insert into t(v) values ('x')"))).toBe('SQLITE_READONLY');
    expect(other.prepare('select v from t').pluck().all()).toEqual(['one']);
    other.close();
    fill(a, 'two');
    await expectSame(a, b);
    expect(rows(b)).toEqual(['one', 'two']);
  });

  test('notices a write of another process, says so and applies nothing more', async () => {
    const { a, b } = await pair();
    fill(a, 'one');
    await b.readAt(await a.committed());
    const stranger = child();
    await stranger.plain(b.path);
    await stranger.exec("insert into t(v) values ('foreign')");
    fill(a, 'two');
    await a.committed();
    const until = performance.now() + 5000;
    const foreign = 'WALSHIP_ERR_SQLITE_FOREIGN_WRITE';
    const told = () => eventsOf(b).some((event) => event.code === foreign);
    while (!told() && performance.now() < until) await pause(5);
    expect(told()).toBe(true);
    expect(b.status().sqlite.problem).toMatchObject({ code: foreign });
    expect(rows(b)).toEqual(['one', 'foreign']);
  });

  test('that has nothing yet says so', async () => {
    const b = await open('b', { upstream: { address: '127.0.0.1:1' } });
    expect(b.role).toBe('standby');
    expect(codeOf(() => b.db.prepare('select * from t'))).not.toBe('');
    expect(await codeOfPromise(b.readAt(1n, 50))).toBe('WALSHIP_ERR_TIMEOUT');
  });
});

describe('commitMode: wait', () => {
  test('a commit returns when the rule holds, and is on the standby', async () => {
    const { a, b } = await pair({ commitMode: 'wait', commitRule: { level: 'applied', any: 1 } });
    a.db.exec('create table t(id integer primary key, v text)');
    for (let i = 0; i < 50; i++) {
      a.db.prepare('insert into t(v) values (?)').run(`v${i}`);
      expect(b.db.prepare('select count(*) c from t').get()).toEqual({ c: i + 1 });
    }
    a.setCommitMode('async');
    fill(a, 'later');
    await expectSame(a, b);
  });

  test('without a standby it waits for commitTimeoutMs, and tells', async () => {
    const a = await open('a', {
      commitMode: 'wait',
      commitTimeoutMs: 60,
      commitRule: { level: 'received', any: 1 },
    });
    const started = performance.now();
    a.db.exec('create table t(id integer primary key, v text)');
    expect(performance.now() - started).toBeGreaterThan(50);
    const until = performance.now() + 5000;
    while (eventsOf(a).length === 0 && performance.now() < until) await pause(5);
    expect(eventsOf(a)).toContainEqual(
      expect.objectContaining({ type: 'sqlite-commit-timeout', code: 'WALSHIP_ERR_COMMIT_TIMEOUT' }),
    );
    const b = await open('b', { upstream: upstreamOf(a) });
    fill(a, 'one');
    await expectSame(a, b);
  });
});

describe('options', () => {
  test('every problem is told at once', async () => {
    const wrong = {
      ...options('a'),
      path: '',
      nodeId: 'not a name!',
      cluster: { id: 'x', secret: 'short' },
      commitMode: 'later',
      commitTimeoutMs: -1,
      checkpoint: { everyMs: 1, sometimes: true },
      pollMs: 0,
      upstream: { address: 'nowhere' },
      unknown: 1,
    } as unknown as ReplicatedOptions;
    const error = (await openReplicated(wrong).catch((reason: unknown) => reason)) as WalshipError;
    expect(error).toBeInstanceOf(WalshipError);
    expect(error.code).toBe('WALSHIP_ERR_CONFIG');
    const problems = error.details?.['problems'] as string[];
    for (const where of [
      'path',
      'nodeId',
      'cluster.secret',
      'commitMode',
      'commitTimeoutMs',
      'checkpoint.everyMs',
      'sometimes',
      'pollMs',
      'upstream.address',
      'unknown',
    ]) {
      expect(problems.some((problem) => problem.includes(where))).toBe(true);
      expect(error.message).toContain(where);
    }
    expect(existsSync(join(base, 'a.db'))).toBe(false);
  });

  test('a primary begins the epoch that it is given', async () => {
    const a = await open('a', { epoch: 7n, commitRule: { level: 'flushed', any: 1 } });
    expect(a.engine.epoch).toBe(7n);
    const b = await open('b', { upstream: upstreamOf(a) });
    fill(a, 'one');
    await expectSame(a, b);
    await a.close();
    expect(await codeOfPromise(openReplicated(options('a', { epoch: 7n })))).toMatch(/^WALSHIP_ERR_/);
    const both = options('a', { epoch: 9n, upstream: upstreamOf(b) });
    expect(await codeOfPromise(openReplicated(both))).toBe('WALSHIP_ERR_CONFIG');
  });

  test('a directory that is not there is an error, and leaves nothing open', async () => {
    const nowhere = options('a', { path: join(base, 'no', 'such', 'a.db'), dir: join(base, 'log') });
    expect(await codeOfPromise(openReplicated(nowhere))).toBe('WALSHIP_ERR_SQLITE');
    const a = await open('a', { dir: join(base, 'log') });
    fill(a, 'one');
    expect(rows(a)).toEqual(['one']);
  });
});

test('two nodes of one log are refused', async () => {
  const a = await open('a');
  fill(a, 'one');
  expect(await codeOfPromise(openReplicated(options('a')))).toMatch(/^WALSHIP_ERR_/);
  fill(a, 'two');
  const b = await open('b', { upstream: upstreamOf(a) });
  await expectSame(a, b);
  await b.close();
  await a.close();
  expectSameFile(a.path, b.path);
});

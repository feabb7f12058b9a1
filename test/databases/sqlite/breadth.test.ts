// What SQLite can do, done on a primary with a live standby beside it: in the end both files are the same, byte for byte.
import { join } from 'node:path';
import Sqlite from 'better-sqlite3';
import { describe, expect, test } from 'vitest';
import {
  base,
  checkpoint,
  child,
  codeOf,
  expectSame,
  expectSameFile,
  open,
  pair,
  pause,
  plainDatabase,
  sqlite3,
  sqlite3Failure,
  upstreamOf,
} from './support.js';

describe('statements', () => {
  test('transactions, savepoints and aggregates', async () => {
    const { a, b } = await pair();
    a.db.exec('create table t(id integer primary key, kind text, n real)');
    const insert = a.db.prepare('insert into t(kind, n) values (?, ?)');
    a.db.transaction(() => {
      for (let i = 0; i < 2000; i++) insert.run(`k${i % 7}`, i / 3);
    })();
    // Rolled back whole, in part, and nested.
    expect(() =>
      a.db.transaction(() => {
        a.db.exec('delete from t');
        throw new Error('no');
      })(),
    ).toThrow('no');
    a.db.exec(`
      begin; savepoint one; update t set n = -1 where id % 2; savepoint two; delete from t; rollback to two;
      insert into t(kind, n) values ('kept', 1); release two; rollback to one;
      insert into t(kind, n) values ('last', 2); release one; commit`);
    const aggregate = `select kind, count(*) c, sum(n) s, avg(n) v, min(id) l, group_concat(id % 10, '') g
      from t group by kind order by kind`;
    const there = await b.readAt(await a.committed());
    expect(there.prepare(aggregate).all()).toEqual(a.db.prepare(aggregate).all());
    expect(there.prepare('select count(*) c from t').get()).toEqual({ c: 2001 });
    await expectSame(a, b);
  });

  test('blobs of several megabytes, and transactions of many', async () => {
    const { a, b } = await pair();
    a.db.exec('create table big(id integer primary key, body blob)');
    const insert = a.db.prepare('insert into big(body) values (?)');
    for (const bytes of [1, 4096, 1_048_576, 5_000_000, 9_999_999])
      insert.run(Buffer.alloc(bytes, bytes % 251));
    a.db.transaction(() => {
      for (let i = 0; i < 6; i++) insert.run(Buffer.alloc(3_000_000, i));
    })();
    a.db.exec('update big set body = zeroblob(2000000) where id = 4; delete from big where id = 5');
    const sums = 'select id, length(body) n, hex(substr(body, 1, 2)) h from big order by id';
    const there = await b.readAt(await a.committed());
    expect(there.prepare(sums).all()).toEqual(a.db.prepare(sums).all());
    await expectSame(a, b);
  });

  test('WITHOUT ROWID, generated columns, STRICT, JSON, R-Tree, full-text search and triggers', async () => {
    const { a, b } = await pair();
    a.db.exec(`
      create table kv(k text primary key, v any, size int generated always as (length(v)) stored,
        twice int as (size * 2) virtual) without rowid, strict;
      create index kv_size on kv(size, twice);
      create table audit(at integer primary key, what text, k text);
      create trigger kv_in after insert on kv begin insert into audit(what, k) values ('in', new.k); end;
      create trigger kv_out after delete on kv begin insert into audit(what, k) values ('out', old.k); end;
      create virtual table words using fts5(body, tokenize = 'porter');
      create virtual table boxes using rtree(id, x0, x1);
      create view sizes as select json_group_object(k, size) j from kv;`);
    const put = a.db.prepare('insert into kv(k, v) values (?, ?)');
    const say = a.db.prepare('insert into words(body) values (?)');
    const box = a.db.prepare('insert into boxes values (?, ?, ?)');
    for (let i = 0; i < 500; i++) {
      put.run(`key ${(i * 7919) % 500}`, 'v'.repeat(i));
      say.run(`ships carry number ${i} running to harbour ${i % 13}`);
      box.run(i, i, i + 10);
    }
    a.db.exec(
      "delete from kv where size % 3 = 0; delete from words where rowid % 5 = 0; insert into words(words) values ('optimize')",
    );
    const there = await b.readAt(await a.committed());
    for (const question of [
      'select * from sizes',
      'select what, count(*) c, max(at) m from audit group by what',
      "select count(*) c from words where words match 'run AND 7'",
      'select count(*) c from boxes where x0 between 100 and 200',
      'select k, twice from kv where size between 20 and 40 order by k',
    ]) {
      expect(there.prepare(question).all()).toEqual(a.db.prepare(question).all());
    }
    await expectSame(a, b);
  });

  test('changes of the schema', async () => {
    const { a, b } = await pair();
    a.db.exec('create table t(id integer primary key, v text); insert into t(v) values (1), (2)');
    await b.readAt(await a.committed());
    const standing = b.db.prepare('select * from t');
    for (const statement of [
      'alter table t add column w integer default 7',
      'alter table t rename column v to value',
      'create index t_w on t(w)',
      'create unique index t_value on t(value) where w > 3',
      'drop index t_w',
      'drop index t_value',
      'alter table t drop column w',
      'create table u as select * from t',
      'alter table u rename to v',
      'drop table v',
      'pragma user_version = 42',
      'analyze',
      'reindex',
    ]) {
      a.db.exec(statement);
      const there = await b.readAt(await a.committed());
      expect(there.prepare('select * from sqlite_schema').all()).toEqual(
        a.db.prepare('select * from sqlite_schema').all(),
      );
    }
    expect(b.db.pragma('user_version', { simple: true })).toBe(42);
    // Prepared before all that.
    expect(standing.all()).toEqual(a.db.prepare('select * from t').all());
    await expectSame(a, b);
  });

  test('a database that shrinks and grows again, with a checkpoint between on the standby only', async () => {
    // What stood in a page before it was cut off is in the primary's WAL, and no more on the standby.
    const a = await open('a', {
      commitRule: { level: 'flushed', any: 1 },
      checkpoint: { everyMs: 3_600_000 },
    });
    const b = await open('b', { upstream: upstreamOf(a), checkpoint: { everyMs: 10, walBytes: 65536 } });
    a.db.exec('create table t(id integer primary key, v text)');
    const fill = (
      mark: string,
    ) => `with recursive n(i) as (select 1 union all select i + 1 from n where i < 150)
      insert into t(v) select printf('%.*c', 20000, '${mark}') from n;`;
    for (const mark of ['A', 'B', 'C']) {
      a.db.exec(fill(mark));
      a.db.exec('delete from t');
      a.db.exec('vacuum');
      await b.readAt(await a.committed());
      await pause(60);
      a.db.exec(`begin; ${fill('z')} delete from t where id % 10 <> 0; commit`);
      await b.readAt(await a.committed());
      expect(b.db.pragma('freelist_count', { simple: true })).toBeGreaterThan(100);
    }
    await expectSame(a, b);
  });

  test('VACUUM, incremental VACUUM and a database that becomes smaller', async () => {
    const { a, b } = await pair();
    a.db.exec('create table t(id integer primary key, v blob)');
    const insert = a.db.prepare('insert into t(v) values (zeroblob(?))');
    a.db.transaction(() => {
      for (let i = 0; i < 600; i++) insert.run(i * 11);
    })();
    await expectSame(a, b);
    a.db.exec('delete from t where id > 50');
    a.db.exec('vacuum');
    await expectSame(a, b);
    expect(b.db.pragma('page_count', { simple: true })).toBeLessThan(100);
    a.db.pragma('auto_vacuum = incremental');
    a.db.exec('vacuum');
    for (let i = 0; i < 300; i++) insert.run(5000);
    a.db.exec('delete from t where id > 60');
    a.db.pragma('incremental_vacuum(150)');
    await expectSame(a, b);
    for (let i = 0; i < 100; i++) insert.run(5000);
    await expectSame(a, b);
  });
});

describe.each(['async', 'wait'] as const)(
  'a cache too small for a transaction, commit mode %s',
  (commitMode) => {
    test('pages that go to the WAL before the commit, some of them twice, some in vain', async () => {
      const { a, b } = await pair({ commitMode });
      a.db.pragma('cache_size = 8');
      a.db.exec('create table t(id integer primary key, v text, n int)');
      const insert = a.db.prepare('insert into t(v, n) values (?, ?)');
      for (let round = 0; round < 12; round++) {
        a.db.exec('begin');
        for (let i = 0; i < 200; i++) insert.run('x'.repeat((i * 53) % 1500), i);
        a.db.exec('savepoint s');
        // The same pages again and again: SQLite overwrites their frames and corrects the checksums at the commit.
        for (let i = 0; i < 3; i++) a.db.exec(`update t set n = n + ${i} where id % 5 = ${round % 5}`);
        if (round % 3 === 1) a.db.exec('rollback to s');
        a.db.exec(round % 4 === 3 ? 'rollback' : 'commit');
        if (round % 4 === 2) a.db.exec('delete from t where id % 3 = 0');
        if (commitMode === 'wait') expect(a.status().sqlite).toMatchObject({ snapshots: 1 });
      }
      await expectSame(a, b);
      expect(a.status().sqlite).toMatchObject({ snapshots: 1 });
      expect(a.status().sqlite.problem).toBeUndefined();
    });

    test('several processes, some of which die in the midst of a transaction', async () => {
      const { a, b } = await pair({ commitMode });
      a.db.exec('create table t(id integer primary key, who text, v blob)');
      const insert = a.db.prepare("insert into t(who, v) values ('here', zeroblob(?))");
      for (let round = 0; round < 6; round++) {
        const dying = child();
        await dying.plain(a.path);
        await dying.exec('pragma cache_size = 4; pragma busy_timeout = 10000');
        await dying.run("insert into t(who, v) values ('there', zeroblob(9000))");
        await dying.exec('begin immediate');
        for (let i = 0; i <= round; i++)
          await dying.run("insert into t(who, v) values ('never', zeroblob(50000))");
        await dying.kill();
        for (let i = 0; i < 10; i++) insert.run(i * 700);
      }
      const there = await b.readAt(await a.committed());
      expect(there.prepare('select who, count(*) c from t group by who order by who').all()).toEqual([
        { who: 'here', c: 60 },
        { who: 'there', c: 6 },
      ]);
      await expectSame(a, b);
      expect(a.status().sqlite).toMatchObject({ snapshots: 1 });
    });
  },
);

describe('every page size', () => {
  test.each([512, 1024, 2048, 4096, 8192, 16384, 32768, 65536])('%i bytes', async (pageBytes) => {
    plainDatabase('a.db', (db) => {
      db.pragma(`page_size = ${pageBytes}`);
      db.exec("create table t(id integer primary key, v text); insert into t(v) values ('was there before')");
    });
    const { a, b } = await pair();
    const insert = a.db.prepare('insert into t(v) values (?)');
    for (let i = 0; i < 300; i++) insert.run('x'.repeat((i * 37) % 3000));
    a.db.exec('create index t_v on t(v); delete from t where id % 3 = 0; vacuum');
    await expectSame(a, b);
    expect(b.db.pragma('page_size', { simple: true })).toBe(pageBytes);
    expect(a.status().sqlite.problem).toBeUndefined();
  });
});

describe('backups', () => {
  test('online, from the primary and from the standby while both move', async () => {
    const { a, b } = await pair();
    a.db.exec('create table t(id integer primary key, v text)');
    const insert = a.db.prepare('insert into t(v) values (?)');
    a.db.transaction(() => {
      for (let i = 0; i < 5000; i++) insert.run('x'.repeat(i % 400));
    })();
    await b.readAt(await a.committed());
    for (const [name, from] of [
      ['primary', a.db],
      ['standby', b.db],
    ] as const) {
      const target = join(base, `${name}.backup`);
      let steps = 0;
      await from.backup(target, {
        progress: () => {
          // A commit between two steps begins the backup again: a few only.
          if (steps++ < 3) insert.run(`during ${name}`);
          return 200;
        },
      });
      expect(steps).toBeGreaterThan(1);
      const copy = new Sqlite(target, { readonly: true });
      expect(copy.pragma('integrity_check', { simple: true })).toBe('ok');
      const { c } = copy.prepare('select count(*) c from t').get() as { c: number };
      expect(c).toBeGreaterThanOrEqual(5000);
      copy.close();
    }
    await expectSame(a, b);
  });
});

describe('connections', () => {
  test('several of this process, and those of other processes', async () => {
    const { a, b } = await pair();
    a.db.exec('create table t(id integer primary key, who text, n int)');
    const here = [new Sqlite(a.path), new Sqlite(a.path)];
    const there = [child(), child()];
    for (const each of there) {
      await each.plain(a.path);
      await each.pragma('busy_timeout = 10000');
    }
    for (let round = 0; round < 40; round++) {
      const far = there.map((each, i) =>
        each.run('insert into t(who, n) values (?, ?)', `process ${i}`, round),
      );
      a.db.prepare('insert into t(who, n) values (?, ?)').run('node.db', round);
      for (const [i, db] of here.entries())
        db.prepare('insert into t(who, n) values (?, ?)').run(`connection ${i}`, round);
      if (round % 8 === 0)
        sqlite3(a.path, '.timeout 10000', `insert into t(who, n) values ('sqlite3', ${round})`);
      await Promise.all(far);
    }
    const counts = 'select who, count(*) c from t group by who order by who';
    const seen = (await b.readAt(await a.committed())).prepare(counts).all();
    expect(seen).toEqual([
      { who: 'connection 0', c: 40 },
      { who: 'connection 1', c: 40 },
      { who: 'node.db', c: 40 },
      { who: 'process 0', c: 40 },
      { who: 'process 1', c: 40 },
      { who: 'sqlite3', c: 5 },
    ]);
    for (const db of here) db.close();
    await expectSame(a, b);
    expect(a.status().sqlite).toMatchObject({ snapshots: 1 });
  });

  test("others' checkpoints, of every kind, take nothing away", async () => {
    const { a, b } = await pair();
    a.db.exec('create table t(id integer primary key, v text)');
    const insert = a.db.prepare('insert into t(v) values (?)');
    const other = child();
    await other.plain(a.path);
    await other.pragma('busy_timeout = 20');
    for (const kind of ['passive', 'full', 'restart', 'truncate']) {
      for (let i = 0; i < 100; i++) insert.run(`${kind} ${i}`);
      await other.pragma(`wal_checkpoint(${kind})`);
      sqlite3(a.path, `pragma wal_checkpoint(${kind})`);
      a.db.pragma('busy_timeout = 20');
      a.db.pragma(`wal_checkpoint(${kind})`);
      insert.run('behind it');
    }
    const there = await b.readAt(await a.committed());
    expect(there.prepare('select count(*) c from t').get()).toEqual({ c: 404 });
    await expectSame(a, b);
    // Captured from the WAL throughout: the first snapshot is that of the beginning.
    expect(a.status().sqlite).toMatchObject({ snapshots: 1 });
  });

  test('a small WAL is begun anew again and again', async () => {
    const { a, b } = await pair({ checkpoint: { everyMs: 10, walBytes: 65536 } });
    a.db.exec('create table t(id integer primary key, v text)');
    const insert = a.db.prepare('insert into t(v) values (?)');
    for (let i = 0; i < 1500; i++) {
      insert.run('x'.repeat((i * 31) % 2000));
      if (i % 100 === 0) await pause(12);
    }
    await expectSame(a, b);
    const { sqlite } = a.status();
    expect(sqlite).toMatchObject({ role: 'primary', snapshots: 1 });
    if (sqlite.role === 'primary') expect(sqlite.walRestarts).toBeGreaterThan(3);
  });

  test('sqlite3 and better-sqlite3 read the file of every node', async () => {
    const { a, b } = await pair();
    const c = await open('c', { upstream: upstreamOf(b) });
    a.db.exec("create table t(v text); insert into t values ('one'), ('two')");
    const lsn = await a.committed();
    for (const node of [a, b, c]) {
      await node.readAt(lsn);
      expect(sqlite3(node.path, 'select group_concat(v) from t; pragma integrity_check')).toBe('one,two\nok');
      const plain = child();
      await plain.plain(node.path);
      expect(await plain.all('select v from t')).toEqual([{ v: 'one' }, { v: 'two' }]);
      await plain.close();
    }
    await expectSame(a, b, c);
    // And afterwards, without any node.
    for (const node of [c, b, a]) await node.close();
    for (const name of ['a', 'b', 'c'])
      expect(sqlite3(join(base, `${name}.db`), 'select count(*) from t')).toBe('2');
    expectSameFile(join(base, 'a.db'), join(base, 'c.db'));
  });
});

describe('what would end replication', () => {
  test('journal_mode cannot be changed, by nobody', async () => {
    const { a, b } = await pair();
    a.db.exec("create table t(v text); insert into t values ('one')");
    await b.readAt(await a.committed());
    for (const node of [a, b]) {
      for (const mode of ['delete', 'truncate', 'persist', 'memory']) {
        const other = new Sqlite(node.path, { timeout: 20 });
        expect(codeOf(() => other.pragma(`journal_mode = ${mode}`))).toBe('SQLITE_BUSY');
        other.close();
        expect(sqlite3Failure(node.path, `pragma journal_mode = ${mode}`)).toContain('database is locked');
      }
    }
    const refused = 'WALSHIP_ERR_SQLITE_JOURNAL_MODE';
    for (const { db } of [a, b]) {
      const start = performance.now();
      expect(codeOf(() => db.pragma('journal_mode = delete'))).toBe(refused);
      expect(codeOf(() => db.pragma("main.journal_mode('off')"))).toBe(refused);
      expect(codeOf(() => db.exec('select 1; PRAGMA  "main" . journal_mode=Truncate'))).toBe(refused);
      expect(codeOf(() => db.prepare('pragma journal_mode(memory)'))).toBe(refused);
      expect(performance.now() - start).toBeLessThan(1000);
      expect(db.pragma('journal_mode = WAL', { simple: true })).toBe('wal');
      expect(db.pragma('journal_mode', { simple: true })).toBe('wal');
      expect(
        db.prepare("select 'pragma journal_mode = delete' as text -- pragma journal_mode=off").get(),
      ).toEqual({
        text: 'pragma journal_mode = delete',
      });
    }
    a.db.exec("insert into t values ('two')");
    await expectSame(a, b);
  });

  test('an exclusive connection waits in vain', async () => {
    const { a, b } = await pair();
    a.db.exec('create table t(v text)');
    const other = new Sqlite(a.path, { timeout: 20 });
    other.pragma('locking_mode = exclusive');
    expect(codeOf(() => other.exec("insert into t values ('one')"))).toBe('SQLITE_BUSY');
    other.close();
    a.db.exec("insert into t values ('two')");
    await expectSame(a, b);
  });

  test('ATTACH: what is written to the file of a node is replicated, and nothing else', async () => {
    const { a, b } = await pair();
    a.db.exec('create table t(v text)');
    const beside = plainDatabase('beside.db', (db) => db.exec('create table s(v text)'));
    a.db.prepare('attach ? as beside').run(beside);
    a.db.transaction(() => {
      a.db.exec("insert into t values ('main'); insert into beside.s values ('beside')");
    })();
    // The other way about.
    const other = new Sqlite(beside);
    other.prepare('attach ? as node').run(a.path);
    other.exec("insert into node.t select v || ' too' from s");
    const there = await b.readAt(await a.committed());
    expect(there.prepare('select v from t').pluck().all()).toEqual(['main', 'beside too']);
    expect(codeOf(() => there.prepare('select * from s'))).toBe('SQLITE_ERROR');
    // The file of a standby is no more to be written to when it is attached.
    other.exec('detach node');
    other.prepare('attach ? as node').run(b.path);
    expect(codeOf(() => other.exec("insert into node.t values ('never')"))).toBe('SQLITE_READONLY');
    other.close();
    a.db.exec('detach beside');
    await expectSame(a, b);
  });
});

test('the file is the same again after each checkpoint at the same position', async () => {
  const { a, b } = await pair();
  a.db.exec('create table t(id integer primary key, v text)');
  const insert = a.db.prepare('insert into t(v) values (?)');
  for (let round = 0; round < 10; round++) {
    for (let i = 0; i < 50; i++) insert.run('x'.repeat(((round + 1) * i * 17) % 1500));
    if (round === 5) a.db.exec('delete from t where id % 2');
    await expectSame(a, b);
  }
  await checkpoint(a.path);
});

// A database whose nodes decide themselves who is primary; and what a node answers while its role changes.
import { join } from 'node:path';
import { expect, test } from 'vitest';
import type { Replicated, WalshipError } from '../../../src/index.js';
import { base, codeOf, codeOfPromise, expectSame, open, pair, pause, upstreamOf } from './support.js';

const notPrimary = 'WALSHIP_ERR_NOT_PRIMARY';

function member(name: string, bootstrap = false): Promise<Replicated> {
  return open(name, {
    commitRule: { level: 'flushed', any: 1 },
    failover: {
      coordinator: { kind: 'embedded', path: join(base, 'coordinator') },
      listen: '127.0.0.1:0',
      bootstrap,
      fanOut: 1,
    },
  });
}

async function until<T>(look: () => T | undefined | false): Promise<T> {
  for (;;) {
    const seen = look();
    if (seen !== undefined && seen !== false) return seen;
    await pause(5);
  }
}

/** Tries until a primary takes it: a refused write has not been done. */
async function write(nodes: readonly Replicated[], value: string): Promise<void> {
  await until(() =>
    nodes.some((node) => {
      try {
        node.db.prepare('insert into t(v) values (?)').run(value);
        return true;
      } catch (error) {
        const { code, details } = error as WalshipError;
        if (code === notPrimary) expect(details['appended']).toBe(false);
        else expect(code).toMatch(/^(WALSHIP_ERR_SQLITE_STANDBY|SQLITE_READONLY)$/);
        return false;
      }
    }),
  );
}

const rows = (node: Replicated): unknown[] => node.db.prepare('select v from t order by id').pluck().all();

test('a standby takes over, and hands back', { timeout: 60_000 }, async () => {
  const a = await member('a', true);
  await until(() => a.agent?.primary?.node === 'a' && a.role === 'primary');
  const b = await member('b');
  const c = await member('c');
  a.db.exec('create table t(id integer primary key, v text)');
  await write([a], 'first');
  await c.readAt(await a.committed());

  await until(() => c.agent?.primary?.node === 'a');
  const before = b.db;
  const { epoch } = a.engine;
  await c.agent?.switchover('b');
  await until(() => b.agent?.primary?.node === 'b' && b.role === 'primary');
  expect(b.engine.epoch).toBeGreaterThan(epoch);
  expect(before.open).toBe(false);
  await write([b], 'second');
  await b.committed();
  expect(await codeOfPromise(a.committed())).toBe(notPrimary);

  // The primary is gone: whoever is left goes on.
  await b.close();
  const left = [a, c];
  await write(left, 'third');
  const primary = left.find((node) => node.role === 'primary') as Replicated;
  await primary.committed();
  for (const node of left) await node.readAt(await primary.lsn());
  for (const node of left) expect(rows(node)).toEqual(['first', 'second', 'third']);
  const back = await member('b');
  await back.readAt(await primary.lsn());
  expect(back.role).toBe('standby');
  expect(rows(back)).toEqual(['first', 'second', 'third']);
  await expectSame(primary, back);
});

test('a deposed primary acknowledges nothing, although its positions would do', async () => {
  const { a, b } = await pair();
  a.db.exec('create table t(id integer primary key, v text)');
  await b.readAt(await a.committed());
  const { epoch } = a.engine;
  a.db.prepare("insert into t(v) values ('in doubt')").run();
  await a.engine.promise(epoch + 1n);
  expect(a.role).toBe('standby');
  expect(await codeOfPromise(a.committed())).toBe(notPrimary);
});

test('nobody writes to a database that is not captured yet', async () => {
  const { a, b } = await pair();
  a.db.exec('create table t(id integer primary key, v text)');
  await b.readAt(await a.committed());
  const insert = () => b.db.prepare("insert into t(v) values ('x')").run();
  expect(codeOf(insert)).toBe('WALSHIP_ERR_SQLITE_STANDBY');
  let early: string | undefined;
  b.on('event', ({ type }) => {
    if (type === 'promoted') early = codeOf(insert);
  });
  await a.close();
  await b.promote();
  expect(early).toBe(notPrimary);
  expect(codeOf(insert)).toBe('');
  expect(b.db.readonly).toBe(false);
});

/** Gives up a transaction that its log holds: nobody is there to acknowledge, and the thread, which would renew the lease, waits. */
async function leaseRunsOut(): Promise<Replicated> {
  const alone = await open('alone');
  alone.db.exec('create table t(id integer primary key, v text)');
  alone.engine.setCommitRule({ level: 'flushed', any: 1 });
  alone.setCommitMode('wait');
  alone.engine.setLease(process.hrtime.bigint() + 300_000_000n);
  const from = performance.now();
  expect(codeOf(() => insert(alone, 'x'))).toMatch(/^SQLITE_IOERR/);
  expect(performance.now() - from).toBeGreaterThan(250);
  expect(performance.now() - from).toBeLessThan(3000);
  return alone;
}

const insert = (node: Replicated, value: string) => node.db.prepare('insert into t(v) values (?)').run(value);

test('a commit that waits for its rule lets go when the lease is over, and does not count as done', async () => {
  const alone = await leaseRunsOut();
  expect(rows(alone)).toEqual([]);
  // Nor is anything acknowledged that is written behind it, or over it.
  expect(codeOf(() => insert(alone, 'y'))).toBe('SQLITE_READONLY');
  expect(codeOf(() => insert(alone, 'longer than y'.repeat(1000)))).toBe('SQLITE_READONLY');

  // The log has it, and what the log has is there in the end, on every node.
  alone.engine.setLease(undefined);
  const b = await open('b', { upstream: upstreamOf(alone) });
  await until(() => codeOf(() => insert(alone, 'z')) === '');
  expect(rows(alone)).toEqual(['x', 'z']);
  await expectSame(alone, b);
  expect(rows(b)).toEqual(['x', 'z']);
});

test('a node that ends with a transaction in doubt has what its log has', async () => {
  const alone = await leaseRunsOut();
  await alone.close();
  const again = await open('alone');
  expect(rows(again)).toEqual(['x']);
  const b = await open('b', { upstream: upstreamOf(again) });
  await expectSame(again, b);
  expect(rows(b)).toEqual(['x']);
});

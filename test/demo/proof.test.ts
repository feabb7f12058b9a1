// The proof is worth something only if it fails when something is wrong.
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import Database from 'better-sqlite3';
import { afterAll, expect, test } from 'vitest';
import { createBank, onlooker, teller } from '../../scripts/demo.d/sqlite/bank.js';
import { Clients } from '../../scripts/demo.d/sqlite/clients.js';
import { compareDatabases, compareSegments, examine } from '../../scripts/demo.d/sqlite/proof.js';
import type { Transaction } from '../../scripts/demo.d/sqlite/protocol.js';

const directory = mkdtempSync(join(tmpdir(), 'walship-proof-test-'));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

/** A bank after 200 transactions, all acknowledged; what `lost` says has not been committed. */
function run(name: string, lost?: number) {
  const file = join(directory, `${name}.db`);
  createBank(file);
  const database = new Database(file);
  const commit = teller(database);
  const queue: Transaction[] = [];
  const clients = new Clients((transactions) => queue.push(...transactions) > 0);
  clients.run();
  for (let count = 0; count < 200; count++) {
    const transaction = queue.shift() as Transaction;
    if (transaction.id !== lost) commit(transaction);
    clients.take([{ id: transaction.id, fate: 'acknowledged', ms: 1 }]);
  }
  database.close();
  return { file, ledger: clients.ledger, acknowledged: clients.acknowledged };
}

test('finds no difference where there is none', () => {
  const { file, ledger, acknowledged } = run('whole');
  expect(acknowledged).toBe(200);
  expect(examine(file, ledger).wrong).toEqual([]);
});

test('misses the transaction that is lost', () => {
  const { file, ledger } = run('lost', 200);
  expect(examine(file, ledger).wrong).toEqual(['note 200 was acknowledged and is missing']);
});

/** As {@link run}; then the primary dies with 8 transactions under way, of which it has done the first `done`. */
function die(name: string, done: number) {
  const file = join(directory, `${name}.db`);
  createBank(file);
  const database = new Database(file);
  const commit = teller(database);
  const queue: Transaction[] = [];
  let primary = true;
  const clients = new Clients((transactions) => {
    if (primary) queue.push(...transactions);
    return primary;
  });
  clients.run();
  for (const transaction of queue.slice(0, done)) commit(transaction);
  const dead = queue.splice(0);
  primary = false;
  expect(clients.abandon()).toBe(8);
  // What waits for a primary was not with the dead one, and is not in doubt.
  expect(clients.abandon()).toBe(0);
  primary = true;
  clients.resume();
  expect(queue.map(({ id }) => id)).toEqual([9, 10, 11, 12, 13, 14, 15, 16]);
  for (const transaction of queue.splice(0)) {
    commit(transaction);
    clients.take([{ id: transaction.id, fate: 'acknowledged', ms: 1 }]);
  }
  return { file, database, commit, dead, ledger: clients.ledger };
}

test('bears transactions of unknown outcome, there or not, and counts them', () => {
  const { file, database, ledger } = die('unknown', 5);
  database.close();
  expect(ledger.unknown.size).toBe(8);
  expect(examine(file, ledger)).toEqual({ wrong: [], unknownThere: 5 });
});

test('finds a transaction of unknown outcome that is there, but not as it was asked for', () => {
  const { file, database, ledger } = die('unlike', 5);
  database.exec('UPDATE transfers SET amount = amount + 1 WHERE id = 5');
  database.close();
  expect(examine(file, ledger).wrong[0]).toMatch(/^transfer 5 is .*, the client's was /);
});

test('finds a transfer whose money was moved twice', () => {
  const { file, database, commit, dead, ledger } = die('twice', 5);
  const again = dead[0] as Transaction & { kind: 'transfer' };
  commit({ ...again, id: 1000 });
  database.exec('DELETE FROM transfers WHERE id = 1000');
  database.close();
  const { wrong } = examine(file, ledger);
  expect(wrong).toHaveLength(again.from === again.to ? 0 : 2);
  for (const each of wrong) expect(each).toMatch(/^account \d+ has \d+, by the transfers it would be \d+$/);
});

test('a refused transaction is tried again until a primary takes it, and counts once', async () => {
  const sent: number[] = [];
  const clients = new Clients((transactions) => sent.push(...transactions.map(({ id }) => id)) > 0);
  clients.run();
  const ended = clients.pause();
  clients.take(sent.splice(0).map((id) => ({ id, fate: 'refused', ms: 0 })));
  while (sent.length < 8) await new Promise((wake) => setTimeout(wake, 1));
  expect(sent.toSorted((a, b) => a - b)).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
  const all = sent.splice(0).map((id) => ({ id, fate: 'acknowledged', ms: 1 }) as const);
  clients.take(all);
  await ended;
  expect(clients.acknowledged).toBe(8);
  expect(() => clients.take(all)).toThrow('transaction 1 has come to its end before');
});

test('finds a page that was lost', () => {
  const { file, ledger } = run('page');
  const bytes = readFileSync(file);
  writeFileSync(file, bytes.fill(0, bytes.length - 1024));
  expect(examine(file, ledger).wrong).toEqual([expect.stringMatching(/^integrity_check says: .*page/s)]);
});

test('a live query tells rows, and money that is not whole', () => {
  const { file } = run('live');
  const database = new Database(file);
  const look = onlooker(database);
  const { rows, ageMs } = look();
  expect(rows).toBe(200);
  expect(ageMs).toBeGreaterThan(0);
  database.exec('UPDATE accounts SET balance = balance + 1 WHERE id = 7');
  expect(look).toThrow(/a live query finds balances of 1000000001 in all/);
  database.close();
});

test('database files are compared behind a checkpoint, and named if they differ', () => {
  const { file } = run('original');
  const [copy, other] = ['copy', 'other'].map((name) => join(directory, `${name}.db`)) as [string, string];
  const change = "INSERT INTO notes VALUES (1000, 1, 'in the -wal file', 0)";
  for (const each of [copy, other]) copyFileSync(file, each);
  // In one of them the change is in the database file already, in the other one still in the -wal file.
  const [done, open] = [file, copy].map((each) => new Database(each)) as [
    Database.Database,
    Database.Database,
  ];
  done.exec(change);
  done.close();
  open.exec(change);
  expect(readFileSync(copy).equals(readFileSync(file))).toBe(false);
  const { bytes, different } = compareDatabases([file, copy, other]);
  open.close();
  expect(bytes).toBe(readFileSync(file).length);
  expect(different).toEqual([other]);
});

test.each([
  ['a balance', 'UPDATE accounts SET balance = balance + 1 WHERE id = 7', /account 7 has/],
  ['an account', 'DELETE FROM accounts WHERE id = 999', /999 accounts/],
  ['a value', 'UPDATE transfers SET amount = 501 WHERE id = 1', /transfer 1 is .* the client's was/],
  ['a text', "UPDATE notes SET body = body || ' ' WHERE id = 4", /note 4 is/],
  [
    'a row too many',
    "INSERT INTO notes VALUES (999999, 1, '', 0)",
    /note 999999 is there, no client has asked for it/,
  ],
])('finds %s that is wrong', (what, sql, message) => {
  const { file, ledger } = run(what);
  const database = new Database(file);
  database.exec(sql);
  database.close();
  const found = examine(file, ledger).wrong;
  expect(found).toHaveLength(1);
  expect(found[0]).toMatch(message);
});

test('segment files that differ or are missing are named', () => {
  const [a, b] = ['a', 'b'].map((name) => join(directory, name)) as [string, string];
  for (const each of [a, b]) mkdirSync(each);
  const names = ['0000000000000000.wal', '0000000000000040.wal', '0000000000000080.wal'];
  for (const name of names) writeFileSync(join(a, name), name);
  for (const name of names.slice(0, 2)) copyFileSync(join(a, name), join(b, name));
  expect(compareSegments([a, b])).toEqual({ count: 3, different: [names[2]] });
  writeFileSync(join(b, names[1] as string), 'something else');
  expect(compareSegments([a, b]).different).toEqual([names[1], names[2]]);
  writeFileSync(join(a, 'mark'), 'not a segment');
  expect(compareSegments([a, a])).toEqual({ count: 3, different: [] });
});

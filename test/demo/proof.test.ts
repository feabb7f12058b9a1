// The proof is worth something only if it fails when something is wrong.
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import Database from 'better-sqlite3';
import { afterAll, expect, test } from 'vitest';
import { createBank, onlooker, teller } from '../../scripts/demo.d/bank.js';
import { Clients } from '../../scripts/demo.d/clients.js';
import { compareDatabases, compareSegments, differences } from '../../scripts/demo.d/proof.js';
import type { Transaction } from '../../scripts/demo.d/protocol.js';

const directory = mkdtempSync(join(tmpdir(), 'walship-proof-test-'));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

/** A bank after 200 transactions, all acknowledged; what `lost` says has not been committed. */
function run(name: string, lost?: number) {
  const file = join(directory, `${name}.db`);
  createBank(file);
  const database = new Database(file);
  const commit = teller(database);
  const queue: Transaction[] = [];
  const clients = new Clients((transactions) => queue.push(...transactions));
  clients.run();
  for (let count = 0; count < 200; count++) {
    const transaction = queue.shift() as Transaction;
    if (transaction.id !== lost) commit(transaction);
    clients.take([{ id: transaction.id, ms: 1 }]);
  }
  database.close();
  return { file, ledger: clients.ledger, acknowledged: clients.acknowledged };
}

test('finds no difference where there is none', () => {
  const { file, ledger, acknowledged } = run('whole');
  expect(acknowledged).toBe(200);
  expect(differences(file, ledger)).toEqual([]);
});

test('misses the transaction that is lost', () => {
  const { file, ledger } = run('lost', 200);
  expect(differences(file, ledger)).toEqual(['note 200 was acknowledged and is missing']);
});

test('finds a page that was lost', () => {
  const { file, ledger } = run('page');
  const bytes = readFileSync(file);
  writeFileSync(file, bytes.fill(0, bytes.length - 1024));
  expect(differences(file, ledger)).toEqual([expect.stringMatching(/^integrity_check says: .*page/s)]);
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
  ['a value', 'UPDATE transfers SET amount = 501 WHERE id = 1', /transfer 1 is .* acknowledged was/],
  ['a text', "UPDATE notes SET body = body || ' ' WHERE id = 4", /note 4 is/],
  [
    'a row too many',
    "INSERT INTO notes VALUES (999999, 1, '', 0)",
    /note 999999 is there, nobody was told so/,
  ],
])('finds %s that is wrong', (what, sql, message) => {
  const { file, ledger } = run(what);
  const database = new Database(file);
  database.exec(sql);
  database.close();
  const found = differences(file, ledger);
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

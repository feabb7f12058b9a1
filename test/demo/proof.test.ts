// The proof is worth something only if it fails when something is wrong.
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import Database from 'better-sqlite3';
import { afterAll, expect, test } from 'vitest';
import { Bank, openEmptyDatabase } from '../../scripts/demo.d/bank.js';
import { Clients } from '../../scripts/demo.d/clients.js';
import { compareSegments, differences } from '../../scripts/demo.d/proof.js';
import type { Transaction } from '../../scripts/demo.d/protocol.js';

const directory = mkdtempSync(join(tmpdir(), 'walship-proof-test-'));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

/** A bank after some transactions, all acknowledged, and the -wal bytes that it gave for each commit. */
function run(name: string) {
  const bank = new Bank(join(directory, `${name}.db`));
  const wal = [bank.takeWal()];
  const queue: Transaction[] = [];
  const clients = new Clients((transactions) => queue.push(...transactions));
  clients.run();
  for (let count = 0; count < 200; count++) {
    const transaction = queue.shift() as Transaction;
    bank.commit(transaction);
    wal.push(bank.takeWal());
    clients.take([{ id: transaction.id, ms: 1 }]);
  }
  bank.close();
  return { wal, ledger: clients.ledger, acknowledged: clients.acknowledged };
}

/** Writes -wal bytes back, as the demonstration does with those of the log. */
function rebuilt(name: string, wal: readonly Buffer[]): string {
  const file = join(directory, `${name}-rebuilt.db`);
  openEmptyDatabase(file).close();
  writeFileSync(`${file}-wal`, Buffer.concat(wal));
  return file;
}

test('finds no difference in a database rebuilt from all bytes', () => {
  const { wal, ledger, acknowledged } = run('whole');
  expect(acknowledged).toBe(200);
  expect(differences(rebuilt('whole', wal), ledger)).toEqual([]);
});

test('misses the transaction whose bytes are lost at the end', () => {
  const { wal, ledger } = run('short');
  const found = differences(rebuilt('short', wal.slice(0, -1)), ledger);
  expect(found).toContainEqual(expect.stringMatching(/was acknowledged and is missing/));
});

test('misses everything behind a flipped bit', () => {
  const { wal, ledger } = run('flipped');
  const damaged = wal[100] as Buffer;
  damaged[500] = (damaged[500] as number) ^ 1;
  const missing = differences(rebuilt('flipped', wal), ledger).filter((each) => each.includes('is missing'));
  expect(missing).toHaveLength(101);
});

test.each([
  ['a balance', 'UPDATE accounts SET balance = balance + 1 WHERE id = 7', /account 7 has/],
  ['an account', 'DELETE FROM accounts WHERE id = 999', /999 accounts/],
  ['a value', 'UPDATE transfers SET amount = 501 WHERE id = 1', /transfer 1 is .* acknowledged was/],
  ['a text', "UPDATE notes SET body = body || ' ' WHERE id = 4", /note 4 is/],
  ['a row too many', "INSERT INTO notes VALUES (999999, 1, '')", /note 999999 is there, nobody was told so/],
])('finds %s that is wrong', (what, sql, message) => {
  const { wal, ledger } = run(what);
  const file = rebuilt(what, wal);
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

// What the audit of a chaos run must find.
import Sqlite from 'better-sqlite3';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { History } from '../../lib/audit.js';
import { auditRows, type Entry } from './chaos-audit.js';
import { contentOf, enter, problemOf, schema } from './ledger.mjs';

let db: Sqlite.Database;
beforeEach(() => {
  db = new Sqlite(':memory:');
  db.exec(schema);
  for (const number of [1, 2, 4]) enter(db, 'one', number, () => {});
});
afterEach(() => {
  db.close();
});

const entries = () => db.prepare('select * from entry order by id').all() as Entry[];

function history(acknowledged: readonly number[], unknown: readonly number[] = []): History[] {
  const told = acknowledged.map((number) => ({
    number,
    node: 'a',
    lsn: 0n,
    sentAt: 0,
    at: 0,
    committedAt: 0,
  }));
  return [{ id: 'one', acknowledged: told, unknown, refused: [] }];
}

test('what was acknowledged is there, what is unknown may be', () => {
  expect(problemOf(db)).toBe('');
  const audited = auditRows(entries(), history([1, 2], [3, 4]));
  expect(audited).toMatchObject({ acknowledged: 2, unknown: 2, unknownThere: 1 });
  expect([...audited.lost, ...audited.doubled, ...audited.wrong]).toEqual([]);
});

test('a lost row', () => {
  expect(auditRows(entries(), history([1, 2, 3, 4])).lost).toEqual(['one 3']);
});

test('a doubled row', () => {
  enter(db, 'one', 2, () => {});
  expect(auditRows(entries(), history([1, 2, 4])).doubled).toEqual(['one 2']);
});

test('a row that was refused, one out of its order, and one that holds something else', () => {
  expect(auditRows(entries(), history([1, 2])).wrong).toHaveLength(1);
  expect(auditRows(entries(), history([1, 4, 2])).wrong).toHaveLength(1);
  const other = entries().map((entry) =>
    entry.number === 2 ? { ...entry, value: contentOf('one', 1) } : entry,
  );
  expect(auditRows(other, history([1, 2, 4])).wrong).toHaveLength(1);
});

test.each([
  'delete from entry where number = 4',
  'delete from entry where number = 1',
  "update entry set value = value || '.' where number = 1",
  'update entry set number = 5 where number = 4',
  'update total set entries = entries + 1',
  "update client set numbers = numbers + 1 where name = 'one'",
  'update scratch set entry = 9 where slot = 1',
])('a transaction that is half there: %s', (sql) => {
  db.exec(sql);
  expect(problemOf(db)).not.toBe('');
});

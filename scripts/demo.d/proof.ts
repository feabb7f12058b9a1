// The proof: one node's database file holds exactly what the clients were told is done, and the nodes' files are equal.
// All of it with stock SQLite, in a process that has never opened a replicated database.
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import Database from 'better-sqlite3';
import type { Ledger } from './clients.js';
import type { Note, Transfer } from './protocol.js';

/** Everything that is wrong with the database, in words; empty if it is what `ledger` says. */
export function differences(file: string, ledger: Ledger): string[] {
  const database = new Database(file);
  const integrity = database.pragma('integrity_check', { simple: true });
  if (integrity !== 'ok') return [`integrity_check says: ${integrity}`];

  const found: string[] = [];
  const rows = <Row>(sql: string): Row[] => database.prepare(sql).all() as Row[];
  const balances = rows<{ id: number; balance: number }>('SELECT id, balance FROM accounts ORDER BY id');
  if (balances.length !== ledger.balances.length) found.push(`${balances.length} accounts`);
  for (const { id, balance } of balances) {
    const expected = ledger.balances[id];
    if (balance !== expected) found.push(`account ${id} has ${balance}, its clients know of ${expected}`);
  }
  compare(
    rows<Transfer>('SELECT id, "from", "to", amount FROM transfers'),
    ledger.transfers,
    'transfer',
    found,
  );
  compare(rows<Note>('SELECT id, account, body FROM notes'), ledger.notes, 'note', found);
  database.close();
  return found;
}

function compare<Row extends { readonly id: number }>(
  rows: readonly Row[],
  expected: ReadonlyMap<number, Row>,
  what: string,
  found: string[],
): void {
  const seen = new Set<number>();
  for (const row of rows) {
    const { id } = row;
    seen.add(id);
    const wanted = expected.get(id);
    if (wanted === undefined) found.push(`${what} ${id} is there, nobody was told so`);
    else if ((Object.keys(row) as (keyof Row)[]).some((column) => row[column] !== wanted[column])) {
      found.push(`${what} ${id} is ${JSON.stringify(row)}, acknowledged was ${JSON.stringify(wanted)}`);
    }
  }
  for (const id of expected.keys())
    if (!seen.has(id)) found.push(`${what} ${id} was acknowledged and is missing`);
}

/** The size of the databases, and which are not the same as the first, byte for byte, after a checkpoint. */
export function compareDatabases(files: readonly string[]): { bytes: number; different: string[] } {
  for (const file of files) {
    const database = new Database(file, { fileMustExist: true });
    database.pragma('wal_checkpoint(TRUNCATE)');
    database.close();
  }
  const first = readFileSync(files[0] as string);
  return { bytes: first.length, different: files.filter((file) => !first.equals(readFileSync(file))) };
}

/** The names of segment files that are not the same, byte for byte, in all directories; and how many there are. */
export function compareSegments(directories: readonly string[]): { count: number; different: string[] } {
  const names = [...new Set(directories.flatMap((directory) => readdirSync(directory)))].filter((name) =>
    /^[0-9a-f]{16}\.wal$/.test(name),
  );
  const different = names.filter((name) => {
    const files = directories.map((directory) => join(directory, name));
    if (!files.every((file) => existsSync(file))) return true;
    const first = readFileSync(files[0] as string);
    return !files.every((file) => first.equals(readFileSync(file)));
  });
  return { count: names.length, different };
}

// The proof: a node's database file holds exactly what the clients were told is done, and the nodes' files are equal.
// All of it with stock SQLite, in a process that has never opened a replicated database.
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import Database from 'better-sqlite3';
import type { Ledger } from './clients.js';
import type { Note, Transaction, Transfer } from './protocol.js';

export interface Findings {
  /** Everything that is wrong with the database, in words; empty if it is what the ledger says. */
  readonly wrong: string[];
  /** How many transactions of unknown outcome are in it. */
  readonly unknownThere: number;
}

export function examine(file: string, ledger: Ledger): Findings {
  const database = new Database(file);
  try {
    const integrity = database.pragma('integrity_check', { simple: true });
    if (integrity !== 'ok') return { wrong: [`integrity_check says: ${integrity}`], unknownThere: 0 };

    const wrong: string[] = [];
    const rows = <Row>(sql: string): Row[] => database.prepare(sql).all() as Row[];
    const transfers = rows<Transfer>('SELECT id, "from", "to", amount FROM transfers');
    const notes = rows<Note>('SELECT id, account, body FROM notes');
    const unknown = {
      transfer: compare(transfers, ledger.transfers, ledger.unknown, 'transfer', wrong),
      note: compare(notes, ledger.notes, ledger.unknown, 'note', wrong),
    };

    // A transfer that was done twice, or by half, would show here.
    const expected = [...ledger.balances];
    for (const { from, to, amount } of unknown.transfer) {
      expected[from] = (expected[from] as number) - amount;
      expected[to] = (expected[to] as number) + amount;
    }
    const balances = rows<{ id: number; balance: number }>('SELECT id, balance FROM accounts ORDER BY id');
    if (balances.length !== expected.length) wrong.push(`${balances.length} accounts`);
    for (const { id, balance } of balances) {
      if (balance !== expected[id])
        wrong.push(`account ${id} has ${balance}, by the transfers it would be ${expected[id]}`);
    }
    return { wrong, unknownThere: unknown.transfer.length + unknown.note.length };
  } finally {
    database.close();
  }
}

/** @returns the rows of unknown outcome that are there */
function compare<Row extends { readonly id: number }>(
  rows: readonly Row[],
  expected: ReadonlyMap<number, Row>,
  unknown: ReadonlyMap<number, Transaction>,
  what: Transaction['kind'],
  wrong: string[],
): Row[] {
  const seen = new Set<number>();
  const unknownThere: Row[] = [];
  for (const row of rows) {
    const { id } = row;
    seen.add(id);
    const asked = unknown.get(id);
    const wanted = expected.get(id) ?? (asked?.kind === what ? (asked as unknown as Row) : undefined);
    if (wanted === undefined) wrong.push(`${what} ${id} is there, no client has asked for it`);
    else if ((Object.keys(row) as (keyof Row)[]).some((column) => row[column] !== wanted[column])) {
      wrong.push(`${what} ${id} is ${JSON.stringify(row)}, the client's was ${JSON.stringify(wanted)}`);
    } else if (asked !== undefined) unknownThere.push(row);
  }
  for (const id of expected.keys())
    if (!seen.has(id)) wrong.push(`${what} ${id} was acknowledged and is missing`);
  return unknownThere;
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

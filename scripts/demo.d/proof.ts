// The proof: a database rebuilt from nothing but one node's log holds exactly what the clients were told is done.
import { existsSync, openSync, readdirSync, readFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import Database from 'better-sqlite3';
import { Engine } from 'walship';
import { openEmptyDatabase } from './bank.js';
import type { Ledger } from './clients.js';
import { clusterId, logOptions, type Note, type Transfer } from './protocol.js';

/** Writes the log's bytes as the -wal file of a new database. @returns how many bytes that were */
export async function rebuild(
  logDirectory: string,
  node: string,
  secret: string,
  file: string,
): Promise<number> {
  openEmptyDatabase(file).close();
  const wal = openSync(`${file}-wal`, 'w');
  await using engine = await Engine.open({
    dir: logDirectory,
    nodeId: node,
    cluster: { id: clusterId, secret },
    log: logOptions,
    transport: 'tcp',
  });
  const end = engine.positions.received;
  for await (const { lsn, bytes } of engine.read(0n, { end })) {
    writeSync(wal, bytes, 0, bytes.length, Number(lsn));
  }
  return Number(end);
}

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

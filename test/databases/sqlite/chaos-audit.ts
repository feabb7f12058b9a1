// What must be in the database at the end of a chaos run, by what the clients were told.
import Sqlite from 'better-sqlite3';
import type { History } from '../../lib/audit.js';
import { contentOf, problemOf } from './ledger.mjs';

export interface Entry {
  readonly id: number;
  readonly client: string;
  readonly number: number;
  readonly value: string;
}

export interface AuditedRows {
  readonly acknowledged: number;
  readonly unknown: number;
  /** Of those: they are there. */
  readonly unknownThere: number;
  /** Acknowledged, and not there. */
  readonly lost: readonly string[];
  /** There more than once. */
  readonly doubled: readonly string[];
  /** Anything else that must not be. */
  readonly wrong: readonly string[];
}

/** Of a node's file, by a plain connection. */
export function readEntries(path: string): { entries: Entry[]; problem: string } {
  const db = new Sqlite(path, { readonly: true });
  try {
    const integrity = db.pragma('integrity_check', { simple: true });
    const problem = integrity === 'ok' ? problemOf(db) : String(integrity);
    return { entries: db.prepare('select * from entry order by id').all() as Entry[], problem };
  } finally {
    db.close();
  }
}

/** Everything acknowledged is there once and in its client's order, what was refused is not, and nothing is half there. */
export function auditRows(entries: readonly Entry[], clients: readonly History[]): AuditedRows {
  const doubled: string[] = [];
  const wrong: string[] = [];
  const lost: string[] = [];
  const found = new Map<string, number>();
  const told = new Set(
    clients.flatMap(({ id, acknowledged, unknown }) =>
      [...acknowledged.map(({ number }) => number), ...unknown].map((number) => `${id} ${number}`),
    ),
  );
  for (const { id, client, number, value } of entries) {
    const key = `${client} ${number}`;
    if (found.has(key)) doubled.push(key);
    found.set(key, id);
    if (!told.has(key)) wrong.push(`${key} is there, and was refused or never sent`);
    if (value !== contentOf(client, number)) wrong.push(`${key} holds something else`);
  }
  let acknowledged = 0;
  let unknown = 0;
  let unknownThere = 0;
  for (const client of clients) {
    let behind = 0;
    for (const { number } of client.acknowledged) {
      const key = `${client.id} ${number}`;
      const at = found.get(key);
      if (at === undefined) lost.push(key);
      else if (at <= behind) wrong.push(`${key} comes before one that was acknowledged earlier`);
      else behind = at;
    }
    acknowledged += client.acknowledged.length;
    unknown += client.unknown.length;
    unknownThere += client.unknown.filter((number) => found.has(`${client.id} ${number}`)).length;
  }
  return { acknowledged, unknown, unknownThere, lost, doubled, wrong };
}

// What clients write into a replicated database in a chaos run, and what is true of it after every transaction.

export const schema = `
  create table entry(id integer primary key, client text not null, number integer not null, value text not null);
  create table client(name text primary key, entries integer not null, numbers integer not null, last integer not null);
  create table total(one integer primary key check (one = 1), entries integer not null, bytes integer not null);
  create table scratch(slot integer primary key, entry integer not null, body blob not null);
  create index entry_of on entry(client, number);
  insert into total values (1, 0, 0)`;

/** One entry, in five tables and indexes; now and then a large one, that takes more than one record of the log. */
const statements = {
  entry: 'insert into entry(client, number, value) values (?, ?, ?)',
  client: `insert into client values (?, 1, ?, ?) on conflict(name) do update
    set entries = entries + 1, numbers = numbers + excluded.numbers, last = excluded.last`,
  total: 'update total set entries = entries + 1, bytes = bytes + ?',
  scratch: 'insert or replace into scratch values (?, ?, zeroblob(?))',
};

/** @typedef {import('better-sqlite3').Database} Database */

/**
 * A transaction: whoever is told that it failed before `onCommit` was called knows that it was not done.
 *
 * @param {Database} db @param {string} client @param {number} number @param {() => void} onCommit
 */
export function enter(db, client, number, onCommit) {
  const prepared = Object.entries(statements).map(([name, source]) => [name, db.prepare(source)]);
  const { entry, client: sums, total, scratch } = Object.fromEntries(prepared);
  db.transaction(() => {
    const value = contentOf(client, number);
    const { lastInsertRowid } = entry.run(client, number, value);
    sums.run(client, number, number);
    total.run(value.length);
    const large = number % 40 === 39 ? 400_000 : 300;
    scratch.run(number % 7, lastInsertRowid, (number * 104729) % large);
    onCommit();
  }).immediate();
}

/** @param {string} client @param {number} number */
export const contentOf = (client, number) => `${client} ${number} ${'v'.repeat((number * 7919) % 700)}`;

/**
 * Of one snapshot: nothing is half there, or twice, and no entry is missing between two others.
 *
 * @param {Database} db
 * @returns {string} what is wrong; empty if nothing is
 */
export function problemOf(db) {
  const found = db
    .prepare(
      `select (select entries from total) told, (select bytes from total) told_bytes, count(*) found, max(id) last,
        sum(length(value)) bytes, (select group_concat(name) from (
          select name from client where (entries, numbers, last) is not
            (select count(*), sum(number), (select number from entry where client = name order by id desc limit 1)
              from entry where client = name))) clients,
        (select sum(entries) from client) of_clients,
        (select group_concat(slot) from scratch where entry > (select max(id) from entry)) scratch
      from entry`,
    )
    .get();
  const {
    told,
    told_bytes,
    found: entries,
    last,
    bytes,
    clients,
    of_clients,
    scratch,
  } = /** @type {Record<string, number | string | null>} */ (found);
  const good =
    told === entries &&
    told === (last ?? 0) &&
    told_bytes === (bytes ?? 0) &&
    told === (of_clients ?? 0) &&
    clients === null &&
    scratch === null;
  return good ? '' : JSON.stringify(found);
}

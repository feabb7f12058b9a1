// The database of the demonstration, and its write-ahead log.
//
// One simplification makes it small: the -wal file is never checkpointed, so it is one run of bytes that only grows.
// The log ships exactly these bytes, and an LSN is an offset in the -wal file.
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import Database from 'better-sqlite3';
import { accounts, openingBalance, type Transaction } from './protocol.js';

const pageBytes = 1024;
const walHeaderBytes = 32;
const frameHeaderBytes = 24;

/** Makes the file that a -wal file belongs to: one page that says "WAL mode". All else stands in the -wal file. */
export function openEmptyDatabase(file: string): Database.Database {
  const database = new Database(file);
  database.pragma(`page_size = ${pageBytes}`);
  database.pragma('journal_mode = WAL');
  database.pragma('wal_autocheckpoint = 0');
  // What makes a transaction durable here is the commit rule, not SQLite's own sync.
  database.pragma('synchronous = OFF');
  // A transaction reaches the -wal file at its commit and not before.
  database.pragma('cache_spill = OFF');
  return database;
}

export class Bank {
  readonly #database: Database.Database;
  readonly #walFile: number;
  readonly #transfer: Database.Statement;
  readonly #withdraw: Database.Statement;
  readonly #deposit: Database.Statement;
  readonly #note: Database.Statement;
  #walRead = 0;

  constructor(file: string) {
    this.#database = openEmptyDatabase(file);
    this.#database.transaction(() => {
      this.#database.exec(`
        CREATE TABLE accounts (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL);
        CREATE TABLE transfers (id INTEGER PRIMARY KEY, "from" INTEGER NOT NULL, "to" INTEGER NOT NULL,
                                amount INTEGER NOT NULL);
        CREATE TABLE notes (id INTEGER PRIMARY KEY, account INTEGER NOT NULL, body TEXT NOT NULL);
        CREATE INDEX notes_by_account ON notes (account);
      `);
      const open = this.#database.prepare('INSERT INTO accounts VALUES (?, ?)');
      for (let id = 0; id < accounts; id++) open.run(id, openingBalance);
    })();
    this.#transfer = this.#database.prepare('INSERT INTO transfers VALUES (?, ?, ?, ?)');
    this.#withdraw = this.#database.prepare('UPDATE accounts SET balance = balance - ? WHERE id = ?');
    this.#deposit = this.#database.prepare('UPDATE accounts SET balance = balance + ? WHERE id = ?');
    this.#note = this.#database.prepare('INSERT INTO notes VALUES (?, ?, ?)');
    this.#walFile = openSync(`${file}-wal`, 'r');
  }

  /** Commits one transaction in SQLite. */
  commit(transaction: Transaction): void {
    this.#database.transaction(() => {
      if (transaction.kind === 'transfer') {
        const { id, from, to, amount } = transaction;
        this.#withdraw.run(amount, from);
        this.#deposit.run(amount, to);
        this.#transfer.run(id, from, to, amount);
      } else {
        this.#note.run(transaction.id, transaction.account, transaction.body);
      }
    })();
  }

  /** The bytes that commits have added to the -wal file since the last call. */
  takeWal(): Buffer {
    const size = fstatSync(this.#walFile).size;
    const bytes = Buffer.alloc(size - this.#walRead);
    if (readSync(this.#walFile, bytes, 0, bytes.length, this.#walRead) !== bytes.length) {
      throw new Error('the -wal file became shorter');
    }
    const frames = size - walHeaderBytes;
    const lastFrame = bytes.length - frameHeaderBytes - pageBytes;
    // Bytes 4 to 7 of a frame: the size of the database behind a commit, 0 within a transaction.
    if (frames % (frameHeaderBytes + pageBytes) !== 0 || bytes.readUInt32BE(lastFrame + 4) === 0) {
      throw new Error('the -wal file does not end with a commit');
    }
    this.#walRead = size;
    return bytes;
  }

  close(): void {
    closeSync(this.#walFile);
    // Not database.close(), which would fold the -wal file into the database: with --keep people may look at it.
  }
}

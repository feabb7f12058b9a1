// The database of the demonstration, as any program with better-sqlite3 would have it.
import Database from 'better-sqlite3';
import { accounts, openingBalance, type Transaction } from './protocol.js';

/** Makes the database with stock SQLite, before walship has ever seen it. */
export function createBank(file: string): void {
  const database = new Database(file);
  // Small pages: small transactions, and little for --keep to leave behind.
  database.pragma('page_size = 1024');
  database.pragma('journal_mode = WAL');
  database.transaction(() => {
    database.exec(`
      CREATE TABLE accounts (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL);
      CREATE TABLE transfers (id INTEGER PRIMARY KEY, "from" INTEGER NOT NULL, "to" INTEGER NOT NULL,
                              amount INTEGER NOT NULL, at INTEGER NOT NULL);
      CREATE TABLE notes (id INTEGER PRIMARY KEY, account INTEGER NOT NULL, body TEXT NOT NULL, at INTEGER NOT NULL);
      CREATE INDEX notes_by_account ON notes (account);
    `);
    const open = database.prepare('INSERT INTO accounts VALUES (?, ?)');
    for (let id = 0; id < accounts; id++) open.run(id, openingBalance);
  })();
  database.close();
}

/** µs of a clock that all processes of a machine share. */
const nowUs = () => Number(process.hrtime.bigint() / 1000n);

/** Returns a function that commits one transaction in SQLite. */
export function teller(database: Database.Database): (transaction: Transaction) => void {
  const transfer = database.prepare('INSERT INTO transfers VALUES (?, ?, ?, ?, ?)');
  const withdraw = database.prepare('UPDATE accounts SET balance = balance - ? WHERE id = ?');
  const deposit = database.prepare('UPDATE accounts SET balance = balance + ? WHERE id = ?');
  const note = database.prepare('INSERT INTO notes VALUES (?, ?, ?, ?)');
  return database.transaction((transaction: Transaction) => {
    if (transaction.kind === 'transfer') {
      const { id, from, to, amount } = transaction;
      withdraw.run(amount, from);
      deposit.run(amount, to);
      transfer.run(id, from, to, amount, nowUs());
    } else {
      note.run(transaction.id, transaction.account, transaction.body, nowUs());
    }
  });
}

/** What a query finds. */
export interface Sight {
  /** Transfers and notes. */
  readonly rows: number;
  /** The age of the newest of them: no less than the lag. 0 if there is none. */
  readonly ageMs: number;
}

/** Returns a live query. It throws if what it sees is no state that was committed: money never appears or disappears. */
export function onlooker(database: Database.Database): () => Sight {
  const query = database.prepare(`
    SELECT (SELECT sum(balance) FROM accounts) AS money,
           (SELECT count(*) FROM transfers) + (SELECT count(*) FROM notes) AS rows,
           max(coalesce((SELECT at FROM transfers ORDER BY id DESC LIMIT 1), 0),
               coalesce((SELECT at FROM notes ORDER BY id DESC LIMIT 1), 0)) AS newest
  `);
  return () => {
    const { money, rows, newest } = query.get() as { money: number; rows: number; newest: number };
    if (money !== accounts * openingBalance)
      throw new Error(`a live query finds balances of ${money} in all`);
    return { rows, ageMs: newest === 0 ? 0 : (nowUs() - newest) / 1000 };
  };
}

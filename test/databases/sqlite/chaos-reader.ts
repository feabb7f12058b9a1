// A stranger to walship who reads the nodes' files all along, in another process than theirs, with plain better-sqlite3.
import { setTimeout as sleep } from 'node:timers/promises';
import Sqlite from 'better-sqlite3';
import type { Random } from '../../simulation/random.js';
import { problemOf } from './ledger.mjs';

/** Keeps a snapshot for so long at most. */
const holdMs = 300;

/** Of one node's file. What is seen stays seen for as long as the transaction lasts, and is consistent. */
export class Reader {
  snapshots = 0;
  readonly #path: string;
  readonly #random: Random;
  readonly #ended: Promise<void>;
  #stopped = false;
  #problem = '';

  constructor(path: string, random: Random) {
    this.#path = path;
    this.#random = random;
    this.#ended = this.#run();
  }

  /** @throws what was wrong with anything that it has read */
  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#ended;
    this.check();
  }

  check(): void {
    if (this.#problem !== '') throw new Error(`a reader of ${this.#path}: ${this.#problem}`);
  }

  async #run(): Promise<void> {
    while (!this.#stopped && this.#problem === '') {
      try {
        await this.#read();
      } catch (error) {
        const { code, message } = error as Error & { code: string };
        // There is no file yet, or nothing in it; or one process has the locks that another's end has left to be repaired.
        const passing = code === 'SQLITE_CANTOPEN' || code.startsWith('SQLITE_BUSY');
        if (!passing && !/no such table/.test(message)) this.#problem = `${code}: ${message}`;
      }
      await sleep(this.#random.below(60));
    }
  }

  async #read(): Promise<void> {
    const db = new Sqlite(this.#path, { readonly: true, fileMustExist: true, timeout: 10 });
    try {
      for (let i = this.#random.below(4); i >= 0 && !this.#stopped; i--) {
        db.exec('begin');
        const first = this.#look(db);
        await sleep(this.#random.below(holdMs));
        const second = this.#look(db);
        if (first !== second) this.#problem = `a snapshot changed from ${first} to ${second}`;
        if (this.#random.chance(0.1)) this.#checkIntegrity(db);
        db.exec('commit');
        this.snapshots += 1;
      }
    } finally {
      db.close();
    }
  }

  #look(db: Sqlite.Database): string {
    const problem = problemOf(db);
    if (problem !== '') this.#problem = problem;
    return JSON.stringify(db.prepare('select * from total').get());
  }

  #checkIntegrity(db: Sqlite.Database): void {
    const answer = db.pragma('integrity_check', { simple: true });
    if (answer !== 'ok') this.#problem = String(answer);
  }
}

// The clients of the demonstration. Each has one transaction under way at a time. What they were told is done is all
// that the proof at the end goes by: it is kept here, outside of every node.
import { accounts, type Note, openingBalance, type Transaction, type Transfer } from './protocol.js';

const clients = 8;

/** What the database must hold. */
export interface Ledger {
  readonly balances: readonly number[];
  readonly transfers: ReadonlyMap<number, Transfer>;
  readonly notes: ReadonlyMap<number, Note>;
}

export class Clients {
  readonly #send: (transactions: readonly Transaction[]) => void;
  readonly #balances: number[] = Array.from({ length: accounts }, () => openingBalance);
  readonly #transfers = new Map<number, Transfer>();
  readonly #notes = new Map<number, Note>();
  readonly #underWay = new Map<number, Transaction>();
  #latenciesMs: number[] = [];
  #nextId = 1;
  #running = false;
  #idle: (() => void) | undefined;

  /** @param send hands transactions to the primary */
  constructor(send: (transactions: readonly Transaction[]) => void) {
    this.#send = send;
  }

  get acknowledged(): number {
    return this.#transfers.size + this.#notes.size;
  }

  get underWay(): number {
    return this.#underWay.size;
  }

  get ledger(): Ledger {
    return { balances: this.#balances, transfers: this.#transfers, notes: this.#notes };
  }

  run(): void {
    this.#running = true;
    this.#send(Array.from({ length: clients }, () => this.#next()));
  }

  /** Begins nothing more; resolves when all that was begun is acknowledged. */
  pause(): Promise<void> {
    this.#running = false;
    return new Promise((resolve) => {
      this.#idle = resolve;
      this.#settle();
    });
  }

  /** The primary says that these are done; their clients go on. */
  take(done: readonly { readonly id: number; readonly ms: number }[]): void {
    for (const { id, ms } of done) {
      const transaction = this.#underWay.get(id);
      if (transaction === undefined) throw new Error(`transaction ${id} is done a second time`);
      this.#underWay.delete(id);
      this.#latenciesMs.push(ms);
      this.#record(transaction);
    }
    if (this.#running) this.#send(done.map(() => this.#next()));
    else this.#settle();
  }

  /** Commit latencies since the last call, ascending. */
  takeLatencies(): Float64Array {
    const latencies = Float64Array.from(this.#latenciesMs).sort();
    this.#latenciesMs = [];
    return latencies;
  }

  #settle(): void {
    if (this.#underWay.size > 0) return;
    this.#idle?.();
    this.#idle = undefined;
  }

  #record(transaction: Transaction): void {
    if (transaction.kind === 'note') {
      this.#notes.set(transaction.id, transaction);
      return;
    }
    const { id, from, to, amount } = transaction;
    this.#transfers.set(id, transaction);
    this.#balances[from] = (this.#balances[from] as number) - amount;
    this.#balances[to] = (this.#balances[to] as number) + amount;
  }

  #next(): Transaction {
    const id = this.#nextId++;
    const any = (below: number) => Math.floor(Math.random() * below);
    const transaction: Transaction =
      id % 4 === 0
        ? { kind: 'note', id, account: any(accounts), body: `note ${id} `.repeat(1 + any(20)) }
        : { kind: 'transfer', id, from: any(accounts), to: any(accounts), amount: 1 + any(500) };
    this.#underWay.set(id, transaction);
    return transaction;
  }
}

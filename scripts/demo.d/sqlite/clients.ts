// The clients of the demonstration. Each has one transaction under way at a time. What they were told is done is what the
// proof at the end goes by: it is kept here, outside of every node.
import {
  accounts,
  type Note,
  type Outcome,
  openingBalance,
  type Transaction,
  type Transfer,
} from './protocol.js';

const clients = 8;
const againMs = 2;

/** What the database must hold. */
export interface Ledger {
  /** After every acknowledged transfer. */
  readonly balances: readonly number[];
  readonly transfers: ReadonlyMap<number, Transfer>;
  readonly notes: ReadonlyMap<number, Note>;
  /** Transactions that may be there or not: their primary was lost before it had said that they are done. */
  readonly unknown: ReadonlyMap<number, Transaction>;
}

export class Clients {
  readonly #send: (transactions: readonly Transaction[]) => boolean;
  readonly #balances: number[] = Array.from({ length: accounts }, () => openingBalance);
  readonly #transfers = new Map<number, Transfer>();
  readonly #notes = new Map<number, Note>();
  readonly #unknown = new Map<number, Transaction>();
  readonly #underWay = new Map<number, Transaction>();
  /** Of those under way: with no node, because there is no primary. */
  #parked: Transaction[] = [];
  #again: NodeJS.Timeout | undefined;
  #latenciesMs: number[] = [];
  #acknowledgedAt: number | undefined;
  #longestPauseMs = 0;
  #watchedPauseMs = 0;
  #nextId = 1;
  #running = false;
  #idle: (() => void) | undefined;
  #onAcknowledged: (() => void) | undefined;

  /** @param send hands transactions to the primary; false: there is none */
  constructor(send: (transactions: readonly Transaction[]) => boolean) {
    this.#send = send;
  }

  get acknowledged(): number {
    return this.#transfers.size + this.#notes.size;
  }

  get ledger(): Ledger {
    return {
      balances: this.#balances,
      transfers: this.#transfers,
      notes: this.#notes,
      unknown: this.#unknown,
    };
  }

  run(): void {
    this.#running = true;
    this.#acknowledgedAt = performance.now();
    this.#longestPauseMs = 0;
    this.#hand(Array.from({ length: clients }, () => this.#next()));
  }

  /** Begins nothing more; resolves when nothing is under way. */
  pause(): Promise<void> {
    this.#running = false;
    return new Promise((resolve) => {
      this.#idle = resolve;
      this.#settle();
    });
  }

  /** The primary says what has become of these; their clients go on. */
  take(outcomes: readonly Outcome[]): void {
    const next: Transaction[] = [];
    for (const { id, fate, ms } of outcomes) {
      const transaction = this.#underWay.get(id);
      if (transaction === undefined) throw new Error(`transaction ${id} has come to its end before`);
      if (fate === 'refused') {
        this.#parked.push(transaction);
        this.#again ??= setTimeout(() => this.resume(), againMs);
        continue;
      }
      this.#underWay.delete(id);
      if (fate === 'acknowledged') {
        this.#latenciesMs.push(ms);
        this.#record(transaction);
      } else {
        this.#unknown.set(id, transaction);
      }
      if (this.#running) next.push(this.#next());
    }
    if (outcomes.some(({ fate }) => fate === 'acknowledged')) this.#noteAcknowledgement();
    if (next.length > 0) this.#hand(next);
    if (!this.#running) this.#settle();
  }

  /** There may be a primary again. */
  resume(): void {
    clearTimeout(this.#again);
    this.#again = undefined;
    this.#hand(this.#parked.splice(0));
  }

  /** The primary is dead. @returns of how many transactions nobody knows whether they are done */
  abandon(): number {
    const lost = new Map(this.#underWay);
    for (const { id } of this.#parked) lost.delete(id);
    this.take([...lost.keys()].map((id) => ({ id, fate: 'unknown', ms: 0 })));
    return lost.size;
  }

  /** Resolves at the next acknowledgement. */
  nextAcknowledged(): Promise<void> {
    return new Promise((resolve) => {
      this.#onAcknowledged = resolve;
    });
  }

  /** Commit latencies since the last call, ascending. */
  takeLatencies(): Float64Array {
    const latencies = Float64Array.from(this.#latenciesMs).sort();
    this.#latenciesMs = [];
    return latencies;
  }

  /** The longest time without an acknowledgement to any client since {@link run}. */
  get longestPauseMs(): number {
    return this.#longestPauseMs;
  }

  /** Returns a function that tells the longest one from now on. */
  watchPauses(): () => number {
    this.#watchedPauseMs = 0;
    return () => this.#watchedPauseMs;
  }

  #hand(transactions: readonly Transaction[]): void {
    if (transactions.length > 0 && !this.#send(transactions)) this.#parked.push(...transactions);
  }

  #noteAcknowledgement(): void {
    const now = performance.now();
    if (this.#acknowledgedAt !== undefined) {
      const pauseMs = now - this.#acknowledgedAt;
      this.#longestPauseMs = Math.max(this.#longestPauseMs, pauseMs);
      this.#watchedPauseMs = Math.max(this.#watchedPauseMs, pauseMs);
    }
    this.#acknowledgedAt = now;
    this.#onAcknowledged?.();
    this.#onAcknowledged = undefined;
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

import type { Lsn } from './lsn.js';

/**
 * Promises of positions not reached yet, released in order. Appends are mostly awaited in LSN order, so a waiter is
 * nearly always added at the end; waiters of one LSN share a promise.
 */
export class Waiters {
  readonly #queue: Waiter[] = [];
  #head = 0;

  get size(): number {
    return this.#queue.length - this.#head;
  }

  add(lsn: Lsn): Promise<void> {
    let at = this.#queue.length;
    while (at > this.#head && (this.#queue[at - 1] as Waiter).lsn > lsn) at--;
    const before = at > this.#head ? this.#queue[at - 1] : undefined;
    if (before?.lsn === lsn) return before.promise;
    const waiter = makeWaiter(lsn);
    if (at === this.#queue.length) this.#queue.push(waiter);
    else this.#queue.splice(at, 0, waiter);
    return waiter.promise;
  }

  /** Releases every waiter at or below `lsn`. */
  release(lsn: Lsn): void {
    while (this.#head < this.#queue.length && (this.#queue[this.#head] as Waiter).lsn <= lsn) {
      (this.#queue[this.#head] as Waiter).resolve();
      this.#head++;
    }
    if (this.#head > 1024 && this.#head * 2 > this.#queue.length) {
      this.#queue.splice(0, this.#head);
      this.#head = 0;
    }
  }

  rejectAll(error: Error): void {
    for (const waiter of this.#queue.splice(this.#head)) waiter.reject(error);
    this.#queue.length = 0;
    this.#head = 0;
  }
}

interface Waiter {
  readonly lsn: Lsn;
  readonly promise: Promise<void>;
  resolve(): void;
  reject(error: Error): void;
}

function makeWaiter(lsn: Lsn): Waiter {
  let resolve!: () => void;
  let reject!: (error: Error) => void;
  const promise = new Promise<void>((yes, no) => {
    resolve = yes;
    reject = no;
  });
  // A rejection reaches whoever awaits; nobody doing so is not a crash.
  promise.catch(() => {});
  return { lsn, promise, resolve, reject };
}

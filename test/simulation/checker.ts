/** An append in a log: the same object on every node that has it. */
export interface Entry {
  readonly id: number;
  readonly epoch: number;
}

export class Violation extends Error {}

/** Looks on, knows everything, and speaks up when something happens that must not. */
export class Checker {
  /** What was acknowledged to clients, by position. */
  readonly acknowledged: Entry[] = [];
  #lastEpoch = 0;
  #reigning = '';
  /** Of the primary that committed last. */
  #log: readonly Entry[] = [];
  readonly #synchronous: boolean;

  constructor(synchronous: boolean) {
    this.#synchronous = synchronous;
  }

  /** `node` tells its clients that everything below `lsn` is committed. */
  committed(node: string, epoch: number, log: readonly Entry[], lsn: number): void {
    if (epoch < this.#lastEpoch && this.#synchronous && this.#knewTooLate(log, lsn)) return;
    if (epoch < this.#lastEpoch) {
      throw new Violation(
        `${node} commits in epoch ${epoch}, after ${this.#reigning} did in epoch ${this.#lastEpoch}`,
      );
    }
    if (epoch === this.#lastEpoch && node !== this.#reigning) {
      throw new Violation(`${node} and ${this.#reigning} both commit in epoch ${epoch}`);
    }
    this.#lastEpoch = epoch;
    this.#reigning = node;
    this.#log = log;
    if (!this.#synchronous) return;
    for (let at = 0; at < this.acknowledged.length && at < lsn; at++) {
      if (this.acknowledged[at] !== log[at]) throw this.#lost(node, epoch, at, log);
    }
    for (let at = this.acknowledged.length; at < lsn; at++) this.acknowledged.push(log[at] as Entry);
  }

  /**
   * An old primary that stood still may find acknowledgements waiting that the standbys gave before they promised a newer
   * epoch. What they are for is in the new primary's log, in its place: nothing new is committed.
   */
  #knewTooLate(log: readonly Entry[], lsn: number): boolean {
    for (let at = 0; at < lsn; at++) if (log[at] !== this.#log[at]) return false;
    return true;
  }

  /** `node` begins to take appends. */
  promoted(node: string, epoch: number, log: readonly Entry[]): void {
    // One that begins too late, after a newer one, has nobody left to commit with: committed() would tell.
    if (!this.#synchronous || epoch < this.#lastEpoch) return;
    for (let at = 0; at < this.acknowledged.length; at++) {
      if (this.acknowledged[at] !== log[at]) throw this.#lost(node, epoch, at, log);
    }
  }

  /** A node's promise. */
  promised(node: string, before: number, epoch: number): void {
    if (epoch < before) throw new Violation(`${node} promised epoch ${epoch} after epoch ${before}`);
  }

  #lost(node: string, epoch: number, at: number, log: readonly Entry[]): Violation {
    const wanted = this.acknowledged[at] as Entry;
    const there = log[at];
    return new Violation(
      `${node}, primary in epoch ${epoch}, lacks append ${wanted.id} of epoch ${wanted.epoch}, which was acknowledged; at LSN ${at} ` +
        `it has ${there ? `append ${there.id} of epoch ${there.epoch}` : 'nothing'}`,
    );
  }
}

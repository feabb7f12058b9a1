import type { ClusterView, Member, PrimaryRecord } from '../../src/failover/coordinator/coordinator.js';

/** The coordinator as it is meant to be: one record, replaced by compare-and-swap, linearizable. */
export class Store {
  /** Nobody reaches it. */
  down = false;
  #primary: PrimaryRecord | undefined;
  #revision = 0n;
  paused = false;
  readonly members: Member[] = [];
  readonly #watchers = new Set<() => void>();

  view(): ClusterView {
    return {
      ...(this.#primary && { primary: this.#primary }),
      revision: this.#revision,
      members: this.members,
      paused: this.paused,
    };
  }

  swap(expected: bigint, next: PrimaryRecord, blind: boolean): bigint | undefined {
    if (expected !== this.#revision && !blind) return undefined;
    this.#primary = next;
    this.#revision += 1n;
    for (const tell of this.#watchers) tell();
    return this.#revision;
  }

  watch(tell: () => void): () => void {
    this.#watchers.add(tell);
    return () => this.#watchers.delete(tell);
  }
}

/** Simulated time: what is to happen, in order. */
export class Agenda {
  now = 0;
  #next = 0;
  /** A binary heap by (time, order of entry). */
  readonly #heap: { at: number; order: number; run: () => void }[] = [];

  at(time: number, run: () => void): void {
    const heap = this.#heap;
    const entry = { at: Math.max(time, this.now), order: this.#next++, run };
    let index = heap.length;
    heap.push(entry);
    while (index > 0) {
      const parent = (index - 1) >> 1;
      const above = heap[parent] as typeof entry;
      if (above.at < entry.at || (above.at === entry.at && above.order < entry.order)) break;
      heap[index] = above;
      index = parent;
    }
    heap[index] = entry;
  }

  in(delay: number, run: () => void): void {
    this.at(this.now + delay, run);
  }

  /** Runs everything up to `time`. */
  runUntil(time: number): void {
    while (this.#heap.length > 0 && (this.#heap[0] as { at: number }).at <= time) {
      const { at, run } = this.#pop();
      this.now = at;
      run();
    }
    this.now = time;
  }

  #pop(): { at: number; run: () => void } {
    const heap = this.#heap;
    const top = heap[0] as (typeof heap)[0];
    const last = heap.pop() as typeof top;
    if (heap.length === 0) return top;
    let index = 0;
    while (true) {
      let child = 2 * index + 1;
      if (child >= heap.length) break;
      const right = heap[child + 1];
      const left = heap[child] as typeof top;
      if (right && (right.at < left.at || (right.at === left.at && right.order < left.order))) child += 1;
      const chosen = heap[child] as typeof top;
      if (last.at < chosen.at || (last.at === chosen.at && last.order < chosen.order)) break;
      heap[index] = chosen;
      index = child;
    }
    heap[index] = last;
    return top;
  }
}

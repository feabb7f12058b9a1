import { Lists } from './lists.js';
import { PageTable } from './pages.js';

/** The queue a page was evicted from. */
export const fifoGhost = 0;
export const lruGhost = 1;

/**
 * Numbers of pages that were evicted not long ago, by the queue they left. As in ARC, the FIFO queue and its ghosts
 * together remember one arena's worth of pages, and so do the ghosts of both queues.
 */
export class Ghosts {
  readonly #lists: Lists;
  readonly #pages: Float64Array;
  readonly #appended: Uint8Array;
  readonly #table: PageTable;
  readonly #capacity: number;
  /** Ghosts without a page, as a stack. */
  readonly #unused: Int32Array;
  #unusedCount: number;

  constructor(slots: number) {
    this.#capacity = slots;
    // One more than is kept, for the moment between adding and trimming.
    const bound = slots + 1;
    this.#lists = new Lists(bound, 2);
    this.#pages = new Float64Array(bound);
    this.#appended = new Uint8Array(bound);
    this.#table = new PageTable(bound);
    this.#unused = Int32Array.from({ length: bound }, (_, index) => index);
    this.#unusedCount = bound;
  }

  length(queue: number): number {
    return this.#lists.length(queue);
  }

  /** The ghost of `page`, −1 if it is forgotten. */
  find(page: number): number {
    return this.#table.get(page);
  }

  queueOf(ghost: number): number {
    return this.#lists.listOf(ghost);
  }

  /** Whether the page had stayed in the arena since it was appended, up to its eviction. */
  wasAppended(ghost: number): boolean {
    return this.#appended[ghost] === 1;
  }

  /** Remembers `page`, evicted from `queue`, while the FIFO queue holds `fifoLength` pages. */
  add(page: number, queue: number, appended: boolean, fifoLength: number): void {
    const known = this.#table.get(page);
    if (known >= 0) this.remove(known);
    const ghost = this.#unused[--this.#unusedCount] as number;
    this.#pages[ghost] = page;
    this.#appended[ghost] = appended ? 1 : 0;
    this.#table.set(page, ghost);
    this.#lists.push(queue, ghost);
    while (this.length(fifoGhost) > 0 && this.length(fifoGhost) + fifoLength > this.#capacity) {
      this.remove(this.#lists.oldest(fifoGhost));
    }
    while (this.length(fifoGhost) + this.length(lruGhost) > this.#capacity) {
      this.remove(this.#lists.oldest(this.length(lruGhost) > 0 ? lruGhost : fifoGhost));
    }
  }

  remove(ghost: number): void {
    this.#table.delete(this.#pages[ghost] as number);
    this.#lists.remove(ghost);
    this.#unused[this.#unusedCount++] = ghost;
  }
}

import { Lists } from './lists.js';
import type { CacheSettings } from './settings.js';

/** How a page came into the arena: written or received just now, or read back from disk because it was missing. */
export type Origin = 'appended' | 'loaded';

/**
 * Pages the data plane may evict without asking, the next victim first. The arrays belong to the policy and are
 * overwritten by its next list: copy them or hand them on before the next step. A page number goes with each slot
 * because the slot may hold another page by the time the list is read.
 */
export interface VictimList {
  readonly slots: Uint32Array;
  readonly pages: Float64Array;
  count: number;
}

/** What the policy counts and where it stands. Counters run from its creation. */
export interface PolicyStats {
  /** Pages in the arena, and in each queue. */
  resident: number;
  fifo: number;
  lru: number;
  /** Where the split between the queues stands: the pages the FIFO queue may hold. */
  fifoTarget: number;
  /** How many pages that were never read back from disk are kept for live readers. 0 unless adaptive. */
  liveTarget: number;
  /** Accesses seen: with sampled reference bits, at most one a page and tick. */
  hits: number;
  /** Pages read back from disk. */
  misses: number;
  /** Of those, pages that had been evicted not long ago. 0 unless adaptive. */
  ghostHits: number;
  /** Misses plain LRU with the same slots would have had. 0 unless adaptive. */
  lruMisses: number;
  evictions: number;
  /** Pages that moved from the FIFO queue to the LRU queue. */
  promotions: number;
}

/**
 * What the literal and the adaptive policy have in common: the books on which page is in which slot since when, the
 * first window (T1) and the review (T2). Which queue a page is in, and which leaves first, the two decide.
 */
export abstract class Queues {
  protected readonly settings: CacheSettings;
  /** The page in each slot, −1 for none. */
  protected readonly pages: Float64Array;
  /** When the page in each slot came, or came back to the head of the FIFO queue: the start of its first window. */
  protected readonly windowFrom: Float64Array;
  /** Slots of the LRU queue accessed since the last review, in the order of their last access. */
  protected readonly touched: Lists;
  readonly #stats: PolicyStats = {
    resident: 0,
    fifo: 0,
    lru: 0,
    fifoTarget: 0,
    liveTarget: 0,
    hits: 0,
    misses: 0,
    ghostHits: 0,
    lruMisses: 0,
    evictions: 0,
    promotions: 0,
  };
  #nextReviewAt = Number.NEGATIVE_INFINITY;

  constructor(settings: CacheSettings) {
    this.settings = settings;
    this.pages = new Float64Array(settings.slots).fill(-1);
    this.windowFrom = new Float64Array(settings.slots);
    this.touched = new Lists(settings.slots, 1);
  }

  /** The page in `slot`, −1 for none. */
  pageOf(slot: number): number {
    return this.pages[slot] as number;
  }

  inserted(slot: number, page: number, origin: Origin, nowMs: number): void {
    if (this.pages[slot] === page) return;
    this.removed(slot);
    this.pages[slot] = page;
    this.windowFrom[slot] = nowMs;
    this.#stats.resident++;
    if (origin === 'loaded') this.#stats.misses++;
    this.enter(slot, page, origin);
  }

  accessed(slot: number, nowMs: number): void {
    if ((this.pages[slot] as number) < 0) return;
    this.#stats.hits++;
    this.access(slot, nowMs - (this.windowFrom[slot] as number) <= this.settings.firstWindowMs, nowMs);
  }

  removed(slot: number): void {
    const page = this.pages[slot] as number;
    if (page < 0) return;
    this.touched.remove(slot);
    this.leave(slot, page);
    this.pages[slot] = -1;
    this.#stats.resident--;
    this.#stats.evictions++;
  }

  /** Every T2: the pages of the LRU queue accessed since the last look move to its head, the last accessed on top. */
  review(nowMs: number): void {
    if (nowMs < this.#nextReviewAt) return;
    this.#nextReviewAt = nowMs + this.settings.reviewMs;
    for (let slot = this.touched.oldest(0); slot >= 0; slot = this.touched.oldest(0)) {
      this.touched.remove(slot);
      this.toLruHead(slot);
    }
  }

  /** The counters; the object is reused. */
  stats(): PolicyStats {
    this.report(this.#stats);
    return this.#stats;
  }

  /** Writes up to `most` victims into `list`. Takes O(`most`) steps. */
  abstract choose(list: VictimList, most: number): void;

  protected abstract enter(slot: number, page: number, origin: Origin): void;
  protected abstract access(slot: number, inFirstWindow: boolean, nowMs: number): void;
  protected abstract leave(slot: number, page: number): void;
  protected abstract toLruHead(slot: number): void;
  protected abstract report(stats: PolicyStats): void;

  protected promoted(): void {
    this.#stats.promotions++;
  }
}

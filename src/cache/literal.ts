import { Lists } from './lists.js';
import { type PolicyStats, Queues, type VictimList } from './queues.js';
import type { CacheSettings } from './settings.js';

const fifo = 0;
const lru = 1;
/** Evicted by the rules, but still in the arena until the data plane needs the slot. */
const evicted = 2;

/** The two queues to the letter: fixed shares, eviction by p1 and p2. */
export class LiteralQueues extends Queues {
  readonly #lists: Lists;
  /** 1 for an evicted page that came from the LRU queue. */
  readonly #fromLru: Uint8Array;
  readonly #fifoShare: number;
  readonly #fifoLimit: number;
  readonly #lruLimit: number;

  constructor(settings: CacheSettings) {
    super(settings);
    this.#lists = new Lists(settings.slots, 3);
    this.#fromLru = new Uint8Array(settings.slots);
    const share = Math.round(settings.fifoShare * settings.slots);
    // A FIFO queue that is full at one page would evict every page on arrival.
    this.#fifoShare = Math.min(Math.max(share, 2), settings.slots - 1);
    this.#fifoLimit = Math.max(2, Math.floor((this.#fifoShare * settings.fillPercent) / 100));
    this.#lruLimit = Math.max(
      1,
      Math.floor(((settings.slots - this.#fifoShare) * settings.fillPercent) / 100),
    );
  }

  override choose(list: VictimList, most: number): void {
    list.count = 0;
    // After the evicted ones those that would be next, so that a stalled event loop does not leave the data plane
    // without.
    for (let from = 0; from < 3; from++) {
      const queue = (from + evicted) % 3;
      for (let slot = this.#lists.oldest(queue); slot >= 0; slot = this.#lists.newer(slot)) {
        if (list.count === most) return;
        list.slots[list.count] = slot;
        list.pages[list.count] = this.pages[slot] as number;
        list.count++;
      }
    }
  }

  protected override enter(slot: number): void {
    this.#lists.push(fifo, slot);
    if (this.#lists.length(fifo) >= this.#fifoLimit) this.#evict(fifo);
  }

  protected override access(slot: number, inFirstWindow: boolean): void {
    const queue = this.#lists.listOf(slot);
    if (queue === lru) {
      this.touched.push(0, slot);
    } else if (queue === evicted && this.#fromLru[slot] === 1) {
      this.toLruHead(slot);
    } else if (inFirstWindow) {
      this.promoted();
      this.toLruHead(slot);
    }
  }

  protected override leave(slot: number): void {
    this.#lists.remove(slot);
  }

  protected override toLruHead(slot: number): void {
    this.#lists.push(lru, slot);
    if (this.#lists.length(lru) > this.#lruLimit) this.#evict(lru);
  }

  protected override report(stats: PolicyStats): void {
    stats.fifo = this.#lists.length(fifo);
    stats.lru = this.#lists.length(lru);
    stats.fifoTarget = this.#fifoShare;
  }

  /** Evicts the oldest p2 % of `queue`, at least one page. */
  #evict(queue: number): void {
    const count = Math.max(1, Math.floor((this.#lists.length(queue) * this.settings.evictPercent) / 100));
    for (let i = 0; i < count; i++) {
      const slot = this.#lists.oldest(queue);
      this.touched.remove(slot);
      this.#fromLru[slot] = queue === lru ? 1 : 0;
      this.#lists.push(evicted, slot);
    }
  }
}

import { fifoGhost, Ghosts } from './ghosts.js';
import { Lists } from './lists.js';
import { type Origin, type PolicyStats, Queues, type VictimList } from './queues.js';
import type { CacheSettings } from './settings.js';
import { ShadowLru } from './shadow.js';

// Each queue is kept as two lists: pages that are in the arena since they were appended, or are still to be read by live
// readers, and pages that were read back from disk. Bit 0 of a list's number says loaded, bit 1 says LRU queue. Where the order of a whole queue
// matters, `#moved` tells which of two tails is older.
const appendedFifo = 0;
const loadedFifo = 1;
const appendedLru = 2;
const loadedLru = 3;
const listCount = 4;

/** Orphans are given up in this order: what catch-up left behind before what live readers may still want. */
const orphanOrder = [loadedFifo, loadedLru, appendedFifo, appendedLru] as const;

/** The live target never claims more of the slots than this, so that catch-up readers can still share pages. */
const liveShareMax = 0.75;
/** A live reader's miss raises the live target by one page and this share of the slots … */
const liveStep = 1 / 64;
/** … and any other page that was evicted too early lowers it by this many. */
const liveDecay = 0.1;
/** The lag of a live reader that is no longer seen fades by 1/e while the log appends this many arenas of pages. */
const lagMemory = 2;
/** A live reader may fall back this much before its pages are taken for read. */
const lagSlack = 1.1;
/**
 * Credit is kept down to this many arenas' worth of pages: enough to differ from LRU in every page and to lose the
 * lot once. So misses over any stretch of time, not only since the start, are bounded by LRU's.
 */
const creditArenas = 2;

/**
 * The two queues with a memory. Three things are added to the letter of the policy:
 *
 * - *Split.* A page that was evicted and comes back (a ghost hit) says which queue was too short: the FIFO queue's
 *   target grows or shrinks, as in ARC, and the page goes straight to the LRU queue.
 * - *Live target.* A page that was appended, evicted and then read back is a live reader's miss: the target of pages
 *   kept since they were appended grows, and while there are no more of them than that, only pages that catch-up
 *   read back are evicted. So a catch-up scan recycles its own pages. A page that was evicted before any reader came,
 *   and that catch-up reads back while live readers may still be behind it, counts as kept.
 * - *Credit.* A shadow LRU tells what plain LRU would have missed. Credit is a margin of its misses, plus one for
 *   each miss it would have had and we have not, less one for each we have and it would not. To evict a page that
 *   LRU still holds takes credit for every page in which we then differ. Without credit the victim is one that LRU
 *   has evicted already, which can only bring us closer to it. Hence, on any trace:
 *   our misses + absent pages ≤ LRU's misses × (1 + margin).
 */
export class AdaptiveQueues extends Queues {
  readonly #lists: Lists;
  readonly #ghosts: Ghosts;
  readonly #shadow: ShadowLru;
  /** Serial number of the move that put the page at the head of its list. */
  readonly #moved: Float64Array;
  #moves = 0;
  #fifoTarget: number;
  #liveTarget = 0;
  /** Unit: a hundredth of a page, so that a whole percentage keeps it exact. */
  #credit = 0;
  readonly #creditMax: number;
  #lruMisses = 0;
  #ghostHits = 0;
  /** The head of the log, whose pages are numbered in order. */
  #newestPage = 0;
  /** How many pages behind the head of the log the slowest live reader was seen, fading as the log goes on. */
  #slowestLag = 0;

  // The walk of choose(): where it stands in each list, how long the lists would be by then, and which slots it
  // has listed (those whose mark is this walk's number).
  readonly #cursor = new Int32Array(listCount);
  readonly #length = new Int32Array(listCount);
  readonly #mark: Float64Array;
  #walk = 0;

  constructor(settings: CacheSettings) {
    super(settings);
    const { slots } = settings;
    this.#lists = new Lists(slots, listCount);
    this.#ghosts = new Ghosts(slots);
    this.#shadow = new ShadowLru(slots, this.#lists, listCount);
    this.#moved = new Float64Array(slots);
    this.#mark = new Float64Array(slots);
    this.#fifoTarget = settings.fifoShare * slots;
    this.#creditMax = creditArenas * slots * 100;
  }

  override choose(list: VictimList, most: number): void {
    list.count = 0;
    this.#walk++;
    for (let queue = 0; queue < listCount; queue++) {
      this.#length[queue] = this.#lists.length(queue);
      this.#cursor[queue] = this.#settled(queue, this.#lists.oldest(queue));
    }
    this.#chooseByQueues(list, most);
    this.#chooseOrphans(list, most);
    this.#chooseAsLru(list, most);
  }

  protected override enter(slot: number, page: number, origin: Origin): void {
    const loaded = origin === 'loaded';
    let queue = loaded ? loadedFifo : appendedFifo;
    const ghost = this.#ghosts.find(page);
    if (ghost >= 0) {
      if (loaded) {
        this.#learn(ghost);
        queue = this.#isUnread(ghost, page) ? appendedLru : loadedLru;
      }
      this.#ghosts.remove(ghost);
    }
    const lruHit = this.#shadow.inserted(slot, page);
    if (!loaded) {
      this.#newestPage = Math.max(this.#newestPage, page);
      this.#slowestLag *= 1 - 1 / (lagMemory * this.settings.slots);
    } else if (lruHit) {
      this.#earn(-100);
    } else {
      this.#lruMissed(0);
    }
    this.#toHead(slot, queue);
  }

  protected override access(slot: number, inFirstWindow: boolean, nowMs: number): void {
    const lruHit = this.#shadow.accessed(slot, this.pages[slot] as number);
    if (!lruHit) this.#lruMissed(100);
    const queue = this.#lists.listOf(slot);
    if ((queue & 1) === 0)
      this.#slowestLag = Math.max(this.#slowestLag, this.#lag(this.pages[slot] as number));
    if (queue >= appendedLru) {
      this.touched.push(0, slot);
    } else if (inFirstWindow) {
      this.promoted();
      this.toLruHead(slot);
    } else {
      // Read, but late: it starts over as if it were new.
      this.windowFrom[slot] = nowMs;
      this.#toHead(slot, queue);
    }
  }

  protected override leave(slot: number, page: number): void {
    const queue = this.#lists.listOf(slot);
    this.#lists.remove(slot);
    this.#shadow.removed(slot, page);
    this.#ghosts.add(page, queue >> 1, (queue & 1) === 0, this.#fifoLength());
  }

  protected override toLruHead(slot: number): void {
    this.#toHead(slot, this.#lists.listOf(slot) | 2);
  }

  protected override report(stats: PolicyStats): void {
    stats.fifo = this.#fifoLength();
    stats.lru = stats.resident - stats.fifo;
    stats.fifoTarget = Math.round(this.#fifoTarget);
    stats.liveTarget = Math.round(this.#liveTarget);
    stats.ghostHits = this.#ghostHits;
    stats.lruMisses = this.#lruMisses;
  }

  #fifoLength(): number {
    return this.#lists.length(appendedFifo) + this.#lists.length(loadedFifo);
  }

  #toHead(slot: number, queue: number): void {
    this.#lists.push(queue, slot);
    this.#moved[slot] = ++this.#moves;
  }

  /** A page came back from disk that `ghost` remembers. */
  #learn(ghost: number): void {
    const { slots } = this.settings;
    this.#ghostHits++;
    const fifo = this.#ghosts.length(0);
    const lru = this.#ghosts.length(1);
    if (this.#ghosts.queueOf(ghost) === fifoGhost) {
      this.#fifoTarget = Math.min(slots, this.#fifoTarget + Math.max(1, lru / fifo));
    } else {
      this.#fifoTarget = Math.max(0, this.#fifoTarget - Math.max(1, fifo / lru));
    }
    this.#liveTarget = this.#ghosts.wasAppended(ghost)
      ? Math.min(slots * liveShareMax, this.#liveTarget + 1 + slots * liveStep)
      : Math.max(0, this.#liveTarget - liveDecay);
  }

  #lruMissed(won: number): void {
    this.#lruMisses++;
    this.#earn(this.settings.lruMarginPercent + won);
  }

  #earn(hundredths: number): void {
    this.#credit = Math.min(this.#creditMax, this.#credit + hundredths);
  }

  /** The order the two queues would choose, as far as the credit goes. */
  #chooseByQueues(list: VictimList, most: number): void {
    const absent = this.#shadow.absent;
    let differences = Math.floor(this.#credit / 100) - absent;
    let lruTail = absent === 0 ? this.#shadow.tail() : -1;
    while (list.count < most) {
      const queue = this.#nextQueue();
      if (queue < 0) return;
      const slot = this.#cursor[queue] as number;
      if (slot === lruTail) {
        // LRU evicts the same page: no difference.
        lruTail = this.#shadow.afterTail(slot);
      } else if (this.#shadow.holds(slot)) {
        if (differences < 1) return;
        differences--;
        lruTail = -1;
      }
      this.#list(list, slot);
      this.#cursor[queue] = this.#settled(queue, this.#lists.newer(slot));
      this.#length[queue] = (this.#length[queue] as number) - 1;
      // The page that takes the slot is most likely a new one.
      this.#length[appendedFifo] = (this.#length[appendedFifo] as number) + 1;
    }
  }

  /** The list whose oldest page goes next, −1 if all have been walked. */
  #nextQueue(): number {
    const appended = (this.#length[appendedFifo] as number) + (this.#length[appendedLru] as number);
    const fifo = (this.#length[appendedFifo] as number) + (this.#length[loadedFifo] as number);
    const lruLeft = this.#has(appendedLru) || this.#has(loadedLru);
    const fifoLeft = this.#has(appendedFifo) || this.#has(loadedFifo);
    const fromFifo = fifoLeft && (fifo >= this.#fifoTarget || !lruLeft);
    if (appended <= this.#liveTarget && (this.#has(loadedFifo) || this.#has(loadedLru))) {
      return this.#has(loadedFifo) && (fromFifo || !this.#has(loadedLru)) ? loadedFifo : loadedLru;
    }
    if (fromFifo) {
      if (this.#has(loadedFifo)) return loadedFifo;
      if (!lruLeft || (this.#length[appendedFifo] as number) > this.#liveTarget) return appendedFifo;
    }
    if (!lruLeft) return fifoLeft ? appendedFifo : -1;
    if (!this.#has(loadedLru)) return appendedLru;
    if (!this.#has(appendedLru)) return loadedLru;
    const appendedMoved = this.#moved[this.#cursor[appendedLru] as number] as number;
    return appendedMoved < (this.#moved[this.#cursor[loadedLru] as number] as number)
      ? appendedLru
      : loadedLru;
  }

  #has(queue: number): boolean {
    return (this.#cursor[queue] as number) >= 0;
  }

  /**
   * `slot`, or the first one from there on that was not accessed since the last review: those that were go to the
   * head now, as the review would do.
   */
  #settled(queue: number, slot: number): number {
    let candidate = slot;
    while (candidate >= 0 && this.touched.listOf(candidate) >= 0) {
      const next = this.#lists.newer(candidate);
      this.touched.remove(candidate);
      this.#toHead(candidate, queue);
      candidate = next < 0 ? candidate : next;
    }
    return candidate;
  }

  /** Pages that LRU no longer holds: evicting them never costs credit. */
  #chooseOrphans(list: VictimList, most: number): void {
    const { orphans } = this.#shadow;
    // What was read back goes oldest first, and so does what nobody is likely to come for. Of the rest the newest goes:
    // to hold on to a few until somebody comes for them wins more than to let every one go shortly before.
    for (const queue of orphanOrder) {
      for (let slot = orphans.oldest(queue); slot >= 0; slot = orphans.newer(slot)) {
        if (list.count === most || ((queue & 1) === 0 && !this.#hasBeenRead(this.pages[slot] as number)))
          break;
        this.#list(list, slot);
      }
    }
    for (const queue of orphanOrder) {
      for (let slot = orphans.newest(queue); slot >= 0 && list.count < most; slot = orphans.older(slot)) {
        this.#list(list, slot);
      }
    }
  }

  /** How many pages the log has appended since `page`. */
  #lag(page: number): number {
    return this.#newestPage - page;
  }

  /** Whether the slowest live reader has surely read `page`. */
  #hasBeenRead(page: number): boolean {
    return this.#lag(page) > this.#slowestLag * lagSlack + 1;
  }

  /**
   * Whether the page that `ghost` remembers was evicted before its live readers came, and may still be ahead of them: it
   * was appended, left the FIFO queue, and lies no further back than they do. Whoever had it read back, a catch-up reader
   * most likely, it is to wait for them.
   */
  #isUnread(ghost: number, page: number): boolean {
    const left = this.#ghosts.queueOf(ghost) === fifoGhost && this.#ghosts.wasAppended(ghost);
    return left && !this.#hasBeenRead(page);
  }

  /** LRU's own order: to follow it is never a difference. */
  #chooseAsLru(list: VictimList, most: number): void {
    if (list.count === most) return;
    for (
      let slot = this.#shadow.tail();
      slot >= 0 && list.count < most;
      slot = this.#shadow.afterTail(slot)
    ) {
      this.#list(list, slot);
    }
  }

  #list(list: VictimList, slot: number): void {
    if (this.#mark[slot] === this.#walk) return;
    this.#mark[slot] = this.#walk;
    list.slots[list.count] = slot;
    list.pages[list.count] = this.pages[slot] as number;
    list.count++;
  }
}

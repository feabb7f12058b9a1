import { Lists } from './lists.js';
import { PageTable } from './pages.js';

/**
 * Plain LRU beside the real cache: which pages an LRU cache with the same slots would hold now. Two sets come out of
 * the comparison: pages LRU holds and we do not (`absent`), and pages we hold and LRU does not (`orphans`). When both
 * caches are full there are as many of one as of the other.
 */
export class ShadowLru {
  /**
   * Slots whose page LRU has evicted, one list for each queue of the owner, in the order LRU evicted them. A slot's
   * queue cannot change while it is here: it changes on access only, and an access brings the page back into LRU.
   */
  readonly orphans: Lists;
  readonly #queues: Lists;
  /** One node a page LRU holds. */
  readonly #recency: Lists;
  readonly #pageOfNode: Float64Array;
  /** The slot where the real cache holds the node's page, −1 if it is absent there. */
  readonly #slotOfNode: Int32Array;
  /** The node of the page in each slot, −1 for an orphan or an empty slot. */
  readonly #nodeOfSlot: Int32Array;
  /** Node of every absent page. */
  readonly #absent: PageTable;
  #unusedNodes: number;

  /** @param queues says which queue of the owner a slot is in */
  constructor(slots: number, queues: Lists, queueCount: number) {
    this.#queues = queues;
    this.orphans = new Lists(slots, queueCount);
    this.#recency = new Lists(slots, 1);
    this.#pageOfNode = new Float64Array(slots);
    this.#slotOfNode = new Int32Array(slots);
    this.#nodeOfSlot = new Int32Array(slots).fill(-1);
    this.#absent = new PageTable(slots);
    this.#unusedNodes = slots;
  }

  /** How many pages LRU holds that the real cache does not. */
  get absent(): number {
    return this.#absent.size;
  }

  /** Whether LRU holds the page in `slot` too. */
  holds(slot: number): boolean {
    return (this.#nodeOfSlot[slot] as number) >= 0;
  }

  /** The slot of the page that LRU would evict next, of those the real cache holds; −1 if there is none. */
  tail(): number {
    return this.#residentFrom(this.#recency.oldest(0));
  }

  /** The slot that comes after `slot` in that order, −1 if there is none. */
  afterTail(slot: number): number {
    return this.#residentFrom(this.#recency.newer(this.#nodeOfSlot[slot] as number));
  }

  /** `page` came into `slot` of the real cache. Returns whether LRU already held it. */
  inserted(slot: number, page: number): boolean {
    let node = this.#absent.get(page);
    const held = node >= 0;
    if (held) this.#absent.delete(page);
    else node = this.#newNode(page);
    this.#bind(node, slot);
    return held;
  }

  /** The page in `slot` was read. Returns whether LRU held it. */
  accessed(slot: number, page: number): boolean {
    const node = this.#nodeOfSlot[slot] as number;
    const held = node >= 0;
    this.orphans.remove(slot);
    this.#bind(held ? node : this.#newNode(page), slot);
    return held;
  }

  /** The real cache evicted `page` from `slot`. */
  removed(slot: number, page: number): void {
    this.orphans.remove(slot);
    const node = this.#nodeOfSlot[slot] as number;
    if (node < 0) return;
    this.#nodeOfSlot[slot] = -1;
    this.#slotOfNode[node] = -1;
    this.#absent.set(page, node);
  }

  /** A node for a page that LRU has to fetch, evicting its oldest page if it is full. */
  #newNode(page: number): number {
    let node: number;
    if (this.#unusedNodes > 0) {
      node = --this.#unusedNodes;
    } else {
      node = this.#recency.oldest(0);
      const slot = this.#slotOfNode[node] as number;
      if (slot < 0) {
        this.#absent.delete(this.#pageOfNode[node] as number);
      } else {
        this.#nodeOfSlot[slot] = -1;
        this.orphans.push(this.#queues.listOf(slot), slot);
      }
    }
    this.#pageOfNode[node] = page;
    return node;
  }

  #bind(node: number, slot: number): void {
    this.#recency.push(0, node);
    this.#slotOfNode[node] = slot;
    this.#nodeOfSlot[slot] = node;
  }

  #residentFrom(start: number): number {
    let node = start;
    while (node >= 0 && (this.#slotOfNode[node] as number) < 0) node = this.#recency.newer(node);
    return node < 0 ? -1 : (this.#slotOfNode[node] as number);
  }
}

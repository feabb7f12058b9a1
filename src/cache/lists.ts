/**
 * Doubly linked lists over the numbers 0…items−1, each of which is in at most one list. All memory is taken when it
 * is made: moving, adding and removing are O(1) and allocate nothing.
 *
 * A list has a newest and an oldest end. Of the policy's queues the newest end is the head and the oldest the tail.
 */
export class Lists {
  /** Neighbours of every item, then one sentinel a list: sentinel.older = newest item, sentinel.newer = oldest. */
  readonly #older: Int32Array;
  readonly #newer: Int32Array;
  readonly #list: Int8Array;
  readonly #lengths: Int32Array;
  readonly #items: number;

  constructor(items: number, lists: number) {
    this.#items = items;
    this.#older = new Int32Array(items + lists);
    this.#newer = new Int32Array(items + lists);
    this.#list = new Int8Array(items).fill(-1);
    this.#lengths = new Int32Array(lists);
    for (let list = 0; list < lists; list++) {
      this.#older[items + list] = items + list;
      this.#newer[items + list] = items + list;
    }
  }

  /** The list that holds `item`, −1 for none. */
  listOf(item: number): number {
    return this.#list[item] as number;
  }

  length(list: number): number {
    return this.#lengths[list] as number;
  }

  /** The item at the oldest end (tail), −1 if the list is empty. */
  oldest(list: number): number {
    return this.#itemOrNone(this.#newer[this.#items + list] as number);
  }

  /** The item at the newest end (head), −1 if the list is empty. */
  newest(list: number): number {
    return this.#itemOrNone(this.#older[this.#items + list] as number);
  }

  /** The neighbour of `item` towards the newest end, −1 past the end. */
  newer(item: number): number {
    return this.#itemOrNone(this.#newer[item] as number);
  }

  /** The neighbour of `item` towards the oldest end, −1 past the end. */
  older(item: number): number {
    return this.#itemOrNone(this.#older[item] as number);
  }

  /** Puts `item` at the newest end of `list`, out of whatever list it was in. */
  push(list: number, item: number): void {
    this.remove(item);
    const sentinel = this.#items + list;
    const second = this.#older[sentinel] as number;
    this.#older[item] = second;
    this.#newer[item] = sentinel;
    this.#newer[second] = item;
    this.#older[sentinel] = item;
    this.#list[item] = list;
    this.#lengths[list] = (this.#lengths[list] as number) + 1;
  }

  /** Takes `item` out of its list; does nothing if it is in none. */
  remove(item: number): void {
    const list = this.#list[item] as number;
    if (list < 0) return;
    const older = this.#older[item] as number;
    const newer = this.#newer[item] as number;
    this.#newer[older] = newer;
    this.#older[newer] = older;
    this.#list[item] = -1;
    this.#lengths[list] = (this.#lengths[list] as number) - 1;
  }

  #itemOrNone(index: number): number {
    return index < this.#items ? index : -1;
  }
}

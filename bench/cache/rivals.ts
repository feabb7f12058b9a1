/** A cache of pages that decides alone. */
export interface CacheSimulator {
  /** Touches `page`, bringing it in if it is missing. Returns whether it was there. */
  touch(page: number): boolean;
}

/** The entry that was put into `map` first. */
function oldest<Value>(map: Map<number, Value>): number {
  return map.keys().next().value as number;
}

function takeOldest<Value>(map: Map<number, Value>): number {
  const page = oldest(map);
  map.delete(page);
  return page;
}

export class Fifo implements CacheSimulator {
  readonly #slots: number;
  readonly #pages = new Map<number, true>();

  constructor(slots: number) {
    this.#slots = slots;
  }

  touch(page: number): boolean {
    if (this.#pages.has(page)) return true;
    if (this.#pages.size === this.#slots) takeOldest(this.#pages);
    this.#pages.set(page, true);
    return false;
  }
}

export class Lru implements CacheSimulator {
  readonly #slots: number;
  readonly #pages = new Map<number, true>();

  constructor(slots: number) {
    this.#slots = slots;
  }

  touch(page: number): boolean {
    const hit = this.#pages.delete(page);
    if (!hit && this.#pages.size === this.#slots) takeOldest(this.#pages);
    this.#pages.set(page, true);
    return hit;
  }
}

/** SIEVE (Zhang et al., NSDI 2024): a FIFO queue with a visited bit and a hand that does not move pages. */
export class Sieve implements CacheSimulator {
  readonly #slots: number;
  readonly #pages = new Map<number, SieveNode>();
  #head: SieveNode | undefined;
  #tail: SieveNode | undefined;
  #hand: SieveNode | undefined;

  constructor(slots: number) {
    this.#slots = slots;
  }

  touch(page: number): boolean {
    const known = this.#pages.get(page);
    if (known !== undefined) {
      known.visited = true;
      return true;
    }
    if (this.#pages.size === this.#slots) this.#evict();
    const node: SieveNode = { page, visited: false, newer: undefined, older: this.#head };
    if (this.#head !== undefined) this.#head.newer = node;
    this.#head = node;
    this.#tail ??= node;
    this.#pages.set(page, node);
    return false;
  }

  #evict(): void {
    let node = (this.#hand ?? this.#tail) as SieveNode;
    while (node.visited) {
      node.visited = false;
      node = (node.newer ?? this.#tail) as SieveNode;
    }
    this.#hand = node.newer;
    if (node.newer !== undefined) node.newer.older = node.older;
    else this.#head = node.older;
    if (node.older !== undefined) node.older.newer = node.newer;
    else this.#tail = node.newer;
    this.#pages.delete(node.page);
  }
}

interface SieveNode {
  readonly page: number;
  visited: boolean;
  newer: SieveNode | undefined;
  older: SieveNode | undefined;
}

/** S3-FIFO (Yang et al., SOSP 2023): a small queue of a tenth, a main queue, a ghost queue as long as the main one. */
export class S3Fifo implements CacheSimulator {
  readonly #slots: number;
  readonly #smallSlots: number;
  readonly #small = new Map<number, number>();
  readonly #main = new Map<number, number>();
  readonly #ghosts = new Map<number, true>();

  constructor(slots: number) {
    this.#slots = slots;
    this.#smallSlots = Math.max(1, Math.floor(slots / 10));
  }

  touch(page: number): boolean {
    for (const queue of [this.#small, this.#main]) {
      const uses = queue.get(page);
      if (uses !== undefined) {
        queue.set(page, Math.min(uses + 1, 3));
        return true;
      }
    }
    while (this.#small.size + this.#main.size >= this.#slots) {
      if (this.#small.size >= this.#smallSlots || this.#main.size === 0) this.#evictSmall();
      else this.#evictMain();
    }
    if (this.#ghosts.delete(page)) this.#main.set(page, 0);
    else this.#small.set(page, 0);
    return false;
  }

  #evictSmall(): void {
    while (this.#small.size > 0) {
      const uses = this.#small.get(oldest(this.#small)) as number;
      const page = takeOldest(this.#small);
      if (uses <= 1) {
        this.#ghosts.set(page, true);
        if (this.#ghosts.size > this.#slots - this.#smallSlots) takeOldest(this.#ghosts);
        return;
      }
      this.#main.set(page, 0);
      if (this.#main.size > this.#slots - this.#smallSlots) this.#evictMain();
    }
  }

  #evictMain(): void {
    for (;;) {
      const uses = this.#main.get(oldest(this.#main)) as number;
      const page = takeOldest(this.#main);
      if (uses === 0) return;
      this.#main.set(page, uses - 1);
    }
  }
}

/** ARC (Megiddo and Modha, FAST 2003). */
export class Arc implements CacheSimulator {
  readonly #slots: number;
  #target = 0;
  readonly #once = new Map<number, true>();
  readonly #often = new Map<number, true>();
  readonly #onceGhosts = new Map<number, true>();
  readonly #oftenGhosts = new Map<number, true>();

  constructor(slots: number) {
    this.#slots = slots;
  }

  touch(page: number): boolean {
    if (this.#once.delete(page) || this.#often.delete(page)) {
      this.#often.set(page, true);
      return true;
    }
    if (this.#onceGhosts.has(page)) {
      this.#target = Math.min(
        this.#slots,
        this.#target + Math.max(1, this.#oftenGhosts.size / this.#onceGhosts.size),
      );
      this.#replace(false);
      this.#onceGhosts.delete(page);
      this.#often.set(page, true);
    } else if (this.#oftenGhosts.has(page)) {
      this.#target = Math.max(0, this.#target - Math.max(1, this.#onceGhosts.size / this.#oftenGhosts.size));
      this.#replace(true);
      this.#oftenGhosts.delete(page);
      this.#often.set(page, true);
    } else {
      this.#makeRoom();
      this.#once.set(page, true);
    }
    return false;
  }

  #makeRoom(): void {
    const known = this.#once.size + this.#onceGhosts.size;
    const all = known + this.#often.size + this.#oftenGhosts.size;
    if (known === this.#slots) {
      if (this.#once.size === this.#slots) {
        takeOldest(this.#once);
      } else {
        takeOldest(this.#onceGhosts);
        this.#replace(false);
      }
    } else if (all >= this.#slots) {
      if (all === 2 * this.#slots) takeOldest(this.#oftenGhosts);
      this.#replace(false);
    }
  }

  #replace(oftenGhostHit: boolean): void {
    if (this.#once.size + this.#often.size < this.#slots) return;
    const fromOnce =
      this.#once.size > 0 &&
      (this.#once.size > this.#target ||
        (oftenGhostHit && this.#once.size === this.#target) ||
        this.#often.size === 0);
    if (fromOnce) this.#onceGhosts.set(takeOldest(this.#once), true);
    else this.#oftenGhosts.set(takeOldest(this.#often), true);
  }
}

/**
 * A hash table from page number (below 2^53) to a small number ≥ 0, of bounded size: open addressing with linear
 * probing at a load of at most a half, so a look-up touches a cache line or two and nothing is ever allocated after
 * the table is made.
 */
export class PageTable {
  readonly #keys: Float64Array;
  readonly #values: Int32Array;
  readonly #mask: number;
  readonly #bound: number;
  #size = 0;

  /** @param bound the most pages it will ever hold */
  constructor(bound: number) {
    this.#bound = bound;
    const cells = 2 ** Math.ceil(Math.log2(Math.max(bound, 4) * 2));
    this.#keys = new Float64Array(cells).fill(-1);
    this.#values = new Int32Array(cells);
    this.#mask = cells - 1;
  }

  get size(): number {
    return this.#size;
  }

  /** The value of `page`, −1 if it is not in the table. */
  get(page: number): number {
    const cell = this.#find(page);
    return this.#keys[cell] === page ? (this.#values[cell] as number) : -1;
  }

  set(page: number, value: number): void {
    const cell = this.#find(page);
    if (this.#keys[cell] !== page) {
      if (this.#size === this.#bound) throw new RangeError(`page table is full (${this.#bound} pages)`);
      this.#keys[cell] = page;
      this.#size++;
    }
    this.#values[cell] = value;
  }

  /** Takes `page` out; does nothing if it is not there. */
  delete(page: number): void {
    let hole = this.#find(page);
    if (this.#keys[hole] !== page) return;
    this.#size--;
    // Close the gap, so that no tombstones pile up: a later entry of the run moves back unless its home cell lies
    // cyclically behind the hole.
    for (let cell = (hole + 1) & this.#mask; ; cell = (cell + 1) & this.#mask) {
      const key = this.#keys[cell] as number;
      if (key < 0) break;
      const fromHome = (cell - this.#home(key)) & this.#mask;
      const fromHole = (cell - hole) & this.#mask;
      if (fromHome < fromHole) continue;
      this.#keys[hole] = key;
      this.#values[hole] = this.#values[cell] as number;
      hole = cell;
    }
    this.#keys[hole] = -1;
  }

  /** The cell that holds `page`, or the empty one where it would go. */
  #find(page: number): number {
    let cell = this.#home(page);
    for (;;) {
      const key = this.#keys[cell] as number;
      if (key === page || key < 0) return cell;
      cell = (cell + 1) & this.#mask;
    }
  }

  #home(page: number): number {
    const low = (page % 0x1_0000_0000) | 0;
    const high = (page / 0x1_0000_0000) | 0;
    let hash = Math.imul(low ^ Math.imul(high, 0x85eb_ca6b), 0x9e37_79b1);
    hash ^= hash >>> 15;
    return (Math.imul(hash, 0x2c1b_3c6d) >>> 7) & this.#mask;
  }
}

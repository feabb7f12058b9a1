import { type ArenaPort, arenaEvent, Keeper } from '../../src/cache/keeper.js';
import { type CacheOptions, createPolicy, nextVictim, type Policy, step } from '../../src/cache/policy.js';
import type { AccessKind } from './trace.js';

/** An arena in a simulation: which page is in which slot. */
class Slots {
  readonly slotOf = new Map<number, number>();
  readonly pageOf: Float64Array;
  readonly free: number[];

  constructor(slots: number) {
    this.pageOf = new Float64Array(slots).fill(-1);
    this.free = Array.from({ length: slots }, (_, index) => slots - 1 - index);
  }

  put(page: number): number {
    const slot = this.free.pop() as number;
    this.slotOf.set(page, slot);
    this.pageOf[slot] = page;
    return slot;
  }

  evict(slot: number): void {
    this.slotOf.delete(this.pageOf[slot] as number);
    this.pageOf[slot] = -1;
    this.free.push(slot);
  }
}

/** The policy told of every access at once, and asked at every eviction. */
export class DirectArena {
  readonly policy: Policy;
  readonly #slots: Slots;

  constructor(slots: number, options: CacheOptions) {
    this.policy = createPolicy(slots, options);
    this.#slots = new Slots(slots);
  }

  touch(page: number, kind: AccessKind, timeMs: number): boolean {
    const known = this.#slots.slotOf.get(page);
    if (known !== undefined) {
      step(this.policy, { kind: 'accessed', slot: known }, timeMs);
      return true;
    }
    if (this.#slots.free.length === 0) {
      const victim = nextVictim(this.policy);
      this.#slots.evict(victim);
      step(this.policy, { kind: 'removed', slot: victim }, timeMs);
    }
    const slot = this.#slots.put(page);
    step(this.policy, { kind: 'inserted', slot, page, origin: kind === 'a' ? 'appended' : 'loaded' }, timeMs);
    return false;
  }
}

/**
 * The policy as it runs in production: behind the keeper, which sees reference bits and events every `intervalMs`
 * only, while the arena takes victims from the last list.
 */
export class SampledArena implements ArenaPort {
  readonly slots: number;
  readonly referenceBits: Uint8Array;
  readonly keeper: Keeper;
  /** How often the list of victims had run out, and the log would have waited for the event loop. */
  stalls = 0;
  readonly #ring: number[] = [];
  readonly #ringBound: number;
  readonly #intervalMs: number;
  readonly #slots: Slots;
  #offer: { slot: number; page: number }[] = [];
  #taken = 0;
  #dropped = 0;
  #nowMs = 0;
  #nextTickMs = 0;

  /** @param ringBound the most events the ring holds until the keeper comes */
  constructor(slots: number, options: CacheOptions, ringBound = Number.POSITIVE_INFINITY) {
    this.slots = slots;
    this.referenceBits = new Uint8Array(slots);
    this.#slots = new Slots(slots);
    this.#ringBound = ringBound;
    this.#intervalMs = options.intervalMs ?? 10;
    this.keeper = new Keeper(this, options, () => this.#nowMs);
  }

  touch(page: number, kind: AccessKind, timeMs: number): boolean {
    this.#nowMs = timeMs;
    if (timeMs >= this.#nextTickMs) {
      this.keeper.tick();
      this.#nextTickMs = timeMs + this.#intervalMs;
    }
    const known = this.#slots.slotOf.get(page);
    if (known !== undefined) {
      this.referenceBits[known] = 1;
      return true;
    }
    if (this.#slots.free.length === 0 && !this.#evict()) {
      this.stalls++;
      this.keeper.tick();
      if (!this.#evict()) throw new Error('no victim in a full arena');
    }
    const slot = this.#slots.put(page);
    this.referenceBits[slot] = 0;
    this.#record(kind === 'a' ? arenaEvent.appended : arenaEvent.loaded, slot, page);
    return false;
  }

  drainEvents(into: Float64Array): number {
    const part = this.#ring.splice(0, into.length);
    // The loss comes last: the ring was full with what stands before it.
    if (this.#dropped > 0 && part.length < into.length) {
      part.push(arenaEvent.dropped, 0, this.#dropped);
      this.#dropped = 0;
    }
    into.set(part);
    return part.length / 3;
  }

  slotPages(into: Float64Array): void {
    into.set(this.#slots.pageOf);
  }

  /** The last list of victims. */
  offered(): { slot: number; page: number }[] {
    return this.#offer;
  }

  /** All pages held, by slot. */
  contents(): { slot: number; page: number }[] {
    return [...this.#slots.pageOf].map((page, slot) => ({ slot, page })).filter(({ page }) => page >= 0);
  }

  offerVictims(slots: Uint32Array, pages: Float64Array, count: number): void {
    this.#offer = Array.from({ length: count }, (_, i) => ({
      slot: slots[i] as number,
      page: pages[i] as number,
    }));
    this.#taken = 0;
  }

  #evict(): boolean {
    while (this.#taken < this.#offer.length) {
      const { slot, page } = this.#offer[this.#taken++] as { slot: number; page: number };
      if (this.#slots.pageOf[slot] !== page) continue;
      this.#slots.evict(slot);
      this.#record(arenaEvent.removed, slot, page);
      return true;
    }
    return false;
  }

  #record(kind: number, slot: number, page: number): void {
    if (this.#ring.length / 3 < this.#ringBound) this.#ring.push(kind, slot, page);
    else this.#dropped++;
  }
}

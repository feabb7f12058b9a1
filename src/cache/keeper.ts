import {
  type CacheOptions,
  createPolicy,
  type Policy,
  type PolicyEvent,
  type PolicyStats,
  pageOf,
  policyStats,
  step,
} from './policy.js';

/** Kinds of arena events, the first number of each triple of {@link ArenaPort.drainEvents}. */
export const arenaEvent = {
  /** A new page: written or received. */
  appended: 1,
  /** A page read back from disk. */
  loaded: 2,
  /** A page evicted, its slot free or about to be reused. */
  removed: 3,
  /** Events were lost because the ring was full; their number stands in place of the page. */
  dropped: 4,
} as const;

/**
 * The native arena as the keeper sees it. The arena owns all memory; the arrays passed in belong to the keeper.
 *
 * What the data plane must observe for the policy to be right:
 * - It sets a reference bit once for each reader that comes to a page, not once for each read inside it, and not for
 *   the first shipping, the flush, or the access for which the page was loaded.
 * - It clears the bit of a slot that gets a new page.
 * - It takes free slots first, then victims in the order offered, skipping those it cannot evict at the moment or
 *   whose slot holds another page by now.
 */
export interface ArenaPort {
  /** Number of page slots. */
  readonly slots: number;
  /** One byte a slot, set to 1 by the data plane at an access; read and cleared here. */
  readonly referenceBits: Uint8Array;
  /** Fills in triples [kind, slot, page], oldest event first, and returns how many; see {@link arenaEvent}. */
  drainEvents(into: Float64Array): number;
  /** Fills in the page held by each slot, −1 for none. */
  slotPages(into: Float64Array): void;
  /** Replaces the list of pages the data plane may evict, next victim first. */
  offerVictims(slots: Uint32Array, pages: Float64Array, count: number): void;
}

/** A snapshot of the cache for people and monitors. Counters run from the keeper's creation. */
export interface CacheStatus extends Readonly<PolicyStats> {
  readonly slots: number;
  readonly adaptive: boolean;
  /** Pages on the last list of victims. */
  readonly victims: number;
  /** Arena events lost to a full ring, and how often the books were made up again because of it. */
  readonly droppedEvents: number;
  readonly resyncs: number;
  /** The longest time between two looks at the arena, in ms: how long the data plane was on its own. */
  readonly longestStallMs: number;
}

const eventsPerDrain = 1024;
const tick: PolicyEvent = { kind: 'tick' };

/** An event whose object is used again for the next one of its kind, so that a tick allocates nothing. */
type Reused<Kind> = {
  -readonly [Key in keyof Extract<PolicyEvent, { kind: Kind }>]: Extract<PolicyEvent, { kind: Kind }>[Key];
};

/**
 * Keeps the policy's books from what the arena reports, and the arena supplied with victims. Its one timer does not
 * keep the process alive.
 */
export class Keeper {
  readonly #port: ArenaPort;
  readonly #policy: Policy;
  readonly #now: () => number;
  readonly #events = new Float64Array(eventsPerDrain * 3);
  readonly #slotPages: Float64Array;
  /** The reference bits four at a time: at most ticks most of them are 0. */
  readonly #bitGroups: Uint32Array;
  readonly #inserted: Reused<'inserted'> = { kind: 'inserted', slot: 0, page: 0, origin: 'appended' };
  readonly #accessed: Reused<'accessed'> = { kind: 'accessed', slot: 0 };
  readonly #removed: Reused<'removed'> = { kind: 'removed', slot: 0 };
  #timer: NodeJS.Timeout | undefined;
  #newestPage = -1;
  #victims = 0;
  #droppedEvents = 0;
  #resyncs = 0;
  #lastTickAt: number | undefined;
  #longestStallMs = 0;

  /**
   * @param port the arena; it may hold pages already
   * @param options settings of the policy
   * @param now a clock in ms that does not run backwards
   * @throws {WalshipError} `WALSHIP_ERR_CONFIG` that lists every problem of the settings
   */
  constructor(port: ArenaPort, options: CacheOptions = {}, now: () => number = () => performance.now()) {
    this.#port = port;
    this.#policy = createPolicy(port.slots, options);
    this.#now = now;
    this.#slotPages = new Float64Array(port.slots);
    const bits = port.referenceBits;
    const groups = Math.floor(port.slots / 4);
    this.#bitGroups =
      bits.byteOffset % 4 === 0 ? new Uint32Array(bits.buffer, bits.byteOffset, groups) : new Uint32Array(0);
    this.#resync(now());
  }

  /** Starts looking at the arena every `intervalMs`; does nothing if it does already. */
  start(): void {
    if (this.#timer !== undefined) return;
    this.#lastTickAt = undefined;
    this.#timer = setInterval(() => this.tick(), this.#policy.settings.intervalMs);
    this.#timer.unref();
  }

  /** Stops; the arena goes on with the victims it has. */
  stop(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  /** One look at the arena. The timer calls it; so may anyone who cannot wait for that. */
  tick(): void {
    const now = this.#now();
    if (this.#lastTickAt !== undefined)
      this.#longestStallMs = Math.max(this.#longestStallMs, now - this.#lastTickAt);
    this.#lastTickAt = now;
    this.#drain(now);
    this.#sample(now);
    const { offer } = step(this.#policy, tick, now);
    if (offer !== undefined) {
      this.#victims = offer.count;
      this.#port.offerVictims(offer.slots, offer.pages, offer.count);
    }
  }

  status(): CacheStatus {
    const { slots, adaptive } = this.#policy.settings;
    return {
      ...policyStats(this.#policy),
      slots,
      adaptive,
      victims: this.#victims,
      droppedEvents: this.#droppedEvents,
      resyncs: this.#resyncs,
      longestStallMs: this.#longestStallMs,
    };
  }

  #drain(now: number): void {
    const dropped = this.#droppedEvents;
    // The data plane adds events meanwhile. As many as there are slots bring every slot up to date; what comes after
    // is left for the next tick, so that a tick has an end.
    for (let left = this.#port.slots; left > 0; ) {
      const count = this.#port.drainEvents(this.#events);
      for (let i = 0; i < count; i++) this.#take(i * 3, now);
      if (count < eventsPerDrain) break;
      left -= count;
    }
    if (this.#droppedEvents > dropped) {
      this.#resyncs++;
      this.#resync(now);
    }
  }

  #take(at: number, now: number): void {
    const kind = this.#events[at] as number;
    const slot = this.#events[at + 1] as number;
    const page = this.#events[at + 2] as number;
    if (kind === arenaEvent.removed) {
      // After a resynchronisation the ring may still tell of pages that it already counted as gone.
      if (pageOf(this.#policy, slot) === page) this.#remove(slot, now);
    } else if (kind === arenaEvent.dropped) {
      this.#droppedEvents += page;
    } else {
      this.#insert(slot, page, kind === arenaEvent.loaded, now);
    }
  }

  #insert(slot: number, page: number, loaded: boolean, now: number): void {
    this.#inserted.slot = slot;
    this.#inserted.page = page;
    this.#inserted.origin = loaded ? 'loaded' : 'appended';
    if (page > this.#newestPage) this.#newestPage = page;
    step(this.#policy, this.#inserted, now);
  }

  #remove(slot: number, now: number): void {
    this.#removed.slot = slot;
    step(this.#policy, this.#removed, now);
  }

  #sample(now: number): void {
    const bits = this.#port.referenceBits;
    const groups = this.#bitGroups;
    for (let group = 0; group < groups.length; group++) {
      if (groups[group] === 0) continue;
      for (let slot = group * 4; slot < group * 4 + 4; slot++) this.#sampleSlot(bits, slot, now);
    }
    for (let slot = groups.length * 4; slot < this.#port.slots; slot++) this.#sampleSlot(bits, slot, now);
  }

  #sampleSlot(bits: Uint8Array, slot: number, now: number): void {
    if (bits[slot] === 0) return;
    bits[slot] = 0;
    this.#accessed.slot = slot;
    step(this.#policy, this.#accessed, now);
  }

  /** Makes up the books from what the slots hold: what differs is reported to the policy as events. */
  #resync(now: number): void {
    this.#port.slotPages(this.#slotPages);
    const newestKnown = this.#newestPage;
    for (let slot = 0; slot < this.#port.slots; slot++) {
      const held = this.#slotPages[slot] as number;
      const known = pageOf(this.#policy, slot);
      if (held === known) continue;
      // A page the log had reached before can only have come back from disk.
      if (held >= 0) this.#insert(slot, held, held <= newestKnown, now);
      else this.#remove(slot, now);
    }
  }
}

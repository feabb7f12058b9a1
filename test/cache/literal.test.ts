import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type PolicyEvent, policyStats, step } from '../../src/cache/policy.js';
import {
  access,
  anyEvent,
  insert,
  leavingOrder,
  literalQueues,
  literalSettings,
  range,
  remove,
  transparentPolicy,
} from './support.js';

describe('the literal policy', () => {
  it('puts a new, unread page at the head of the FIFO queue', () => {
    fc.assert(
      fc.property(literalSettings, ({ slots, options, fifoFull }) => {
        const policy = transparentPolicy(slots, options);
        const before = range(0, fifoFull - 1);
        for (const slot of before) insert(policy, slot, 0);
        expect(literalQueues(policy, 0)).toEqual({ evicted: [], fifo: before, lru: [] });
      }),
    );
  });

  it('moves a page that is accessed within T1 to the head of the LRU queue', () => {
    fc.assert(
      fc.property(literalSettings, fc.double({ min: 0, max: 1, noNaN: true }), (settings, part) => {
        const { slots, options, fifoFull, lruFull } = settings;
        const policy = transparentPolicy(slots, options);
        const pages = range(0, Math.min(fifoFull - 1, lruFull));
        for (const slot of pages) insert(policy, slot, 0);
        const read = pages.toReversed();
        for (const slot of read) access(policy, slot, part * options.firstWindowMs);
        expect(literalQueues(policy, options.firstWindowMs)).toEqual({ evicted: [], fifo: [], lru: read });
        expect(policyStats(policy).promotions).toBe(pages.length);
      }),
    );
  });

  it('leaves a page that is accessed after T1 where it is', () => {
    fc.assert(
      fc.property(literalSettings, fc.double({ min: 0.001, max: 1e6, noNaN: true }), (settings, late) => {
        const { slots, options, fifoFull } = settings;
        const policy = transparentPolicy(slots, options);
        const pages = range(0, fifoFull - 1);
        for (const slot of pages) insert(policy, slot, 0);
        const nowMs = options.firstWindowMs + late;
        for (const slot of pages.toReversed()) access(policy, slot, nowMs);
        expect(literalQueues(policy, nowMs)).toEqual({ evicted: [], fifo: pages, lru: [] });
      }),
    );
  });

  it('evicts the oldest p2 % of the FIFO queue when it reaches p1 % of its share', () => {
    fc.assert(
      fc.property(literalSettings, ({ slots, options, fifoFull, batch }) => {
        const policy = transparentPolicy(slots, options);
        for (const slot of range(0, fifoFull)) insert(policy, slot, 0);
        const evicted = batch(fifoFull);
        expect(literalQueues(policy, 0)).toEqual({
          evicted: range(0, evicted),
          fifo: range(evicted, fifoFull),
          lru: [],
        });
      }),
    );
  });

  it('moves the pages of the LRU queue accessed since the last look to its head every T2, not before', () => {
    fc.assert(
      fc.property(literalSettings, fc.infiniteStream(fc.boolean()), (settings, choices) => {
        const { slots, options, fifoFull, lruFull } = settings;
        const policy = transparentPolicy(slots, options);
        const pages = range(0, Math.min(fifoFull - 1, lruFull));
        fc.pre(pages.length > 0);
        // The first event sets the time of the first look.
        for (const slot of pages) insert(policy, slot, 0);
        for (const slot of pages) access(policy, slot, 0);
        const read = pages.filter(() => choices.next().value).toReversed();
        for (const slot of read) access(policy, slot, options.reviewMs / 4);
        if (read.length > 0) expect(literalQueues(policy, options.reviewMs / 2).lru).toEqual(pages);
        remove(policy, slots - 1, options.reviewMs);
        const unread = pages.filter((slot) => !read.includes(slot));
        expect(literalQueues(policy, options.reviewMs).lru).toEqual([...unread, ...read]);
      }),
    );
  });

  it('evicts p2 % of the LRU queue from its tail when it passes p1 % of its share', () => {
    fc.assert(
      fc.property(literalSettings, ({ slots, options, lruFull, batch }) => {
        const policy = transparentPolicy(slots, options);
        for (const slot of range(0, lruFull)) {
          insert(policy, slot, 0);
          access(policy, slot, 0);
        }
        expect(literalQueues(policy, 0)).toEqual({ evicted: [], fifo: [], lru: range(0, lruFull) });
        insert(policy, lruFull, 0);
        access(policy, lruFull, 0);
        const evicted = batch(lruFull + 1);
        expect(literalQueues(policy, 0)).toEqual({
          evicted: range(0, evicted),
          fifo: [],
          lru: range(evicted, lruFull + 1),
        });
      }),
    );
  });

  it('keeps an evicted page in the books until it is removed, and spares it when its queue would', () => {
    const options = {
      adaptive: false,
      fifoShare: 0.5,
      fillPercent: 80,
      evictPercent: 25,
      firstWindowMs: 100,
    };
    const policy = transparentPolicy(20, options);
    for (const slot of range(0, 8)) insert(policy, slot, 0);
    expect(literalQueues(policy, 0).evicted).toEqual([0, 1]);
    // From the FIFO queue: in its first window it would have moved to the LRU queue, later not.
    access(policy, 0, 100);
    access(policy, 1, 101);
    expect(literalQueues(policy, 101)).toEqual({ evicted: [1], fifo: range(2, 8), lru: [0] });
    remove(policy, 1, 101);
    expect(leavingOrder(policy, 101)).toEqual([...range(2, 8), 0]);
    // From the LRU queue: it goes back to the head.
    for (const slot of range(10, 18)) {
      insert(policy, slot, 200);
      access(policy, slot, 200);
    }
    expect(literalQueues(policy, 200).evicted).toEqual([0, 10]);
    access(policy, 0, 10_000);
    expect(literalQueues(policy, 10_000)).toMatchObject({ evicted: [10], lru: [...range(11, 18), 0] });
  });

  it('does not bring back at the review what was evicted or removed since it was accessed', () => {
    const options = { adaptive: false, fifoShare: 0.5, fillPercent: 80, evictPercent: 25, reviewMs: 100 };
    const policy = transparentPolicy(20, options);
    for (const slot of range(0, 8)) {
      insert(policy, slot, 0);
      access(policy, slot, 0);
    }
    for (const slot of [0, 5]) access(policy, slot, 1);
    remove(policy, 5, 2);
    for (const slot of [8, 9]) {
      insert(policy, slot, 3);
      access(policy, slot, 3);
    }
    expect(literalQueues(policy, 3)).toEqual({ evicted: [0, 1], fifo: [], lru: [2, 3, 4, 6, 7, 8, 9] });
    insert(policy, 5, 100);
    expect(literalQueues(policy, 100)).toEqual({ evicted: [0, 1], fifo: [5], lru: [2, 3, 4, 6, 7, 8, 9] });
  });

  it('holds no queue beyond its share and leaves 100 − p1 % of the slots free or evicted', () => {
    fc.assert(
      fc.property(
        literalSettings.chain((settings) =>
          fc.record({
            settings: fc.constant(settings),
            events: fc.array(anyEvent(settings.slots), { maxLength: 400 }),
          }),
        ),
        ({ settings, events }) => {
          const policy = transparentPolicy(settings.slots, settings.options);
          for (const [index, event] of events.entries()) {
            step(policy, event, index);
            const { fifo, lru } = policyStats(policy);
            expect(fifo).toBeLessThan(settings.fifoFull);
            expect(lru).toBeLessThanOrEqual(settings.lruFull);
          }
        },
      ),
    );
  });

  it('does what the rules say, applied by hand, to any events', () => {
    fc.assert(
      fc.property(
        literalSettings.chain((settings) =>
          fc.record({
            settings: fc.constant(settings),
            events: fc.array(fc.tuple(anyEvent(settings.slots), fc.integer({ min: 0, max: 60 })), {
              maxLength: 300,
            }),
          }),
        ),
        ({ settings, events }) => {
          const policy = transparentPolicy(settings.slots, settings.options);
          const byHand = new ByHand(settings);
          let nowMs = 0;
          for (const [event, passed] of events) {
            nowMs += passed;
            step(policy, event, nowMs);
            byHand.step(event, nowMs);
          }
          // An event that always counts as a change, so that there is an order to see.
          const last = {
            kind: 'inserted',
            slot: 0,
            page: Number.MAX_SAFE_INTEGER,
            origin: 'loaded',
          } as const;
          step(policy, last, nowMs);
          byHand.step(last, nowMs);
          expect(literalQueues(policy, nowMs)).toEqual({
            evicted: byHand.evicted,
            fifo: byHand.fifo,
            lru: byHand.lru,
          });
        },
      ),
      { numRuns: 300 },
    );
  });
});

/** The rules in the simplest form: arrays of slots, oldest first. */
class ByHand {
  evicted: number[] = [];
  fifo: number[] = [];
  lru: number[] = [];
  #touched: number[] = [];
  readonly #pages = new Map<number, number>();
  readonly #since = new Map<number, number>();
  readonly #fromLru = new Set<number>();
  readonly #settings: { options: { firstWindowMs: number; reviewMs: number } } & Limits;
  #lookAt = Number.NEGATIVE_INFINITY;

  constructor(settings: { options: { firstWindowMs: number; reviewMs: number } } & Limits) {
    this.#settings = settings;
  }

  step(event: PolicyEvent, nowMs: number): void {
    if (nowMs >= this.#lookAt) {
      this.#lookAt = nowMs + this.#settings.options.reviewMs;
      // Moving a page cannot make the queue longer, so nothing is evicted here.
      this.lru = [...this.lru.filter((slot) => !this.#touched.includes(slot)), ...this.#touched];
      this.#touched = [];
    }
    if (event.kind === 'tick') return;
    const { slot } = event;
    if (event.kind === 'inserted') {
      if (this.#pages.get(slot) === event.page) return;
      this.#forget(slot);
      this.#pages.set(slot, event.page);
      this.#since.set(slot, nowMs);
      this.fifo.push(slot);
      if (this.fifo.length >= this.#settings.fifoFull) {
        this.#evict(this.fifo.splice(0, this.#settings.batch(this.fifo.length)), false);
      }
    } else if (event.kind === 'removed') {
      this.#forget(slot);
    } else if (this.lru.includes(slot)) {
      this.#touched = [...this.#touched.filter((other) => other !== slot), slot];
    } else if (this.#pages.has(slot)) {
      const inWindow = nowMs - (this.#since.get(slot) as number) <= this.#settings.options.firstWindowMs;
      if (inWindow || this.#fromLru.has(slot)) this.#promote(slot);
    }
  }

  #promote(slot: number): void {
    this.#fromLru.delete(slot);
    this.evicted = this.evicted.filter((other) => other !== slot);
    this.fifo = this.fifo.filter((other) => other !== slot);
    this.lru.push(slot);
    if (this.lru.length > this.#settings.lruFull) {
      this.#evict(this.lru.splice(0, this.#settings.batch(this.lru.length)), true);
    }
  }

  #evict(slots: number[], fromLru: boolean): void {
    this.evicted.push(...slots);
    this.#touched = this.#touched.filter((slot) => !slots.includes(slot));
    if (fromLru) for (const slot of slots) this.#fromLru.add(slot);
  }

  #forget(slot: number): void {
    for (const queue of [this.evicted, this.fifo, this.lru, this.#touched]) {
      const at = queue.indexOf(slot);
      if (at >= 0) queue.splice(at, 1);
    }
    this.#pages.delete(slot);
    this.#fromLru.delete(slot);
  }
}

interface Limits {
  fifoFull: number;
  lruFull: number;
  batch(length: number): number;
}

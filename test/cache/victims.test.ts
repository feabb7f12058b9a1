import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  createPolicy,
  nextVictim,
  type PolicyEvent,
  pageOf,
  policyStats,
  step,
} from '../../src/cache/policy.js';
import { anyEvent, insert, range, remove } from './support.js';

const appended = (slot: number, page: number): PolicyEvent => ({
  kind: 'inserted',
  slot,
  page,
  origin: 'appended',
});

/** As found once: page 0 in three slots, which no arena has. The order that was offered then was none to go by. */
const pageInThreeSlots = {
  slots: 22,
  victims: 1,
  adaptive: true,
  events: [
    appended(3, 0),
    appended(2, 0),
    appended(1, 0),
    { kind: 'inserted', slot: 4, page: 0, origin: 'loaded' },
    { kind: 'accessed', slot: 2 },
    appended(2, 1),
  ].map((event) => [event as PolicyEvent, 0] satisfies [PolicyEvent, number]),
};

const anyRun = fc.integer({ min: 4, max: 40 }).chain((slots) =>
  fc.record({
    slots: fc.constant(slots),
    victims: fc.integer({ min: 1, max: slots }),
    adaptive: fc.boolean(),
    events: fc.array(fc.tuple(anyEvent(slots), fc.integer({ min: 0, max: 90 })), { maxLength: 400 }),
  }),
);

describe('the list of victims', () => {
  it('names resident pages only, none twice, as many as asked for if there are, the next victim first', () => {
    fc.assert(
      fc.property(anyRun, ({ slots, victims, adaptive, events }) => {
        const policy = createPolicy(slots, { adaptive, victims, firstWindowMs: 200 });
        const held = new Map<number, number>();
        let nowMs = 0;
        for (const [event, passed] of events) {
          nowMs += passed;
          const { offer } = step(policy, event, nowMs);
          if (event.kind === 'inserted') held.set(event.slot, event.page);
          if (event.kind === 'removed') held.delete(event.slot);
          expect(policyStats(policy).resident).toBe(held.size);
          if (offer === undefined) continue;
          expect(event.kind).toBe('tick');
          expect(offer.count).toBe(Math.min(victims, held.size));
          const listed = [...offer.slots.subarray(0, offer.count)];
          expect(new Set(listed).size).toBe(offer.count);
          for (const [index, slot] of listed.entries()) {
            expect(held.get(slot)).toBe(offer.pages[index]);
            expect(pageOf(policy, slot)).toBe(offer.pages[index]);
          }
          expect(nextVictim(policy)).toBe(listed[0] ?? -1);
        }
      }),
      { numRuns: 300 },
    );
  });

  it('is renewed on a tick if anything has happened, and left alone otherwise', () => {
    for (const adaptive of [true, false]) {
      const policy = createPolicy(8, { adaptive });
      expect(step(policy, { kind: 'tick' }, 0).offer).toBeUndefined();
      insert(policy, 3, 0);
      expect(step(policy, { kind: 'tick' }, 1).offer?.count).toBe(1);
      expect(step(policy, { kind: 'tick' }, 2).offer).toBeUndefined();
      remove(policy, 3, 2);
      expect(step(policy, { kind: 'tick' }, 3).offer?.count).toBe(0);
    }
  });

  it('is the order in which pages leave when new ones come, nothing is read, and plain LRU lets nothing go that is kept', () => {
    fc.assert(
      fc.property(anyRun, ({ slots, adaptive, events }) => {
        const policy = createPolicy(slots, { adaptive, victims: slots, fillPercent: 100, evictPercent: 1 });
        const isHeld = (page: number) => range(0, slots).some((slot) => pageOf(policy, slot) === page);
        const lru = new Set<number>();
        /** Returns the page that plain LRU evicts for this one, −1 for none. */
        const read = (page: number) => {
          lru.delete(page);
          lru.add(page);
          const [oldest = -1] = lru;
          return lru.size > slots && lru.delete(oldest) ? oldest : -1;
        };
        const late = events.length * 100;
        const append = (slot: number, page: number) => {
          insert(policy, slot, late, 'appended', page);
          return read(page);
        };
        for (const [index, [event]] of events.entries()) {
          // A page is in one slot at most.
          if (event.kind === 'inserted' && isHeld(event.page)) continue;
          step(policy, event, index);
          if (event.kind === 'inserted') read(event.page);
          if (event.kind === 'accessed' && pageOf(policy, event.slot) >= 0) read(pageOf(policy, event.slot));
        }
        for (const slot of range(0, slots)) if (pageOf(policy, slot) < 0) append(slot, 1e9 + slot);
        append(0, 2e9);
        const order = [...(step(policy, { kind: 'tick' }, late).offer?.slots ?? [])];
        for (const [index, slot] of order.slice(0, Math.ceil(slots / 8)).entries()) {
          expect(nextVictim(policy)).toBe(slot);
          remove(policy, slot, late);
          const evicted = append(slot, 3e9 + index);
          // What LRU has let go is the adaptive policy's to give up, and may go first from now on.
          if (adaptive && isHeld(evicted)) return;
        }
      }),
      { examples: [[pageInThreeSlots]] },
    );
  });

  it('refuses slots that are none of the arena’s', () => {
    const policy = createPolicy(8);
    for (const slot of [-1, 8, Number.NaN]) {
      expect(() => step(policy, { kind: 'accessed', slot }, 0)).toThrow(RangeError);
    }
  });
});

import fc from 'fast-check';
import {
  type CacheOptions,
  createPolicy,
  type Origin,
  type Policy,
  type PolicyEvent,
  policyStats,
  step,
} from '../../src/cache/policy.js';

/** A policy whose list of victims is long enough to show all of its order. */
export function transparentPolicy(slots: number, options: CacheOptions): Policy {
  return createPolicy(slots, { ...options, victims: slots });
}

/** The slots in the order they would leave, next first. */
export function leavingOrder(policy: Policy, nowMs: number): number[] {
  const { offer } = step(policy, { kind: 'tick' }, nowMs);
  if (offer === undefined) throw new Error('nothing has changed since the last look');
  return [...offer.slots.subarray(0, offer.count)];
}

/** The literal policy's slots, oldest first: those evicted but not taken yet, the FIFO queue, the LRU queue. */
export function literalQueues(
  policy: Policy,
  nowMs: number,
): { evicted: number[]; fifo: number[]; lru: number[] } {
  const order = leavingOrder(policy, nowMs);
  const { fifo, lru, resident } = policyStats(policy);
  const evicted = resident - fifo - lru;
  return {
    evicted: order.slice(0, evicted),
    fifo: order.slice(evicted, evicted + fifo),
    lru: order.slice(evicted + fifo),
  };
}

export function insert(
  policy: Policy,
  slot: number,
  nowMs: number,
  origin: Origin = 'appended',
  page = slot,
): void {
  step(policy, { kind: 'inserted', slot, page, origin }, nowMs);
}

export function access(policy: Policy, slot: number, nowMs: number): void {
  step(policy, { kind: 'accessed', slot }, nowMs);
}

export function remove(policy: Policy, slot: number, nowMs: number): void {
  step(policy, { kind: 'removed', slot }, nowMs);
}

/** Numbers from `from` to `to` − 1. */
export function range(from: number, to: number): number[] {
  return Array.from({ length: to - from }, (_, index) => from + index);
}

/** Any settings of the literal policy, and what follows from them. */
export const literalSettings = fc
  .record({
    slots: fc.integer({ min: 4, max: 200 }),
    fifoShare: fc.double({ min: 0.05, max: 0.95, noNaN: true }),
    fillPercent: fc.integer({ min: 1, max: 100 }),
    evictPercent: fc.integer({ min: 1, max: 100 }),
    firstWindowMs: fc.integer({ min: 0, max: 500 }),
    reviewMs: fc.integer({ min: 1, max: 500 }),
  })
  .map((options) => {
    const { slots, ...rest } = options;
    const fifoSlots = Math.min(Math.max(Math.round(rest.fifoShare * slots), 2), slots - 1);
    return {
      slots,
      options: { ...rest, adaptive: false },
      /** Length at which the FIFO queue evicts. */
      fifoFull: Math.max(2, Math.floor((fifoSlots * rest.fillPercent) / 100)),
      /** Length beyond which the LRU queue evicts. */
      lruFull: Math.max(1, Math.floor(((slots - fifoSlots) * rest.fillPercent) / 100)),
      /** How many pages a queue of that length evicts. */
      batch: (length: number): number => Math.max(1, Math.floor((length * rest.evictPercent) / 100)),
    };
  });

/** Any event on `slots` slots, with pages from a small range so that they come back. */
export function anyEvent(slots: number): fc.Arbitrary<PolicyEvent> {
  // Half of the events hit a few slots, so that things happen to the same page.
  const slot = fc.oneof(fc.nat({ max: slots - 1 }), fc.nat({ max: Math.min(slots, 4) - 1 }));
  return fc.oneof(
    fc.record({
      kind: fc.constant('inserted' as const),
      slot,
      page: fc.oneof(fc.nat({ max: slots * 3 }), fc.maxSafeNat()),
      origin: fc.constantFrom<Origin[]>('appended', 'loaded'),
    }),
    fc.record({ kind: fc.constant('accessed' as const), slot }),
    fc.record({ kind: fc.constant('removed' as const), slot }),
    fc.constant({ kind: 'tick' as const }),
  );
}

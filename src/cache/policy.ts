import { AdaptiveQueues } from './adaptive.js';
import { LiteralQueues } from './literal.js';
import type { Origin, PolicyStats, Queues, VictimList } from './queues.js';
import { type CacheOptions, type CacheSettings, cacheSettings } from './settings.js';

export type { Origin, PolicyStats, VictimList } from './queues.js';
export type { CacheOptions, CacheSettings } from './settings.js';

/**
 * What happens to the pages of the arena. Slots are numbered from 0, pages are whole numbers below 2^53.
 *
 * - `inserted`: `page` is in `slot` now. The access for which a page was loaded is part of this event.
 * - `accessed`: a lagging downstream, the applier, a reader or the scrubber read the page in `slot`.
 * - `removed`: the data plane took the page out of `slot`.
 * - `tick`: time has passed; the list of victims may be renewed.
 */
export type PolicyEvent =
  | { readonly kind: 'inserted'; readonly slot: number; readonly page: number; readonly origin: Origin }
  | { readonly kind: 'accessed'; readonly slot: number }
  | { readonly kind: 'removed'; readonly slot: number }
  | { readonly kind: 'tick' };

/** What the policy asks for in answer to an event. */
export interface Actions {
  /**
   * The pages to offer the data plane, in place of those offered before; undefined if nothing changed. They stay in
   * the books, and can still be accessed, until `removed` reports them.
   */
  readonly offer: VictimList | undefined;
}

/** The state of the policy. Only {@link step} and {@link nextVictim} change it. */
export interface Policy {
  readonly settings: CacheSettings;
  /** @internal */
  readonly queues: Queues;
  /** @internal */
  readonly offer: { readonly offer: VictimList };
  /** @internal */
  readonly single: VictimList;
  /** @internal Whether anything happened since the last offer. */
  changed: boolean;
}

const nothing: Actions = { offer: undefined };

/**
 * A policy for an arena of `slots` pages that are all free. It takes all its memory here, about 130 bytes a slot.
 *
 * @throws {WalshipError} `WALSHIP_ERR_CONFIG` that lists every problem of the settings.
 */
export function createPolicy(slots: number, options: CacheOptions = {}): Policy {
  const settings = cacheSettings(slots, options);
  return {
    settings,
    queues: settings.adaptive ? new AdaptiveQueues(settings) : new LiteralQueues(settings),
    offer: { offer: victimList(settings.victims) },
    single: victimList(1),
    changed: false,
  };
}

/**
 * Takes one event, which happened at `nowMs` (any clock that does not run backwards). O(1) and without allocation,
 * but for `tick`, which takes a time in proportion to the list it returns.
 *
 * @throws {RangeError} if the slot is none of the arena's.
 */
export function step(policy: Policy, event: PolicyEvent, nowMs: number): Actions {
  const { queues } = policy;
  queues.review(nowMs);
  if (event.kind === 'tick') {
    if (!policy.changed) return nothing;
    policy.changed = false;
    queues.choose(policy.offer.offer, policy.settings.victims);
    return policy.offer;
  }
  if (!(event.slot >= 0 && event.slot < policy.settings.slots)) {
    throw new RangeError(`slot ${event.slot} of an arena of ${policy.settings.slots} slots`);
  }
  policy.changed = true;
  if (event.kind === 'inserted') queues.inserted(event.slot, event.page, event.origin, nowMs);
  else if (event.kind === 'accessed') queues.accessed(event.slot, nowMs);
  else queues.removed(event.slot);
  return nothing;
}

/** The slot whose page should go next, as of the last event; −1 if the arena is empty. O(1). */
export function nextVictim(policy: Policy): number {
  policy.queues.choose(policy.single, 1);
  return policy.single.count === 0 ? -1 : (policy.single.slots[0] as number);
}

/** The page in `slot` as far as the policy knows, −1 for none. */
export function pageOf(policy: Policy, slot: number): number {
  return policy.queues.pageOf(slot);
}

/** The counters; the object is reused by the next call. */
export function policyStats(policy: Policy): Readonly<PolicyStats> {
  return policy.queues.stats();
}

function victimList(length: number): VictimList {
  return { slots: new Uint32Array(length), pages: new Float64Array(length), count: 0 };
}

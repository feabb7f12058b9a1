import type { CacheOptions } from '../../src/cache/policy.js';
import { DirectArena, SampledArena } from './arena.js';
import { Arc, type CacheSimulator, Fifo, Lru, S3Fifo, Sieve } from './rivals.js';
import type { AccessKind, Trace } from './trace.js';

/** What a cache did on a trace. Appends are never misses: the page is new. */
export interface Outcome {
  readonly reads: number;
  readonly misses: number;
  readonly liveReads: number;
  readonly liveHits: number;
}

type Simulator = { touch(page: number, kind: AccessKind, timeMs: number): boolean };

const policies = {
  fifo: (slots: number): CacheSimulator => new Fifo(slots),
  lru: (slots: number): CacheSimulator => new Lru(slots),
  sieve: (slots: number): CacheSimulator => new Sieve(slots),
  's3-fifo': (slots: number): CacheSimulator => new S3Fifo(slots),
  arc: (slots: number): CacheSimulator => new Arc(slots),
  literal: (slots: number, options: CacheOptions): Simulator =>
    new DirectArena(slots, { ...options, adaptive: false }),
  adaptive: (slots: number, options: CacheOptions): Simulator => new DirectArena(slots, options),
  /** The adaptive policy behind the keeper. */
  sampled: (slots: number, options: CacheOptions): Simulator => new SampledArena(slots, options),
};

export type PolicyName = keyof typeof policies;
export const policyNames = Object.keys(policies) as PolicyName[];

/** Runs `trace` through a cache of `slots` pages under the policy of that name. */
export function simulate(
  policy: PolicyName,
  slots: number,
  trace: Trace,
  options: CacheOptions = {},
): Outcome {
  return run(policies[policy](slots, options), trace);
}

/** Runs `trace` through `cache`. */
export function run(cache: Simulator, trace: Trace): Outcome {
  let reads = 0;
  let misses = 0;
  let liveReads = 0;
  let liveHits = 0;
  for (const { page, kind, timeMs } of trace.accesses) {
    const hit = cache.touch(page, kind, timeMs);
    if (kind === 'a') continue;
    reads++;
    if (!hit) misses++;
    if (kind === 't') {
      liveReads++;
      if (hit) liveHits++;
    }
  }
  return { reads, misses, liveReads, liveHits };
}

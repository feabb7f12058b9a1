import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DirectArena, SampledArena } from '../../bench/cache/arena.js';
import { concatenated, logTrace, modelTraces, readTraceOf, zipfSource } from '../../bench/cache/model.js';
import { Lru } from '../../bench/cache/rivals.js';
import { run, simulate } from '../../bench/cache/simulate.js';
import { type AccessKind, readTrace, type Trace } from '../../bench/cache/trace.js';
import { type CacheOptions, policyStats } from '../../src/cache/policy.js';
import { access, insert, leavingOrder, remove, transparentPolicy } from './support.js';

/** A stretch of accesses of one pattern; put together they make traces of any kind. */
const stretch = fc.record({
  pattern: fc.constantFrom('scan', 'loop', 'back', 'random', 'skewed', 'tail', 'append'),
  start: fc.nat({ max: 60 }),
  pages: fc.integer({ min: 1, max: 80 }),
  count: fc.integer({ min: 1, max: 250 }),
  seed: fc.nat({ max: 1000 }),
});

const anyTrace = fc.array(stretch, { minLength: 1, maxLength: 25 }).map((stretches) => {
  const touches: { page: number; kind: AccessKind }[] = [];
  let head = 0;
  for (const { pattern, start, pages, count, seed } of stretches) {
    const skewed = zipfSource(pages, 1, seed);
    const append = () => touches.push({ page: 1000 + head++, kind: 'a' });
    const read = (page: number, kind: AccessKind) => touches.push({ page, kind });
    const behind = (pages: number) => 1000 + Math.max(0, head - 1 - pages);
    for (let i = 0; i < count; i++) {
      if (pattern === 'append' || (pattern === 'tail' && i % 3 === 0) || head === 0) append();
      else if (pattern === 'tail') read(behind(i % pages), 't');
      else if (pattern === 'back') read(behind(start + (i % pages)), 'c');
      else if (pattern === 'scan') read(start + i, 'c');
      else if (pattern === 'loop') read(start + (i % pages), 'c');
      else if (pattern === 'random') read(start + ((i * 7919 * (seed + 1)) % pages), 's');
      else read(start + skewed(), 'c');
    }
  }
  return touches;
});

/** Ours and LRU's misses after every access. */
function* race(
  slots: number,
  options: CacheOptions,
  trace: Iterable<{ page: number; kind: AccessKind }>,
  msEach = 1,
) {
  const arena = new DirectArena(slots, options);
  const lru = new Lru(slots);
  const score = { ours: 0, lru: 0, arena };
  let nowMs = 0;
  for (const { page, kind } of trace) {
    const hit = arena.touch(page, kind, nowMs);
    const lruHit = lru.touch(page);
    nowMs += msEach;
    if (kind !== 'a' && !hit) score.ours++;
    if (kind !== 'a' && !lruHit) score.lru++;
    yield score;
  }
}

describe('the adaptive policy against plain LRU', () => {
  it('never has more misses by over the margin, at any point of any trace', () => {
    const options = fc.record({
      lruMarginPercent: fc.constantFrom(0, 1, 2, 20),
      fifoShare: fc.constantFrom(0.1, 0.5, 0.9),
      firstWindowMs: fc.constantFrom(0, 30, 5000),
      reviewMs: fc.constantFrom(1, 40, 1000),
    });
    fc.assert(
      fc.property(fc.integer({ min: 4, max: 48 }), options, anyTrace, (slots, options, trace) => {
        for (const { ours, lru } of race(slots, options, trace)) {
          if (ours * 100 > lru * (100 + options.lruMarginPercent))
            expect({ ours, lru }).toBe('within the margin');
        }
      }),
      { numRuns: 400 },
    );
  });

  it('knows exactly what LRU would have missed', () => {
    fc.assert(
      fc.property(fc.integer({ min: 4, max: 48 }), anyTrace, (slots, trace) => {
        for (const { ours, lru, arena } of race(slots, {}, trace)) {
          const { misses, lruMisses } = policyStats(arena.policy);
          if (misses !== ours || lruMisses !== lru) expect({ misses, lruMisses }).toEqual({ ours, lru });
        }
      }),
    );
  });

  it('stays within 2 % on scans, loops, skewed and random reads, tailing readers and catch-up', () => {
    for (const trace of modelTraces()) {
      for (const slots of [64, 512]) {
        const lru = simulate('lru', slots, trace).misses;
        const { misses } = simulate('adaptive', slots, trace);
        expect(misses / lru, `${trace.name}, ${slots} pages`).toBeLessThanOrEqual(1.02);
      }
    }
  });

  it('does better where LRU does badly', () => {
    const ratio = (trace: Trace, slots: number): number =>
      simulate('adaptive', slots, trace).misses / simulate('lru', slots, trace).misses;
    expect(ratio(readTraceOf('zipf', 60_000, zipfSource(5000, 1, 3)), 256)).toBeLessThan(0.86);
    expect(ratio(logTrace('slow', { appends: 10_000, lags: [2, 40, 150, 400] }), 256)).toBeLessThan(0.55);
  });

  it('does not live on old merits: over any stretch it loses two arenas of pages at most, beside the margin', () => {
    const slots = 256;
    // Skewed reads earn thousands of misses that LRU had; then what is read changes again and again, where LRU is better.
    const skewed = (name: string, count: number, pages: number, seed: number, from = 0): Trace => {
      const next = zipfSource(pages, seed === 0 ? 1 : 0.9, seed);
      return readTraceOf(name, count, () => from + next());
    };
    const phases = Array.from({ length: 60 }, (_, index) =>
      skewed('', 2500, 500, index + 1, 1e6 * (index + 1)),
    );
    const trace = concatenated('', [skewed('', 60_000, 5000, 0), ...phases]);
    let best = 0;
    let worst = 0;
    for (const { ours, lru } of race(slots, {}, trace.accesses)) {
      const excess = ours * 100 - lru * 102;
      best = Math.min(best, excess);
      worst = Math.max(worst, excess - best);
    }
    expect(best).toBeLessThan(-1000 * slots);
    expect(worst).toBeLessThanOrEqual(200 * slots);
    // It is the bound that holds it there.
    expect(worst).toBeGreaterThan(190 * slots);
  });

  it('wastes no slot: pages that fit are read from disk once', () => {
    fc.assert(
      fc.property(fc.integer({ min: 4, max: 60 }), fc.integer({ min: 1, max: 5 }), (slots, rounds) => {
        const trace = readTraceOf('', slots * rounds, (index) => index % slots);
        expect(simulate('adaptive', slots, trace).misses).toBe(slots);
      }),
    );
  });

  it('keeps within 2 % of LRU behind a keeper that samples every 10 ms, and never runs out of victims', () => {
    for (const trace of modelTraces().filter(({ name }) =>
      ['standbys', 'fast-scans', 'phases'].includes(name),
    )) {
      for (const slots of [256, 1024]) {
        const arena = new SampledArena(slots, {});
        const { misses } = run(arena, trace);
        expect(misses / simulate('lru', slots, trace).misses, trace.name).toBeLessThanOrEqual(1.02);
        // The fast scans turn most of the small arena over between two ticks: no list can be long enough there.
        if (slots === 1024) expect(arena.stalls, trace.name).toBe(0);
      }
    }
  }, 60_000);
});

describe('live readers beside a catch-up scan', () => {
  it('lose at most 0.5 % of their hits, however fast and long the scan', () => {
    const workload = fc.record({
      slots: fc.constantFrom(128, 256),
      /** Where the live readers are, as a part of the arena. */
      lags: fc.array(fc.double({ min: 0, max: 0.25, noNaN: true }), { minLength: 1, maxLength: 3 }),
      scans: fc.array(
        fc.record({
          at: fc.double({ min: 0.05, max: 0.7, noNaN: true }),
          arenasBehind: fc.integer({ min: 1, max: 40 }),
          speed: fc.integer({ min: 2, max: 100 }),
        }),
        { minLength: 1, maxLength: 3 },
      ),
      seed: fc.nat(),
    });
    fc.assert(
      fc.property(workload, ({ slots, lags, scans, seed }) => {
        const appends = 100 * slots;
        const quiet = { appends, lags: lags.map((lag) => Math.floor(lag * slots)), seed };
        const catchUps = scans.map(({ at, arenasBehind, speed }) => ({
          at: Math.floor(at * appends),
          behind: arenasBehind * slots,
          speed,
        }));
        const without = simulate('adaptive', slots, logTrace('', quiet)).liveHits;
        const beside = simulate('adaptive', slots, logTrace('', { ...quiet, catchUps })).liveHits;
        expect((without - beside) / without).toBeLessThanOrEqual(0.005);
      }),
      { numRuns: 25 },
    );
  }, 60_000);

  it('are protected by what the policy learns: how many pages they need, and which they have all read', () => {
    const liveMisses = (name: string, slots: number): number => {
      const trace = modelTraces().find((trace) => trace.name === name) as Trace;
      const { liveReads, liveHits } = simulate('adaptive', slots, trace);
      return (liveReads - liveHits) / liveReads;
    };
    // Without the target for live pages 1 % and 0.5 %, and without the lag of the slowest reader 0.4 %.
    expect(liveMisses('together', 256)).toBeLessThan(0.002);
    expect(liveMisses('standbys', 1024)).toBeLessThan(0.002);
    expect(liveMisses('fast-scans', 1024)).toBeLessThan(0.002);
  });

  it('lose at most 0.5 % of their hits in the recorded run, where they fall behind and catch-up gets ahead of them', () => {
    const path = new URL('../../bench/traces/lagging-standbys.trace.gz', import.meta.url).pathname;
    const trace = readTrace(path, 'lagging-standbys');
    const quiet = { ...trace, accesses: trace.accesses.filter(({ kind }) => kind !== 'c') };
    const without = simulate('adaptive', 1024, quiet).liveHits;
    const { liveHits } = simulate('adaptive', 1024, trace);
    // 1.3 % if what catch-up reads back ahead of them is taken for its own.
    expect((without - liveHits) / without).toBeLessThanOrEqual(0.005);
  });
});

describe('the rules of the adaptive policy', () => {
  const slots = 16;

  it('a page accessed within T1 moves to the LRU queue; a later access starts a new window in the FIFO queue', () => {
    const policy = transparentPolicy(slots, { firstWindowMs: 100 });
    for (const slot of [0, 1, 2, 3]) insert(policy, slot, 0);
    access(policy, 1, 100);
    expect(policyStats(policy)).toMatchObject({ fifo: 3, lru: 1 });
    access(policy, 0, 101);
    expect(policyStats(policy)).toMatchObject({ fifo: 3, lru: 1 });
    access(policy, 0, 201);
    expect(policyStats(policy)).toMatchObject({ fifo: 2, lru: 2 });
    access(policy, 2, 201);
    access(policy, 2, 302);
    expect(policyStats(policy)).toMatchObject({ fifo: 2, lru: 2 });
  });

  it('a page of the LRU queue that was accessed is not evicted because its review is yet to come', () => {
    // Each load is a miss of LRU too and, with this margin, pays for one difference from it.
    const policy = transparentPolicy(8, { reviewMs: 1e9, lruMarginPercent: 100 });
    for (const slot of [0, 1, 2, 3]) {
      insert(policy, slot, 0, 'loaded');
      access(policy, slot, 0);
    }
    for (const slot of [1, 0]) access(policy, slot, 1);
    // LRU's order has 1 before 0; that of the queue, by lists, is 2, 3 and then as the walk met the two.
    expect(leavingOrder(policy, 2).slice(0, 2)).toEqual([2, 3]);
  });

  it('forgets with the page that it was accessed', () => {
    const policy = transparentPolicy(8, { reviewMs: 100 });
    insert(policy, 0, 0);
    access(policy, 0, 0);
    access(policy, 0, 1);
    remove(policy, 0, 2);
    insert(policy, 1, 200);
    expect(leavingOrder(policy, 200)).toEqual([1]);
    insert(policy, 0, 200, 'appended', 500);
    expect(leavingOrder(policy, 400)).toEqual([1, 0]);
    expect(policyStats(policy)).toMatchObject({ fifo: 2, lru: 0 });
  });

  it('a page that comes back soon after it left goes to the LRU queue and lengthens the queue it had left', () => {
    const policy = transparentPolicy(slots, {});
    const target = () => policyStats(policy).fifoTarget;
    insert(policy, 0, 0, 'loaded', 100);
    insert(policy, 1, 0, 'loaded', 101);
    access(policy, 1, 1);
    remove(policy, 0, 2);
    remove(policy, 1, 2);
    const start = target();
    insert(policy, 2, 3, 'loaded', 100);
    expect(policyStats(policy)).toMatchObject({ fifo: 0, lru: 1, ghostHits: 1 });
    expect(target()).toBeGreaterThan(start);
    const longer = target();
    insert(policy, 3, 3, 'loaded', 101);
    expect(policyStats(policy)).toMatchObject({ fifo: 0, lru: 2, ghostHits: 2 });
    expect(target()).toBeLessThan(longer);
  });

  it('keeps more pages for live readers when one of theirs was gone, and fewer when one of catch-up was', () => {
    const policy = transparentPolicy(64, {});
    const target = () => policyStats(policy).liveTarget;
    for (let slot = 0; slot < 20; slot++) {
      insert(policy, slot, 0, slot < 10 ? 'appended' : 'loaded', 100 + slot);
      remove(policy, slot, 0);
    }
    for (let slot = 0; slot < 10; slot++) insert(policy, slot, 1, 'loaded', 100 + slot);
    expect(target()).toBe(20);
    for (let slot = 10; slot < 20; slot++) insert(policy, slot, 1, 'loaded', 100 + slot);
    expect(target()).toBe(19);
  });

  it('remembers as many pages as the arena has slots, the last ones', () => {
    for (let back = 0; back < 3 * slots; back++) {
      const policy = transparentPolicy(slots, {});
      for (let page = 0; page < 3 * slots; page++) {
        insert(policy, 0, page, 'loaded', page);
        remove(policy, 0, page);
      }
      insert(policy, 1, 1000, 'loaded', back);
      expect(policyStats(policy).ghostHits, `page ${back}`).toBe(back < 2 * slots ? 0 : 1);
    }
  });
});

import fc from 'fast-check';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { SampledArena } from '../../bench/cache/arena.js';
import { type ArenaPort, arenaEvent, Keeper } from '../../src/cache/keeper.js';
import { WalshipError } from '../../src/engine/errors.js';

/** An arena whose every move the test makes. */
class HandArena implements ArenaPort {
  readonly slots: number;
  readonly referenceBits: Uint8Array;
  readonly held: Float64Array;
  ring: [kind: number, slot: number, page: number][] = [];
  offers: { slot: number; page: number }[][] = [];

  constructor(slots: number, bitsAt = 0) {
    this.slots = slots;
    this.referenceBits = new Uint8Array(new ArrayBuffer(slots + bitsAt), bitsAt, slots);
    this.held = new Float64Array(slots).fill(-1);
  }

  put(slot: number, page: number, kind: number = arenaEvent.appended): void {
    this.held[slot] = page;
    this.ring.push([kind, slot, page]);
  }

  take(slot: number): void {
    this.ring.push([arenaEvent.removed, slot, this.held[slot] as number]);
    this.held[slot] = -1;
  }

  drainEvents(into: Float64Array): number {
    const part = this.ring.splice(0, into.length / 3);
    into.set(part.flat());
    return part.length;
  }

  slotPages(into: Float64Array): void {
    into.set(this.held);
  }

  offerVictims(slots: Uint32Array, pages: Float64Array, count: number): void {
    const listed = (_: unknown, i: number) => ({ slot: slots[i] as number, page: pages[i] as number });
    this.offers.push(Array.from({ length: count }, listed));
  }

  /** What the arena holds, as the list of victims should show it: all of it, by slot. */
  contents(): { slot: number; page: number }[] {
    return [...this.held].map((page, slot) => ({ slot, page })).filter(({ page }) => page >= 0);
  }
}

const bySlot = (a: { slot: number }, b: { slot: number }): number => a.slot - b.slot;

describe('the keeper', () => {
  it('tells the policy of new, loaded and removed pages and offers victims in return', () => {
    const arena = new HandArena(8);
    const keeper = new Keeper(arena, { victims: 8 }, () => 0);
    arena.put(0, 100);
    arena.put(1, 7, arenaEvent.loaded);
    arena.put(2, 101);
    arena.take(0);
    keeper.tick();
    expect(arena.offers.at(-1)?.sort(bySlot)).toEqual(arena.contents());
    expect(keeper.status()).toMatchObject({
      slots: 8,
      resident: 2,
      misses: 1,
      evictions: 1,
      victims: 2,
      adaptive: true,
    });
  });

  it('offers nothing new when nothing has happened', () => {
    const arena = new HandArena(8);
    const keeper = new Keeper(arena);
    arena.put(0, 1);
    keeper.tick();
    keeper.tick();
    expect(arena.offers).toHaveLength(1);
  });

  it('reads and clears every reference bit, wherever the bits lie in memory', () => {
    for (const slots of [4, 7, 64, 101]) {
      for (const bitsAt of [0, 1, 4]) {
        const arena = new HandArena(slots, bitsAt);
        const keeper = new Keeper(arena, {}, () => 0);
        for (let slot = 0; slot < slots; slot++) arena.put(slot, slot);
        keeper.tick();
        for (let slot = 0; slot < slots; slot++) {
          const before = keeper.status();
          arena.referenceBits[slot] = 1;
          keeper.tick();
          const after = keeper.status();
          expect(arena.referenceBits[slot]).toBe(0);
          expect([after.hits - before.hits, after.lru - before.lru]).toEqual([1, 1]);
        }
      }
    }
  });

  it('takes over an arena that holds pages already, none of them a miss', () => {
    const arena = new HandArena(8);
    arena.held.set([5, 6, -1, 9]);
    const keeper = new Keeper(arena, { victims: 8 });
    keeper.tick();
    expect(arena.offers.at(-1)?.sort(bySlot)).toEqual(arena.contents());
    expect(keeper.status()).toMatchObject({ resident: 3, misses: 0 });
  });

  it('makes up its books anew when the ring overflowed', () => {
    const arena = new HandArena(8);
    const keeper = new Keeper(arena, { victims: 8 });
    for (let slot = 0; slot < 4; slot++) arena.put(slot, 100 + slot);
    keeper.tick();
    // Lost: slots 0 and 3 are free, slot 1 has an old page back from disk, slot 4 a new page.
    arena.held.set([-1, 50, 102, -1, 104]);
    arena.ring.push([arenaEvent.dropped, 0, 4]);
    // Told late: something the snapshot already counts.
    arena.ring.push([arenaEvent.removed, 0, 100]);
    keeper.tick();
    expect(arena.offers.at(-1)?.sort(bySlot)).toEqual(arena.contents());
    expect(keeper.status()).toMatchObject({ droppedEvents: 4, resyncs: 1, misses: 1, resident: 3 });
  });

  it('ignores what a late event says of a page that its slot no longer holds', () => {
    const arena = new HandArena(8);
    const keeper = new Keeper(arena, { victims: 8 });
    arena.put(0, 100);
    keeper.tick();
    arena.ring.push([arenaEvent.removed, 0, 99]);
    arena.ring.push([arenaEvent.appended, 0, 100]);
    keeper.tick();
    expect(keeper.status()).toMatchObject({ resident: 1, evictions: 0 });
  });

  it('has books that agree with the arena after every tick, however small the ring', () => {
    const touch = fc.record({
      page: fc.nat({ max: 60 }),
      kind: fc.constantFrom('a' as const, 'c' as const, 't' as const),
      passed: fc.nat({ max: 12 }),
    });
    fc.assert(
      fc.property(
        fc.integer({ min: 4, max: 24 }),
        fc.constantFrom(1, 3, 10, 100),
        fc.boolean(),
        fc.array(touch, { maxLength: 400 }),
        (slots, ring, adaptive, touches) => {
          const arena = new SampledArena(slots, { adaptive, victims: slots, intervalMs: 10 }, ring);
          let nowMs = 0;
          for (const { page, kind, passed } of touches) {
            nowMs += passed;
            arena.touch(page, kind, nowMs);
          }
          arena.keeper.tick();
          expect(arena.offered().sort(bySlot)).toEqual(arena.contents());
          expect(arena.keeper.status().resident).toBe(arena.contents().length);
        },
      ),
    );
  });

  it('ends a tick even if the data plane adds events without end', () => {
    const arena = new HandArena(16);
    const keeper = new Keeper(arena);
    let page = 0;
    arena.drainEvents = (into) => {
      for (let i = 0; i < into.length; i += 3) into.set([arenaEvent.appended, page % 16, page++], i);
      return into.length / 3;
    };
    keeper.tick();
    expect(page).toBeLessThanOrEqual(16 + 1024);
    expect(keeper.status().resident).toBe(16);
  });

  it('refuses bad settings, all at once', () => {
    const bad = () => new Keeper(new HandArena(8), { reviewMs: 0, intervalMs: 0 });
    expect(bad).toThrow(WalshipError);
    expect(bad).toThrow(/reviewMs.*intervalMs/);
  });

  describe('with its timer', () => {
    afterEach(() => vi.useRealTimers());

    it('looks every intervalMs from start to stop', () => {
      vi.useFakeTimers();
      const arena = new HandArena(8);
      const keeper = new Keeper(arena, { intervalMs: 20 });
      const looks = vi.spyOn(arena, 'drainEvents');
      vi.advanceTimersByTime(100);
      expect(looks).toHaveBeenCalledTimes(0);
      keeper.start();
      keeper.start();
      vi.advanceTimersByTime(100);
      expect(looks).toHaveBeenCalledTimes(5);
      keeper.stop();
      keeper.stop();
      vi.advanceTimersByTime(100);
      expect(looks).toHaveBeenCalledTimes(5);
      keeper.start();
      vi.advanceTimersByTime(40);
      expect(looks).toHaveBeenCalledTimes(7);
      keeper.stop();
      expect(vi.getTimerCount()).toBe(0);
    });

    it('does not keep the process alive', () => {
      const timers = vi.spyOn(globalThis, 'setInterval');
      const keeper = new Keeper(new HandArena(8));
      keeper.start();
      expect(timers.mock.results[0]?.value.hasRef()).toBe(false);
      keeper.stop();
      timers.mockRestore();
    });

    it('reports the longest time it was not looking', () => {
      let nowMs = 0;
      const keeper = new Keeper(new HandArena(8), {}, () => nowMs);
      for (nowMs of [0, 10, 260, 270]) keeper.tick();
      expect(keeper.status().longestStallMs).toBe(250);
    });
  });
});

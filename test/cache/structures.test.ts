import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Lists } from '../../src/cache/lists.js';
import { PageTable } from '../../src/cache/pages.js';

describe('Lists', () => {
  it('holds each item in one list at most, in the order of the pushes', () => {
    const items = 8;
    const move = fc.record({ item: fc.nat({ max: items - 1 }), list: fc.integer({ min: -1, max: 2 }) });
    fc.assert(
      fc.property(fc.array(move, { maxLength: 200 }), (moves) => {
        const lists = new Lists(items, 3);
        const byHand: number[][] = [[], [], []];
        for (const { item, list } of moves) {
          for (const other of byHand) if (other.includes(item)) other.splice(other.indexOf(item), 1);
          if (list < 0) lists.remove(item);
          else lists.push(list, item);
          byHand[list]?.push(item);
        }
        for (const [list, expected] of byHand.entries()) {
          const upwards: number[] = [];
          for (let item = lists.oldest(list); item >= 0; item = lists.newer(item)) upwards.push(item);
          const downwards: number[] = [];
          for (let item = lists.newest(list); item >= 0; item = lists.older(item)) downwards.push(item);
          expect(upwards).toEqual(expected);
          expect(downwards).toEqual(expected.toReversed());
          expect(lists.length(list)).toBe(expected.length);
        }
        for (let item = 0; item < items; item++) {
          expect(lists.listOf(item)).toBe(byHand.findIndex((list) => list.includes(item)));
        }
      }),
    );
  });
});

describe('PageTable', () => {
  it('is a map from page numbers of any size below 2^53', () => {
    const page = fc.oneof(
      fc.nat({ max: 30 }),
      fc.maxSafeNat(),
      fc.nat({ max: 30 }).map((low) => 2 ** 40 + low),
    );
    const change = fc.record({ page, value: fc.integer({ min: -1, max: 1000 }) });
    fc.assert(
      fc.property(fc.array(change, { maxLength: 400 }), (changes) => {
        const bound = 20;
        const table = new PageTable(bound);
        const byHand = new Map<number, number>();
        for (const { page, value } of changes) {
          if (value < 0) {
            table.delete(page);
            byHand.delete(page);
          } else if (byHand.has(page) || byHand.size < bound) {
            table.set(page, value);
            byHand.set(page, value);
          } else {
            expect(() => table.set(page, value)).toThrow(RangeError);
          }
          expect(table.size).toBe(byHand.size);
        }
        for (const { page } of changes) expect(table.get(page)).toBe(byHand.get(page) ?? -1);
      }),
    );
  });
});

import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { Reign } from '../../src/failover/coordinator/coordinator.js';
import {
  chooseStandbys,
  comparePlaces,
  mayTakeOver,
  type Promised,
  promisesNeeded,
  ruleOver,
  standbysNeeded,
  standbysOf,
} from '../../src/failover/quorum.js';

const promise = (node: string, logEpoch: bigint, lsn: bigint, whole = false): Promised => ({
  node,
  logEpoch,
  lsn,
  whole,
});
const old: Reign = { node: 'a', epoch: 3n, rule: { level: 'flushed', any: 1, nodes: ['b', 'c'] } };

test('of two logs the one with the newer epoch is ahead, however long the other', () => {
  expect(comparePlaces({ logEpoch: 2n, lsn: 10n }, { logEpoch: 1n, lsn: 1000n })).toBeGreaterThan(0);
  expect(comparePlaces({ logEpoch: 2n, lsn: 10n }, { logEpoch: 2n, lsn: 11n })).toBeLessThan(0);
  expect(comparePlaces({ logEpoch: 2n, lsn: 10n }, { logEpoch: 2n, lsn: 10n })).toBe(0);
});

test('n - k + 1 standbys are needed, and none of those that count is ahead of the candidate', () => {
  const b = promise('b', 3n, 100n);
  const c = promise('c', 3n, 90n);
  expect(mayTakeOver(old, b, [b])).toBe(false);
  expect(mayTakeOver(old, b, [b, c])).toBe(true);
  expect(mayTakeOver(old, c, [b, c])).toBe(false);
});

test('the old primary itself is enough: its log was part of every commit', () => {
  const a = promise('a', 3n, 100n);
  const b = promise('b', 3n, 100n);
  expect(mayTakeOver(old, a, [a])).toBe(true);
  expect(mayTakeOver(old, b, [a, b])).toBe(true);
  expect(mayTakeOver(old, promise('b', 3n, 99n), [a, promise('b', 3n, 99n)])).toBe(false);
});

test('if the own disk of the old primary does not count, its word is good only while its process lives', () => {
  const behind: Reign = { ...old, rule: { level: 'flushed', any: 1, nodes: ['b', 'c'], ownDisk: false } };
  const a = promise('a', 3n, 100n);
  const [b, c] = [promise('b', 3n, 100n), promise('c', 3n, 90n)];
  expect(mayTakeOver(behind, a, [a])).toBe(false);
  expect(mayTakeOver(behind, b, [a, b])).toBe(false);
  expect(mayTakeOver(behind, a, [{ ...a, whole: true }])).toBe(true);
  // What a standby has acknowledged is on its disk, whichever process said so.
  expect(mayTakeOver(behind, b, [b, c])).toBe(true);
});

test('at level received only processes count that have held everything once', () => {
  const received: Reign = { ...old, rule: { level: 'received', any: 1, nodes: ['b', 'c'] } };
  expect(mayTakeOver(received, promise('a', 3n, 100n), [promise('a', 3n, 100n)])).toBe(false);
  expect(mayTakeOver(received, promise('a', 3n, 100n, true), [promise('a', 3n, 100n, true)])).toBe(true);
  // A standby that came back has lost what it had acknowledged in memory.
  const [b, c] = [promise('b', 3n, 100n, true), promise('c', 3n, 90n)];
  expect(mayTakeOver(received, b, [b, c])).toBe(false);
  expect(mayTakeOver(received, b, [b, { ...c, whole: true }])).toBe(true);
});

test('under async nobody can prove anything but the old primary itself', () => {
  const async: Reign = { ...old, rule: { level: 'async' } };
  expect(promisesNeeded(async.rule)).toBeUndefined();
  expect(mayTakeOver(async, promise('b', 3n, 1n), [promise('b', 3n, 1n), promise('c', 3n, 1n)])).toBe(false);
  expect(mayTakeOver(async, promise('a', 3n, 1n), [promise('a', 3n, 1n)])).toBe(true);
});

test('standbys that never reached the beginning of a reign say nothing of what was committed before it', () => {
  const young: Reign = {
    node: 'c',
    epoch: 4n,
    rule: { level: 'flushed', any: 1, nodes: ['b'] },
    previous: { node: 'a', epoch: 3n, rule: { level: 'flushed', any: 1, nodes: ['c'] } },
  };
  const b = promise('b', 3n, 50n);
  expect(mayTakeOver(young, b, [b])).toBe(false);
  // The primary of the reign before has all that was committed in it.
  const a = promise('a', 3n, 60n);
  expect(mayTakeOver(young, a, [a, b])).toBe(true);
  // Once b has reached the beginning of the reign, its word is enough.
  const later = promise('b', 4n, 61n);
  expect(mayTakeOver(young, later, [later])).toBe(true);
});

test('whatever the rule: two sets that are both enough share a node that acknowledged', () => {
  const names = ['b', 'c', 'd', 'e', 'f'];
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 5 }).chain((n) => fc.tuple(fc.constant(n), fc.integer({ min: 1, max: n }))),
      fc.array(fc.boolean(), { minLength: 5, maxLength: 5 }),
      ([n, k], promised) => {
        const nodes = names.slice(0, n);
        const reign: Reign = { node: 'a', epoch: 1n, rule: { level: 'flushed', any: k, nodes } };
        const promises = nodes.filter((_, index) => promised[index]).map((node) => promise(node, 1n, 5n));
        const candidate = promises[0];
        if (!candidate) return;
        // Those left over are too few to commit anything without one of the promised.
        const left = nodes.length - promises.length;
        expect(mayTakeOver(reign, candidate, promises)).toBe(left < k);
      },
    ),
  );
});

test('who counts: the connected ones as long as they are enough, else nobody is taken out', () => {
  const base = { level: 'flushed', any: 1 } as const;
  expect(chooseStandbys(base, ['b', 'c'], new Set(['b', 'c']), [])).toEqual(['b', 'c']);
  expect(chooseStandbys(base, ['b', 'c'], new Set(['b']), ['b', 'c'])).toEqual(['b']);
  expect(chooseStandbys(base, ['b', 'c'], new Set(), ['b'])).toEqual(['b']);
  expect(chooseStandbys({ ...base, any: 2 }, ['b', 'c'], new Set(['c']), ['b'])).toEqual(['b', 'c']);
});

test('a rule that asks for more than there are members is met by nobody', () => {
  const base = { level: 'flushed', any: 2 } as const;
  const chosen = chooseStandbys(base, ['b'], new Set(['b']), []);
  expect(chosen).toHaveLength(2);
  expect(promisesNeeded(ruleOver(base, chosen))).toBe(0);
});

test('what stands in for a member that has not registered is not waited for', () => {
  const base = { level: 'received', any: 1 } as const;
  const alone = chooseStandbys(base, [], new Set(), []);
  // As a primary that dies while b and c take the place of nobody leaves it.
  const rule = ruleOver(base, [...alone, 'b', 'c']);
  const old = { node: 'a', epoch: 1n, rule };
  const [b, c] = (['b', 'c'] as const).map((node) => ({ node, logEpoch: 1n, lsn: 7n, whole: true }));
  if (!b || !c) throw new Error('there are two');
  expect(promisesNeeded(rule)).toBe(2);
  expect(mayTakeOver(old, b, [b, c])).toBe(true);
  expect(mayTakeOver(old, b, [b])).toBe(false);
});

test('first k are the first connected ones, in the order of the list', () => {
  const base = { level: 'applied', first: 1, nodes: ['c', 'b'] } as const;
  expect(chooseStandbys(base, ['b', 'c', 'd'], new Set(['b', 'c', 'd']), [])).toEqual(['c']);
  expect(chooseStandbys(base, ['b', 'c', 'd'], new Set(['b', 'd']), ['c'])).toEqual(['b']);
  const rule = ruleOver(base, ['c']);
  expect(standbysNeeded(rule)).toBe(1);
  expect(standbysOf(rule)).toEqual(['c']);
});

import fc from 'fast-check';
import { expect, test } from 'vitest';
import { type PlannedNode, planTree } from '../../src/cluster/planner.js';

const plan = (
  primary: string,
  standbys: readonly PlannedNode[],
  fanOut: number,
  avoided: readonly string[] = [],
) =>
  Object.fromEntries(
    planTree({
      primary: { node: primary },
      standbys,
      fanOut,
      avoids: (child, node) => avoided.includes(`${child} ${node}`),
    }),
  );

test('a fan-out of 1 makes a chain, a larger one a tree', () => {
  const three = [{ node: 'b' }, { node: 'c' }, { node: 'd' }];
  expect(plan('a', three, 1)).toEqual({ b: 'a', c: 'b', d: 'c' });
  expect(plan('a', three, 2)).toEqual({ b: 'a', c: 'a', d: 'b' });
  expect(plan('a', three, 4)).toEqual({ b: 'a', c: 'a', d: 'a' });
});

test('when the primary dies, only those below it move', () => {
  const standbys = [
    { node: 'c', parent: 'a' },
    { node: 'd', parent: 'c' },
    { node: 'e', parent: 'b' },
  ];
  expect(plan('b', standbys, 2)).toEqual({ c: 'b', d: 'c', e: 'b' });
});

test('what hangs below a node that moves stays below it', () => {
  expect(
    plan(
      'b',
      [
        { node: 'd', parent: 'c' },
        { node: 'c', parent: 'dead' },
        { node: 'e', parent: 'd' },
      ],
      1,
    ),
  ).toEqual({
    c: 'b',
    d: 'c',
    e: 'd',
  });
});

test('a pair that cannot connect is not planned, unless nothing else is left', () => {
  expect(plan('a', [{ node: 'b' }, { node: 'c', parent: 'b' }], 2, ['c b'])).toEqual({ b: 'a', c: 'a' });
  expect(plan('a', [{ node: 'b', parent: 'a' }], 2, ['b a'])).toEqual({ b: 'a' });
});

test('of equally near upstreams the one with the same rails is taken', () => {
  const tree = planTree({
    primary: { node: 'a', rails: ['tcp'] },
    standbys: [
      { node: 'b', parent: 'a', rails: ['tcp'] },
      { node: 'c', parent: 'a', rails: ['tcp', 'verbs'] },
      { node: 'd', rails: ['tcp', 'verbs'] },
    ],
    fanOut: 2,
  });
  expect(tree.get('d')).toBe('c');
});

test('whatever the nodes wish: a tree with everybody in it, within the fan-out, and nobody moves without need', () => {
  const names = ['b', 'c', 'd', 'e', 'f', 'g'];
  fc.assert(
    fc.property(
      fc.uniqueArray(fc.constantFrom(...names)),
      fc.array(fc.constantFrom('a', ...names, 'dead'), { minLength: 6, maxLength: 6 }),
      fc.integer({ min: 1, max: 4 }),
      (alive, wishes, fanOut) => {
        const standbys = alive.map((node, index) => ({ node, parent: wishes[index] }));
        const tree = planTree({ primary: { node: 'a' }, standbys, fanOut });
        expect([...tree.keys()].sort()).toEqual([...alive].sort());
        const children = new Map<string, number>();
        for (const [node, parent] of tree) {
          children.set(parent, (children.get(parent) ?? 0) + 1);
          let at: string | undefined = node;
          for (let steps = 0; at !== 'a'; steps++) {
            expect(steps).toBeLessThan(10);
            at = tree.get(at as string);
          }
        }
        for (const count of children.values()) expect(count).toBeLessThanOrEqual(fanOut);
        // Planned again, it stays as it is.
        const again = alive.map((node) => ({ node, parent: tree.get(node) }));
        expect(planTree({ primary: { node: 'a' }, standbys: again, fanOut })).toEqual(tree);
      },
    ),
  );
});

import { expect, test } from 'vitest';
import { choosePrimary, chooseReplica, type LiveNode, unaskedMembers } from '../../src/cluster/choose.js';
import { encodeNodeView, type NodeView, nodeViewSchema } from '../../src/cluster/view.js';

const live = (node: string, more: Partial<NodeView> & { applied?: bigint } = {}): LiveNode => {
  const { applied = 0n, ...rest } = more;
  return {
    ageMs: 0,
    outstanding: 0,
    chosenAt: 0,
    http: `http://${node}:80`,
    view: {
      version: '1',
      node,
      role: 'standby',
      epoch: 1n,
      members: [],
      positions: { received: applied, flushed: applied, applied, committed: applied },
      health: { ok: true },
      ...rest,
    },
  };
};
const primary = (node: string, epoch: bigint, more: Partial<NodeView> & { applied?: bigint } = {}) =>
  live(node, { role: 'primary', epoch, ...more });
const of = (node: string, epoch: bigint) => ({ primary: { node, log: `${node}:1`, epoch } });

test('the primary is who says so itself, of the newest epoch that is known', () => {
  expect(choosePrimary([])).toBeUndefined();
  expect(choosePrimary([live('a'), live('b', of('a', 1n))])).toBeUndefined();
  expect(choosePrimary([primary('a', 3n), primary('b', 4n), live('c')])?.node).toBe('b');
  // Deposed by one that has not said so yet.
  expect(choosePrimary([primary('a', 3n), live('b', of('b', 4n))])).toBeUndefined();
  // A standby's promise alone deposes nobody.
  expect(choosePrimary([primary('a', 3n), live('b', { epoch: 9n, ...of('a', 3n) })])?.node).toBe('a');
  expect(choosePrimary([primary('a', 3n), live('b', of('a', 3n))])).toEqual({
    node: 'a',
    http: 'http://a:80',
    log: 'a:1',
    epoch: 3n,
  });
});

test('replicas take turns, and only those that have applied it', () => {
  const nodes = [
    primary('a', 3n, { applied: 100n }),
    live('c', { applied: 90n, ...of('a', 3n) }),
    live('b', { applied: 95n, ...of('a', 3n) }),
    live('d', { applied: 99n, health: { ok: false }, ...of('a', 3n) }),
  ];
  const turns = (minLsn: bigint) => {
    const chosenAt = new Map<string, number>();
    return [1, 2, 3, 4].map((choice) => {
      const nodesNow = nodes.map((each) => ({ ...each, chosenAt: chosenAt.get(each.http) ?? 0 }));
      const chosen = chooseReplica(nodesNow, { minLsn });
      if (chosen) chosenAt.set(chosen.http, choice);
      return chosen?.node;
    });
  };
  expect(turns(0n)).toEqual(['b', 'c', 'b', 'c']);
  expect(turns(92n)).toEqual(['b', 'b', 'b', 'b']);
  expect(turns(96n)).toEqual([undefined, undefined, undefined, undefined]);
});

test('a standby of an older primary may hold what will be cut off', () => {
  const nodes = [primary('a', 4n, { applied: 50n }), live('b', { applied: 95n, ...of('z', 3n) })];
  expect(chooseReplica(nodes, { minLsn: 40n })).toBeUndefined();
  expect(chooseReplica(nodes, { minLsn: 0n })?.node).toBe('b');
});

test('without a healthy standby it is the primary, as far as it has it', () => {
  const nodes = [primary('a', 3n, { applied: 100n }), live('b', { health: { ok: false } })];
  expect(chooseReplica(nodes, { minLsn: 100n })?.node).toBe('a');
  expect(chooseReplica(nodes, { minLsn: 101n })).toBeUndefined();
  expect(chooseReplica([], { minLsn: 0n })).toBeUndefined();
});

test('members that nobody was asked at', () => {
  const members = ['a', 'b', 'c'].map((node) => ({ node, http: `${node}.example:80`, log: 'x:1' }));
  expect(unaskedMembers([live('a', { members }), live('c', { members })])).toEqual(['http://b.example:80']);
});

test('a view comes through JSON as it was, and what is none is refused', () => {
  const view: NodeView = {
    ...primary('a', 2n ** 63n, { applied: 2n ** 64n - 1n }).view,
    ...of('a', 2n ** 63n),
    lagMs: 3,
  };
  const json = JSON.parse(encodeNodeView(view));
  expect(json.positions.applied).toBe('18446744073709551615');
  expect(nodeViewSchema.parse({ ...json, fromTheFuture: 1 })).toEqual(view);
  for (const wrong of [
    { ...json, epoch: 5 },
    { ...json, epoch: '18446744073709551616' },
    { ...json, role: 'king' },
    {},
  ])
    expect(nodeViewSchema.safeParse(wrong).success).toBe(false);
});

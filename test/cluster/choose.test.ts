import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  choosePrimary,
  chooseReplica,
  type LiveNode,
  unaskedMembers,
  type Wants,
} from '../../src/cluster/choose.js';
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

const standbys = (...nodes: (Partial<NodeView> & { name: string; applied?: bigint })[]) =>
  nodes.map(({ name, ...more }) => live(name, { ...of('a', 3n), ...more }));

test('how old a view is counts, and the primary is as old as its answer', () => {
  const [b] = standbys({ name: 'b', lagMs: 30 }) as [LiveNode];
  const lag = (each: LiveNode, maxLagMs: number) =>
    chooseReplica([primary('a', 3n), each], { minLsn: 0n, maxLagMs });
  expect(lag(b, 30)?.node).toBe('b');
  expect(lag({ ...b, ageMs: 1 }, 30)).toBeUndefined();
  expect(lag(live('b', of('a', 3n)), 1e9)).toBeUndefined();
  // Of an older primary: how old it is in the newer one's log nobody knows.
  expect(lag(live('b', { lagMs: 1, ...of('z', 2n) }), 1e9)).toBeUndefined();
  const alone = { ...primary('a', 3n), ageMs: 20 };
  expect(chooseReplica([alone], { minLsn: 0n, maxLagMs: 20 })?.node).toBe('a');
  expect(chooseReplica([alone], { minLsn: 0n, maxLagMs: 19 })).toBeUndefined();
});

test('whom the monitors distrust is left out, but not on the word of a deposed primary', () => {
  const why = (node: string) => ({ distrusted: [{ node, why: ['replica-stalled'] }] });
  const [b, c] = standbys({ name: 'b' }, { name: 'c' }) as [LiveNode, LiveNode];
  const chosen = (nodes: LiveNode[]) => chooseReplica(nodes, { minLsn: 0n })?.node;
  expect(chosen([primary('a', 3n), b, c])).toBe('b');
  expect(chosen([primary('a', 3n, why('b')), b, c])).toBe('c');
  expect(chosen([primary('a', 3n), ...standbys({ name: 'b', ...why('b') }), c])).toBe('c');
  expect(chosen([primary('a', 3n), primary('z', 2n, why('b')), b, c])).toBe('b');
  expect(chosen([primary('a', 3n, why('b')), b])).toBe('a');
  expect(
    chosen([primary('a', 3n, { distrusted: [...why('b').distrusted, ...why('a').distrusted] }), b]),
  ).toBeUndefined();
});

test('near: by name in the order given, or by what answers take; then by load, then in turns', () => {
  const nodes = [primary('a', 3n), ...standbys({ name: 'b' }, { name: 'c' }, { name: 'd', applied: 9n })];
  const with_ = (more: Record<string, Partial<LiveNode>>) =>
    nodes.map((each) => ({ ...each, ...more[each.view.node] }));
  const chosen = (given: LiveNode[], wants: Partial<Wants>) =>
    chooseReplica(given, { minLsn: 0n, ...wants })?.node;
  expect(chosen(nodes, { near: ['x', 'c', 'b'] })).toBe('c');
  expect(chosen(nodes, { near: ['c'], minLsn: 9n })).toBe('d');
  expect(chosen(with_({ c: { outstanding: 99 } }), { near: ['c', 'b'] })).toBe('c');
  const times = {
    b: { roundTripMs: 20 },
    c: { roundTripMs: 4, chosenAt: 7 },
    d: { roundTripMs: 6, chosenAt: 5 },
  };
  expect(chosen(with_(times), { near: 'rtt' })).toBe('d');
  expect(chosen(with_({ ...times, d: { roundTripMs: 8 } }), { near: 'rtt' })).toBe('c');
  expect(
    chosen(with_({ b: { outstanding: 2 }, c: { outstanding: 1 }, d: { outstanding: 1, chosenAt: 1 } }), {}),
  ).toBe('c');
});

const choices = fc.record({
  nodes: fc.array(
    fc.record({
      name: fc.constantFrom('a', 'b', 'c', 'd', 'e'),
      isPrimary: fc.boolean(),
      epoch: fc.bigInt(1n, 4n),
      applied: fc.bigInt(0n, 20n),
      ok: fc.boolean(),
      lagMs: fc.option(fc.nat(50), { nil: undefined }),
      ageMs: fc.nat(50),
      history: fc.option(fc.uniqueArray(fc.bigInt(1n, 4n), { maxLength: 4 }), { nil: undefined }),
      accuses: fc.option(fc.constantFrom('a', 'b', 'c', 'd', 'e'), { nil: undefined }),
      outstanding: fc.nat(3),
      chosenAt: fc.nat(9),
    }),
    { maxLength: 6 },
  ),
  minLsn: fc.bigInt(0n, 20n),
  maxLagMs: fc.option(fc.nat(80), { nil: undefined }),
  token: fc.option(fc.record({ epoch: fc.bigInt(1n, 4n), lsn: fc.bigInt(0n, 20n) }), { nil: undefined }),
});

test('whoever is chosen has what is wanted, is well and is trusted; and nobody only if nobody is', () => {
  fc.assert(
    fc.property(choices, ({ nodes: given, ...wants }) => {
      const unique = [...new Map(given.map((each) => [each.name, each])).values()];
      const nodes = unique.map(
        ({ name, isPrimary, epoch, applied, ok, lagMs, ageMs, history, accuses, ...load }) => ({
          ...live(name, {
            role: isPrimary ? 'primary' : 'standby',
            epoch,
            applied,
            health: { ok },
            ...(isPrimary ? {} : of('p', epoch)),
            ...(lagMs !== undefined && { lagMs }),
            ...(history && {
              history: [...history].sort().map((each) => ({ epoch: each, firstLsn: each * 4n })),
            }),
            ...(accuses !== undefined && { distrusted: [{ node: accuses, why: ['disk-full'] }] }),
          }),
          ...load,
          ageMs,
        }),
      );
      const newest = nodes.reduce((most, { view }) => (view.epoch > most ? view.epoch : most), 0n);
      const joined = ({ view }: LiveNode) =>
        view.history ? view.history.at(-1)?.epoch === newest : view.epoch === newest;
      const trusted = ({ view: { node } }: LiveNode) =>
        nodes.every(
          (other) =>
            !other.view.distrusted?.some((each) => each.node === node) ||
            (other.view.node !== node && !joined(other)),
        );
      const fits = (each: LiveNode) => {
        const { view, ageMs } = each;
        const lagMs = view.role === 'primary' ? 0 : view.lagMs;
        const { token } = wants;
        const after = view.history?.find((entry) => entry.epoch > (token?.epoch ?? 0n))?.firstLsn;
        const knows = view.history
          ? view.history.some((entry) => entry.epoch === token?.epoch)
          : token?.epoch === newest;
        return (
          (wants.minLsn === 0n || (joined(each) && view.positions.applied >= wants.minLsn)) &&
          (wants.maxLagMs === undefined ||
            (lagMs !== undefined &&
              (joined(each) || view.role === 'primary') &&
              lagMs + ageMs <= wants.maxLagMs)) &&
          (token === undefined ||
            (joined(each) &&
              view.positions.applied >= token.lsn &&
              (token.lsn === 0n || (knows && (after === undefined || after >= token.lsn)))))
        );
      };
      const well = nodes.filter((each) => each.view.health.ok && trusted(each));
      const all = well.filter(({ view }) => view.role === 'standby');
      const asked = all.length > 0 ? all : well.filter(({ view }) => view.epoch === newest);
      const expected = asked.filter(fits);
      const chosen = chooseReplica(nodes, wants);
      if (chosen === undefined) expect(expected).toEqual([]);
      else {
        const found = expected.find(({ view }) => view.node === chosen.node) as LiveNode;
        expect(found).toBeDefined();
        expect(found.outstanding).toBe(Math.min(...expected.map(({ outstanding }) => outstanding)));
      }
    }),
    { numRuns: 3000 },
  );
});

// What is decided about a page, for any damage of any copies, against what is known to be right.
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type Decision, decide, type Holder } from '../../src/consistency/decision.js';
import type { PageCopy } from '../../src/engine/native.js';

const absent: PageCopy = {
  state: 'absent',
  sum: 0n,
  firstLsn: 0n,
  parent: 0n,
  endLsn: 0n,
  endChecksum: 0n,
};
/** Page `number` of the log: page n runs from LSN 100 n to 100 (n + 1). */
const right = (number: number): PageCopy => ({
  state: 'good',
  sum: BigInt(1000 + number),
  firstLsn: BigInt(number * 100),
  parent: BigInt(5000 + number),
  endLsn: BigInt((number + 1) * 100),
  endChecksum: BigInt(5001 + number),
});
/** Of a log that went another way. */
const other = (number: number): PageCopy => ({
  ...right(number),
  sum: BigInt(2000 + number),
  parent: BigInt(6000 + number),
  endChecksum: BigInt(6001 + number),
});
const damaged = (number: number): PageCopy => ({ ...absent, state: 'damaged', sum: BigInt(3000 + number) });
const stale = (number: number): PageCopy => ({ ...other(number), state: 'stale' });

const holder = (node: string, page: (number: number) => PageCopy, memory?: PageCopy): Holder => ({
  node,
  disk: page(5),
  before: page(4),
  after: page(6),
  ...(memory && { memory }),
});
const judge = (own: Holder, ...neighbours: Holder[]): Decision =>
  decide({ own, neighbours, committedLsn: 10_000n });

describe('a page that one node has in bad order', () => {
  test.each([
    ['damaged', damaged(5)],
    ['stale', stale(5)],
    ['another page', right(9)],
    ['of a log that went another way', other(5)],
  ])('%s: is repaired from the neighbour', (_, disk) => {
    const decision = judge({ ...holder('a', right), disk }, holder('b', right));
    expect(decision).toMatchObject({
      verdict: 'repair',
      sum: 1005n,
      sources: [{ node: 'b', from: 'disk' }],
    });
  });

  test('memory comes before other nodes', () => {
    const decision = judge({ ...holder('a', right, right(5)), disk: damaged(5) }, holder('b', right));
    expect(decision).toMatchObject({ sources: [{ node: 'a', from: 'memory' }, { node: 'b' }] });
  });

  test('a stretch that went another way gives in from its beginning on, where a page that all have disproves it', () => {
    const others = [holder('b', right), holder('c', right)];
    // In the midst of it nobody can tell.
    expect(judge(holder('a', other), ...others).verdict).toBe('isolate');
    const first = { ...holder('a', other), before: right(4) };
    expect(judge(first, ...others)).toMatchObject({ verdict: 'repair', sum: 1005n });
    // With nobody to ask, one of the two is wrong, and nobody knows which.
    expect(judge(first).verdict).toBe('isolate');
  });

  test('nobody to ask: it is isolated', () => {
    expect(judge({ ...holder('a', right), disk: damaged(5) })).toEqual({
      verdict: 'isolate',
      why: 'the page does not verify, and no other node can be asked',
    });
  });

  test('two others that differ: most nodes decide, of what is committed alone', () => {
    const own = holder('a', damaged);
    expect(judge(own, holder('b', right), holder('c', other))).toMatchObject({ verdict: 'isolate' });
    const others = [holder('b', right), holder('c', right), holder('d', other)];
    expect(judge(own, ...others)).toMatchObject({ verdict: 'repair', sum: 1005n });
    expect(decide({ own, neighbours: others, committedLsn: 599n }).verdict).toBe('isolate');
  });
});

describe('whatever becomes of the copies', () => {
  const copies = (number: number) =>
    fc.constantFrom(right(number), right(number), absent, damaged(number), stale(number), right(number + 3));
  /** Three pages of a node: none of them verifies as what it is not. */
  const anyHolder = (node: string, own: boolean) =>
    fc
      .record({
        disk: copies(5),
        before: copies(4),
        after: copies(6),
        memory: own ? fc.constantFrom(right(5), absent, damaged(5)) : fc.constant(absent),
      })
      .map(({ memory, ...rest }): Holder => ({ node, ...rest, ...(own && { memory }) }));
  const cluster = fc.record({
    own: anyHolder('a', true),
    neighbours: fc
      .integer({ min: 0, max: 4 })
      .chain((count) => fc.tuple(...Array.from({ length: count }, (_, i) => anyHolder(`n${i}`, false)))),
    committedLsn: fc.constantFrom(0n, 550n, 10_000n),
  });
  const inPlace = ({ before, after, disk, memory }: Holder) =>
    [before, after, disk, memory].every((copy) => copy?.state !== 'good' || copy.sum < 1007n);

  test('as long as every page that verifies stands in its place, the right one wins, and only it', () => {
    fc.assert(
      fc.property(cluster, (facts) => {
        const all = [facts.own, ...facts.neighbours];
        fc.pre(all.every(inPlace));
        const decision = decide(facts);
        const someRight = all.some(({ disk, memory }) => disk.sum === 1005n || memory?.sum === 1005n);
        if (facts.own.disk.sum === 1005n) expect(decision).toEqual({ verdict: 'healthy' });
        else if (someRight) expect(decision).toMatchObject({ verdict: 'repair', sum: 1005n });
        else expect(decision.verdict).toBe('isolate');
      }),
      { numRuns: 5000 },
    );
  });

  test('a page is only ever repaired with a good copy that somebody has, and never one that is right', () => {
    const wild = (number: number) =>
      fc.constantFrom(
        right(number),
        other(number),
        damaged(number),
        stale(number),
        right(number + 1),
        absent,
      );
    const wildHolder = (node: string) =>
      fc
        .record({ disk: wild(5), before: wild(4), after: wild(6), memory: wild(5) })
        .map(({ memory, ...rest }): Holder => (node === 'a' ? { node, memory, ...rest } : { node, ...rest }));
    fc.assert(
      fc.property(
        wildHolder('a'),
        fc.array(fc.constantFrom('b', 'c', 'd').chain(wildHolder), { maxLength: 3 }),
        fc.constantFrom(0n, 10_000n),
        (own, neighbours, committedLsn) => {
          const decision = decide({ own, neighbours, committedLsn });
          if (decision.verdict !== 'repair') return;
          expect(decision.sources.length).toBeGreaterThan(0);
          for (const { node, from } of decision.sources) {
            const copies = [own, ...neighbours]
              .filter((each) => each.node === node)
              .map((each) => each[from]);
            expect(copies.some((copy) => copy?.state === 'good' && copy.sum === decision.sum)).toBe(true);
          }
          expect(own.disk.state === 'good' && own.disk.sum === decision.sum).toBe(false);
          // A page that verifies and continues what this node itself has on both sides is not touched.
          const { disk, before, after } = own;
          const fitsHere =
            disk.state === 'good' &&
            before?.state === 'good' &&
            after?.state === 'good' &&
            disk.firstLsn === before.endLsn &&
            disk.parent === before.endChecksum &&
            after.firstLsn === disk.endLsn &&
            after.parent === disk.endChecksum;
          expect(fitsHere).toBe(false);
        },
      ),
      { numRuns: 5000 },
    );
  });
});

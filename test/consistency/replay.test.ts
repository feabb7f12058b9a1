// The checker of the chaotic run's journal (test/cli/chaos-journal.test.ts), on journals that are made up.
import { expect, test } from 'vitest';
import type { JournalEntry } from '../../src/consistency/journal.js';
import { stampOf } from '../../src/failover/clock.js';
import { type Done, unexplained } from '../lib/replay.js';

type Told = readonly [ms: number, node: string, event: string, facts?: JournalEntry['facts']];

function journal(told: readonly Told[]): JournalEntry[] {
  const seqs = new Map<string, number>();
  return told.map(([ms, node, event, facts]) => {
    const seq = (seqs.get(node) ?? 0) + 1;
    seqs.set(node, seq);
    const clock = stampOf(new Date(ms));
    return { seq, clock, node, epoch: 0n, lsn: 0n, level: 'info', event, message: event, facts };
  });
}

/** `b` takes over from `a`, which is stopped meanwhile. */
const told: readonly Told[] = [
  [1, 'a', 'starting'],
  [2, 'b', 'starting'],
  [10, 'a', 'begins', { epoch: '1' }],
  [11, 'a', 'promised', { epoch: '1', to: 'a' }],
  [12, 'a', 'elected', { epoch: '1', promises: 'a' }],
  [13, 'a', 'role', { role: 'primary', epoch: '1' }],
  [14, 'b', 'follow', { node: 'a' }],
  [15, 'a', 'peer-up', { node: 'b' }],
  [16, 'b', 'peer-up', { node: 'a' }],
  [200, 'b', 'primary-lost', { node: 'a', epoch: '1' }],
  [201, 'b', 'peer-down', { node: 'a' }],
  [202, 'b', 'election', { epoch: '2', cause: 'lost' }],
  [203, 'b', 'promised', { epoch: '2', to: 'b' }],
  [204, 'b', 'elected', { epoch: '2', promises: 'b' }],
  [205, 'b', 'role', { role: 'primary', epoch: '2' }],
  [301, 'a', 'stood-still', { ms: 205 }],
  [302, 'b', 'peer-up', { node: 'a' }],
  [303, 'a', 'promised', { epoch: '2', to: '' }],
  [304, 'a', 'deposed', { epoch: '1' }],
  [305, 'a', 'follow', { node: 'b' }],
];
const done: Done = {
  deeds: [
    { kind: 'start', node: 'a', at: 0, until: 9 },
    { kind: 'start', node: 'b', at: 0, until: 9 },
    { kind: 'stop', node: 'a', at: 100, until: 300 },
  ],
  seen: [
    { node: 'a', role: 'primary', from: 50, until: 52 },
    { node: 'b', role: 'primary', from: 250, until: 252 },
    { node: 'a', role: 'primary', from: 90, until: 301 },
    { node: 'a', role: 'standby', from: 400, until: 401 },
  ],
};

test('a journal that tells all of it explains it', () => {
  expect(unexplained(journal(told), done)).toEqual([]);
});

// The last line is what follows from all that, and nothing follows from it.
for (const line of told.slice(0, -1).filter(([, , event]) => event !== 'follow')) {
  const [ms, node, event] = line;
  // Nobody asked for this promise, and that `b` was elected explains as well why `a` is not primary.
  const isSpare = ms === 303;
  test(`without ${node}'s ${event} at ${ms} it does${isSpare ? '' : ' not'}`, () => {
    const rest = told.filter((each) => each !== line);
    expect(unexplained(journal(rest), done).length > 0).toBe(!isSpare);
  });
}

test.each([
  ['promised', 'elected'],
  ['election', 'elected'],
  ['primary-lost', 'election'],
  ['elected', 'role'],
])('with the %s of b behind its %s it does not', (cause, effect) => {
  const ofB = (event: string) =>
    told.findIndex(([ms, node, each]) => node === 'b' && each === event && ms > 100);
  const lines = [...told];
  const [from, to] = [ofB(cause), ofB(effect)];
  const [one, two] = [told[from] as Told, told[to] as Told];
  lines[from] = [one[0], ...(two.slice(1) as [string, string])] as Told;
  lines[to] = [two[0], ...(one.slice(1) as [string, string])] as Told;
  expect(unexplained(journal(lines), done)).not.toEqual([]);
});

test('what was seen or done, and is not told, is not explained', () => {
  const one = (more: Partial<Done>) => unexplained(journal(told), { ...done, ...more });
  expect(one({ seen: [{ node: 'b', role: 'standby', from: 250, until: 252 }] })).toHaveLength(1);
  expect(one({ deeds: [...done.deeds, { kind: 'kill', node: 'b', at: 20, until: 21 }] })).not.toEqual([]);
  expect(one({ deeds: [...done.deeds, { kind: 'start', node: 'b', at: 400, until: 410 }] })).not.toEqual([]);
  expect(one({ deeds: [...done.deeds, { kind: 'cut', node: 'b', at: 20, until: 60 }] })).not.toEqual([]);
  // Nothing was done to `a`, and it did not stand still: then nobody had reason to take over from it.
  const [unstopped, others] = [done.deeds.slice(0, 2), told.filter(([, , event]) => event !== 'stood-still')];
  expect(unexplained(journal(others), { ...done, deeds: unstopped })).toEqual([
    'b, elected in epoch 2: nothing was wrong with a',
  ]);
});

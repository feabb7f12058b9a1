// The audit sees what it is for.
import { expect, test } from 'vitest';
import type { Acknowledgement } from '../lib/appender.js';
import { audit, type FoundLog, type History } from '../lib/audit.js';

const epochs = [
  { epoch: 1n, firstLsn: 0n },
  { epoch: 2n, firstLsn: 8n },
];
const reigns = [
  { node: 'a', epoch: 1n },
  { node: 'b', epoch: 2n },
];
const log = (text: string, node = 'a'): FoundLog => ({ node, text, epochs });
const told = (number: number, lsn: number, node: string, committedAt = lsn): Acknowledgement => ({
  number,
  lsn: BigInt(lsn),
  node,
  sentAt: 0,
  at: 100,
  committedAt,
});
const client = (
  acknowledged: Acknowledgement[],
  unknown: number[] = [],
  refused: number[] = [],
): History => ({
  id: 'x',
  acknowledged,
  unknown,
  refused,
});
const well = client([told(0, 4, 'a'), told(1, 8, 'a'), told(2, 12, 'b')]);
const text = 'x 0\nx 1\nx 2\n';

test('what is well passes, and is counted', () => {
  expect(audit([log(text), log(text, 'b')], [well], reigns, false)).toEqual({
    acknowledged: 3,
    unknown: 0,
    lost: 0,
    late: 0,
  });
});

test('a late acknowledgement of what the next primary has is counted', () => {
  const late = client([told(0, 4, 'a'), told(1, 8, 'a', 50), told(2, 12, 'b')]);
  expect(audit([log(text)], [late], reigns, false).late).toBe(1);
});

test('one without an answer may be there in part, where an epoch ends; one with an answer not', () => {
  const torn = [
    { ...log('x 0\nx 1 .x 2\n'), epochs: [epochs[0], { epoch: 2n, firstLsn: 9n }] },
  ] as FoundLog[];
  const rest = [told(0, 4, 'a'), told(2, 13, 'b')];
  expect(audit(torn, [client(rest, [1])], reigns, false).unknown).toBe(1);
  expect(() => audit(torn, [client([...rest, told(1, 9, 'a')])], reigns, false)).toThrow(
    'record 1, acknowledged',
  );
});

test('one without an answer may come late, not early', () => {
  const end = [told(1, 4, 'a'), told(2, 8, 'a')];
  expect(audit([log('x 1\nx 2\nx 0\n')], [client(end, [0])], [], false).unknown).toBe(1);
  expect(() =>
    audit([log('x 1\nx 3\nx 2\n')], [client([told(1, 4, 'a'), told(2, 12, 'b')], [3])], [], false),
  ).toThrow('comes before');
});

test.each<[string, string, History[], typeof reigns, string]>([
  ['a lost record', 'x 0\nx 1\n', [well], reigns, 'record 2, acknowledged by b, is lost'],
  ['a doubled one', `${text}x 1\n`, [well], reigns, 'record x 1 is doubled'],
  [
    'another order',
    'x 0\nx 2\nx 1\n',
    [client([told(1, 12, 'b'), told(2, 8, 'a')], [0])],
    reigns,
    'record 2 comes before',
  ],
  ['another place', text, [client([told(0, 8, 'a')], [1, 2])], reigns, 'acknowledged at LSN 8 and ends at 4'],
  ['one that was refused', text, [client([told(0, 4, 'a')], [1], [2])], reigns, 'refused and is there'],
  ['one of nobody', 'y 0\n', [well], reigns, "no client's record"],
  ['half a record', 'x 0\nx 1', [well], reigns, "no client's record"],
  [
    'an acknowledgement of another epoch',
    text,
    [client([told(2, 12, 'a')], [0, 1])],
    reigns,
    'both primary in epoch 2',
  ],
  [
    'two primaries in an epoch',
    text,
    [well],
    [...reigns, { node: 'c', epoch: 2n }],
    'both primary in epoch 2',
  ],
])('%s is found', (_, found, clients, reigning, message) => {
  expect(() => audit([log(found)], clients, reigning, false)).toThrow(message);
});

test('logs that differ are found', () => {
  expect(() => audit([log(text), log('x 0\nx 1\n', 'b')], [well], reigns, false)).toThrow(
    'logs of a and b differ',
  );
});

test('with loss accepted it is counted, and all else holds', () => {
  expect(audit([log('x 0\nx 1\n')], [well], reigns, true).lost).toBe(1);
  expect(() => audit([log('x 0\nx 0\n')], [well], reigns, true)).toThrow('doubled');
});

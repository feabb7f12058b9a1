import { expect, test } from 'vitest';
import { parseSize } from '../../src/engine/sizes.js';
import { describeEvent, jsonLine, Repetitions, textLine } from '../../src/node/report.js';
import { parseTime, readableSize, readableTime, sizeText, timeText } from '../../src/node/units.js';

const unreachable = {
  type: 'upstream-unreachable',
  node: '',
  code: 'WALSHIP_ERR_LINK',
  message: 'no\nway',
  lsn: 5n,
} as const;

test('an event is one line, for people and for programs', () => {
  const entry = describeEvent(unreachable);
  if (!entry) throw new Error('it is news');
  expect(textLine(entry)).toMatch(/^\d{4}-\d\d-\d\dT[\d:.]+Z WARN {2}cannot reach the upstream: no way$/);
  expect(JSON.parse(jsonLine(entry))).toMatchObject({
    level: 'warn',
    event: 'upstream-unreachable',
    code: 'WALSHIP_ERR_LINK',
    lsn: '5',
  });
  expect(describeEvent({ ...unreachable, type: 'writable' })).toBeUndefined();
});

test('what a retry repeats is told once, until something else happens or time has passed', () => {
  const repetitions = new Repetitions();
  const entry = { ...describeEvent(unreachable), time: new Date(1_000_000) } as NonNullable<
    ReturnType<typeof describeEvent>
  >;
  const later = { ...entry, time: new Date(1_010_000) };
  expect(repetitions.isNews(entry)).toBe(true);
  expect(repetitions.isNews(later)).toBe(false);
  expect(repetitions.isNews({ ...later, message: 'another reason' })).toBe(true);
  expect(repetitions.isNews(entry)).toBe(true);
  expect(repetitions.isNews({ ...entry, event: 'upstream-up' })).toBe(true);
  expect(repetitions.isNews(entry)).toBe(true);
  expect(repetitions.isNews({ ...entry, time: new Date(1_040_000) })).toBe(true);
  // An upstream that refuses this node accepts the connection each time, and ends it.
  const lost = { ...entry, event: 'upstream-down', message: 'lost upstream a: refused' };
  expect([repetitions.isNews(lost), repetitions.isNews(lost)]).toEqual([true, false]);
});

test.each([
  ['64MiB', 64 * 1024 ** 2],
  ['1.5 KiB', 1536],
  ['12', 12],
  ['12B', 12],
  ['64MB', undefined],
  ['-1', undefined],
  ['0.3B', undefined],
  ['', undefined],
  ['9999999TiB', undefined],
])('size %j', (text, bytes) => expect(parseSize(text)).toBe(bytes));

test.each([
  ['20ms', 20],
  ['20', 20],
  ['2s', 2000],
  ['1.5min', 90_000],
  ['1h', 3_600_000],
  ['2 days', undefined],
  ['0.5ms', undefined],
])('time %j', (text, ms) => expect(parseTime(text)).toBe(ms));

test('sizes and times are written as they may be read again, or rounded for people', () => {
  for (const bytes of [0, 1, 1023, 1024, 1536, 65536, 64 * 1024 ** 2])
    expect(parseSize(sizeText(bytes))).toBe(bytes);
  for (const ms of [0, 20, 1000, 1500, 60_000, 5_400_000]) expect(parseTime(timeText(ms))).toBe(ms);
  expect([0, 999, 1234567, 5 * 1024 ** 3].map(readableSize)).toEqual(['0 B', '999 B', '1.18 MiB', '5 GiB']);
  expect([0, 0.0421, 3, 1500, 61_000, 7_380_000, 3e8].map(readableTime)).toEqual([
    '0 ms',
    '42.1 µs',
    '3 ms',
    '1.5 s',
    '1 min 1 s',
    '2 h 3 min',
    '3 days',
  ]);
});

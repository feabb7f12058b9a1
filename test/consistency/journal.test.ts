import {
  appendFileSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, expect, test } from 'vitest';
import {
  decodeEntry,
  encodeEntry,
  Journal,
  type JournalEntry,
  mergeJournals,
  readJournal,
} from '../../src/consistency/journal.js';
import { HybridClock, stampOf, timeOf } from '../../src/failover/clock.js';

let dir = '';
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'walship-journal-'));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const entry = (clock: bigint, message = 'something happened') => ({
  clock,
  epoch: 3n,
  lsn: 0x1_0000_0000n,
  level: 'info' as const,
  event: 'role',
  message,
});
const messages = () => readJournal(dir).entries.map(({ message }) => message);
const files = () => readdirSync(dir).sort();

test('what is written is read, across restarts, with numbers without a gap', () => {
  for (let run = 0; run < 3; run++) {
    const journal = Journal.open(dir, { node: 'a' });
    expect(journal.torn).toBe(false);
    for (let i = 0; i < 10; i++)
      journal.append({
        ...entry(BigInt(run * 10 + i)),
        code: 'WALSHIP_ERR_X',
        facts: { port: 7, up: true, at: 'x' },
      });
    journal.close();
    journal.append(entry(99n)); // behind its end: nothing
  }
  const { entries, damaged } = readJournal(dir);
  expect(damaged).toEqual([]);
  expect(entries.map(({ seq }) => seq)).toEqual(Array.from({ length: 30 }, (_, i) => i + 1));
  expect(entries[12]).toEqual({
    ...entry(12n),
    seq: 13,
    node: 'a',
    code: 'WALSHIP_ERR_X',
    facts: { port: 7, up: true, at: 'x' },
  });
});

test('a file that ends anywhere loses the unfinished line alone, and goes on', () => {
  const journal = Journal.open(dir, { node: 'a' });
  for (let i = 0; i < 3; i++) journal.append(entry(BigInt(i), `message ${i} — “with” more\nlines`));
  journal.close();
  const [name] = files();
  const path = join(dir, name as string);
  const whole = readFileSync(path);
  for (let bytes = whole.length; bytes >= 0; bytes -= 7) {
    writeFileSync(path, whole.subarray(0, bytes));
    const lines = whole.subarray(0, bytes).toString('latin1').split('\n').length - 1;
    const again = Journal.open(dir, { node: 'a' });
    expect(again.torn).toBe(bytes > 0 && whole[bytes - 1] !== 10);
    again.append(entry(9n, 'after'));
    again.close();
    const { entries, damaged } = readJournal(dir);
    expect(damaged).toEqual([]);
    expect(entries.map(({ seq }) => seq)).toEqual(Array.from({ length: lines + 1 }, (_, i) => i + 1));
    expect(entries.at(-1)?.message).toBe('after');
  }
});

test('any changed byte is found, and costs its line alone', () => {
  const journal = Journal.open(dir, { node: 'a' });
  for (let i = 0; i < 5; i++) journal.append(entry(BigInt(i), `message ${i}`));
  journal.close();
  const path = join(dir, files()[0] as string);
  const whole = readFileSync(path);
  fc.assert(
    fc.property(fc.nat(whole.length - 2), fc.integer({ min: 1, max: 255 }), (at, change) => {
      const bytes = Buffer.from(whole);
      bytes[at] = (bytes[at] as number) ^ change;
      writeFileSync(path, bytes);
      const { entries, damaged } = readJournal(dir);
      expect(damaged.length).toBeGreaterThan(0);
      expect(damaged[0]).toMatch(/journal-0000000001\.jsonl:\d: this line is damaged/);
      // A line's end that is no more joins two, and one that is new makes two.
      expect(entries.length).toBeGreaterThanOrEqual(3);
      for (const each of entries) expect(each.message).toBe(`message ${each.seq - 1}`);
    }),
    { numRuns: 500 },
  );
});

test('it keeps within its bound, the newest entries, and its numbers', () => {
  const journal = Journal.open(dir, { node: 'a', bytesMax: 65_536 });
  const text = 'x'.repeat(200);
  for (let i = 0; i < 2000; i++) journal.append(entry(BigInt(i), `${text}${i}`));
  journal.close();
  const bytes = files().reduce((sum, name) => sum + statSync(join(dir, name)).size, 0);
  expect(bytes).toBeLessThanOrEqual(65_536);
  expect(bytes).toBeGreaterThan(40_000);
  const { entries } = readJournal(dir);
  expect(entries.at(-1)?.seq).toBe(2000);
  const [first] = entries as [JournalEntry];
  expect(entries.map(({ seq }) => seq)).toEqual(
    Array.from({ length: entries.length }, (_, i) => first.seq + i),
  );
});

test('it is read in parts, each behind the last', () => {
  const journal = Journal.open(dir, { node: 'a', bytesMax: 65_536 });
  for (let i = 1; i <= 250; i++) journal.append(entry(BigInt(i), `message ${i}`));
  journal.close();
  const [read, parts]: [bigint[], number[]] = [[], []];
  for (let more = true; more; ) {
    const part = readJournal(dir, { after: read.at(-1) ?? 20n, max: 100 });
    read.push(...part.entries.map(({ clock }) => clock));
    parts.push(part.entries.length);
    more = part.more;
  }
  expect(parts).toEqual([100, 100, 30]);
  expect(read).toEqual(Array.from({ length: 230 }, (_, i) => BigInt(i + 21)));
});

test('a journal that cannot be written is told once, and hinders nobody', () => {
  const problems: string[] = [];
  const options = { node: 'a', onProblem: (message: string) => problems.push(message) };
  writeFileSync(join(dir, 'file'), '');
  const journal = Journal.open(join(dir, 'file'), options);
  journal.append(entry(1n));
  journal.append(entry(2n));
  expect(problems).toHaveLength(1);
  expect(problems[0]).toMatch(/the journal in .*file is not written any more: EEXIST/);
});

test('foreign lines and files are no entries', () => {
  Journal.open(dir, { node: 'a' }).append(entry(1n, 'mine'));
  const [name] = files();
  appendFileSync(join(dir, name as string), '{"seq":2}\n\nrubbish\n');
  writeFileSync(join(dir, 'journal-1.jsonl'), 'x');
  expect(messages()).toEqual(['mine']);
  expect(readJournal(dir).damaged).toHaveLength(3);
  truncateSync(join(dir, name as string), 0);
  expect(messages()).toEqual([]);
  expect(decodeEntry(encodeEntry({ ...entry(1n), seq: 1, node: 'a' }).replace('"a"', '"b"'))).toBeUndefined();
});

test('cause stands before effect, whatever the clocks of the hosts say', () => {
  // Messages among three nodes whose clocks are up to 5 s apart.
  fc.assert(
    fc.property(
      fc.array(fc.record({ from: fc.nat(2), to: fc.nat(2), passes: fc.nat(20) }), { maxLength: 60 }),
      fc.array(fc.integer({ min: -5000, max: 5000 }), { minLength: 3, maxLength: 3 }),
      (sent, skews) => {
        let now = 1_700_000_000_000;
        const clocks = skews.map((skew) => new HybridClock(() => now + skew));
        const journals: JournalEntry[][] = [[], [], []];
        const order: [string, string][] = [];
        sent.forEach(({ from, to, passes }, i) => {
          now += passes;
          const [sender, receiver] = [clocks[from] as HybridClock, clocks[to] as HybridClock];
          const stamp = sender.stamp();
          journals[from]?.push({ ...entry(stamp, `sent ${i}`), seq: i * 2 + 1, node: String(from) });
          receiver.hear(stamp);
          journals[to]?.push({ ...entry(receiver.stamp(), `got ${i}`), seq: i * 2 + 2, node: String(to) });
          order.push([`sent ${i}`, `got ${i}`]);
        });
        const merged = mergeJournals(journals).map(({ message }) => message);
        for (const [cause, effect] of order)
          expect(merged.indexOf(cause)).toBeLessThan(merged.indexOf(effect));
      },
    ),
    { numRuns: 300 },
  );
});

test('a clock that is far ahead carries nobody along; a stamp tells its time', () => {
  const clock = new HybridClock(() => 1000);
  clock.hear(stampOf(new Date(10_000_000)));
  expect(timeOf(clock.stamp()).getTime()).toBe(1000);
  clock.hear(stampOf(new Date(30_000)));
  expect(timeOf(clock.stamp()).getTime()).toBe(30_000);
  const [one, two] = [clock.stamp(), clock.stamp()];
  expect(two).toBeGreaterThan(one);
});

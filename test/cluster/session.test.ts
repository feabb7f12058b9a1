import fc from 'fast-check';
import { expect, test } from 'vitest';
import { lostBy } from '../../src/cluster/choose.js';
import { both, decodeToken, encodeToken, Session, surviving, type Token } from '../../src/cluster/session.js';

const u64 = fc.bigInt(0n, 2n ** 64n - 1n);
const anyToken: fc.Arbitrary<Token> = fc.record({ epoch: u64, lsn: u64 });

test('a token is short text that comes back as it was; what is none is refused', () => {
  fc.assert(
    fc.property(anyToken, (token) => {
      const text = encodeToken(token);
      expect(text).toMatch(/^[0-9a-z]{1,13}-[0-9a-z]{1,13}$/);
      expect(decodeToken(text)).toEqual(token);
    }),
  );
  for (const wrong of [
    '',
    '-',
    '1',
    '1-',
    '01-1',
    '1-2-3',
    'A-1',
    '1- 2',
    '3w5e11264sgsg-1',
    '1-zzzzzzzzzzzzz',
    `1-${'1'.repeat(99)}`,
  ])
    expect(() => decodeToken(wrong)).toThrow(expect.objectContaining({ code: 'WALSHIP_ERR_ARGUMENT' }));
});

test('two tokens make one, whatever the order, and it is below neither', () => {
  fc.assert(
    fc.property(anyToken, anyToken, anyToken, (a, b, c) => {
      expect(both(a, b)).toEqual(both(b, a));
      expect(both(both(a, b), c)).toEqual(both(a, both(b, c)));
      expect(both(a, a)).toEqual(a);
      expect(both(a, b).lsn >= a.lsn && both(a, b).epoch >= a.epoch).toBe(true);
    }),
  );
});

/**
 * Primaries that take over from each other: epoch i + 2 begins in the log of an earlier one, behind `keep` of what that one
 * has written itself.
 */
const reigns = fc.array(fc.record({ from: fc.nat(), keep: fc.nat(10), writes: fc.nat(10) }), {
  maxLength: 8,
});

interface Reign {
  readonly history: { epoch: bigint; firstLsn: bigint }[];
  /** Who wrote each byte. */
  readonly log: bigint[];
}

function logsOf(given: readonly { from: number; keep: number; writes: number }[]): Reign[] {
  const logs: Reign[] = [{ history: [{ epoch: 1n, firstLsn: 0n }], log: Array(8).fill(1n) }];
  given.forEach(({ from, keep, writes }, i) => {
    const before = logs[from % logs.length] as Reign;
    const epoch = BigInt(i + 2);
    const first = Number(before.history.at(-1)?.firstLsn);
    const kept = before.log.slice(0, Math.min(first + keep, before.log.length));
    logs.push({
      history: [...before.history, { epoch, firstLsn: BigInt(kept.length) }],
      log: [...kept, ...Array(writes).fill(epoch)],
    });
  });
  return logs;
}

test('what is said to survive is byte for byte what the token has seen, in any history of primaries; and nothing is given up that does', () => {
  fc.assert(
    fc.property(reigns, fc.nat(), fc.nat(), fc.nat(), (given, seenIn, upTo, nowIn) => {
      const logs = logsOf(given);
      const seen = logs[seenIn % logs.length] as Reign;
      const now = logs[nowIn % logs.length] as Reign;
      const lsn = upTo % (seen.log.length + 1);
      const token = { epoch: seen.history.at(-1)?.epoch as bigint, lsn: BigInt(lsn) };
      const kept = surviving(token, now.history);
      const shared = now.log.slice(0, lsn);
      const agree = shared.every((writer, i) => seen.log[i] === writer);
      if (kept !== undefined && kept >= token.lsn) expect(agree).toBe(true);
      const isBelow = now.history.some(({ epoch }) => epoch === token.epoch);
      if (isBelow && agree && shared.length === lsn) expect(kept).toBeGreaterThanOrEqual(token.lsn);
      // A node that has not joined the token's epoch says nothing of it.
      if (!isBelow && (now.history.at(-1)?.epoch as bigint) < token.epoch) expect(kept).toBeUndefined();
    }),
    { numRuns: 2000 },
  );
});

const node = (history: [bigint, bigint][], epoch: bigint) => ({
  http: 'http://a:1',
  ageMs: 0,
  outstanding: 0,
  chosenAt: 0,
  view: {
    version: '1',
    node: 'a',
    role: 'primary' as const,
    epoch,
    members: [],
    positions: { received: 0n, flushed: 0n, applied: 0n, committed: 0n },
    health: { ok: true },
    history: history.map(([of, firstLsn]) => ({ epoch: of, firstLsn })),
  },
});

test('lost is what the newest log has left behind, and nothing else', () => {
  const nodes = [
    node(
      [
        [1n, 0n],
        [2n, 100n],
        [4n, 150n],
      ],
      4n,
    ),
  ];
  expect(lostBy(nodes, { epoch: 4n, lsn: 999n })).toBeUndefined();
  expect(lostBy(nodes, { epoch: 2n, lsn: 150n })).toBeUndefined();
  expect(lostBy(nodes, { epoch: 2n, lsn: 151n })).toEqual({ epoch: 4n, keptLsn: 150n });
  expect(lostBy(nodes, { epoch: 1n, lsn: 101n })).toEqual({ epoch: 4n, keptLsn: 100n });
  // Of a branch that was left: nothing is known of it.
  expect(lostBy(nodes, { epoch: 3n, lsn: 1n })).toEqual({ epoch: 4n, keptLsn: 0n });
  // Of a newer one than anybody here knows.
  expect(lostBy(nodes, { epoch: 5n, lsn: 1n })).toBeUndefined();
  expect(lostBy([], { epoch: 1n, lsn: 1n })).toBeUndefined();
});

test('a session takes what it writes and reads, and refuses an answer that may lack some of it', () => {
  const session = new Session({ epoch: 0n, lsn: 0n }, () => 3n);
  session.wrote(100n);
  expect(session.token).toEqual({ epoch: 3n, lsn: 100n });
  session.wrote(50n, { epoch: 3n });
  expect(session.token.lsn).toBe(100n);
  session.sawReadAt(120n, { epoch: 3n });
  expect(decodeToken(String(session))).toEqual({ epoch: 3n, lsn: 120n });
  const stale = expect.objectContaining({ code: 'WALSHIP_ERR_STALE_READ' });
  expect(() => session.sawReadAt(119n, { epoch: 3n })).toThrow(stale);
  // The node joined another primary after it was chosen: 130 there need not contain 120 here.
  expect(() => session.sawReadAt(130n, { epoch: 4n })).toThrow(stale);
  expect(session.token).toEqual({ epoch: 3n, lsn: 120n });
  // Chosen in that epoch: its history was looked at.
  session.checked(4n);
  session.sawReadAt(130n, { epoch: 4n });
  expect(session.token).toEqual({ epoch: 4n, lsn: 130n });
  session.forget();
  expect(String(session)).toBe('0-0');
});

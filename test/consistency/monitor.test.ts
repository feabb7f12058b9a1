import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  initialMonitor,
  type MonitorReport,
  type MonitorSample,
  monitorStep,
  timeToFull,
} from '../../src/consistency/monitor.js';
import { defaultMonitorLimits, type MonitorLimits, monitorLimits } from '../../src/consistency/settings.js';

const MiB = 1024 * 1024;
const limits = defaultMonitorLimits;

interface At {
  readonly tail: number;
  readonly received?: number;
  readonly applied?: number;
  readonly lagMs?: number;
  readonly gone?: boolean;
  readonly freeBytes?: number;
  readonly logBytes?: number;
  readonly damaged?: number;
}

/** A primary with one standby, b, as it is seen at a time. */
function sampleOf(at: At): MonitorSample {
  const { tail, received = tail, applied = received, lagMs = 0, gone = false, damaged = 0 } = at;
  const [all, got, done] = [tail, received, applied].map((lsn) => BigInt(Math.floor(lsn))) as [
    bigint,
    bigint,
    bigint,
  ];
  return {
    node: 'a',
    role: 'primary',
    received: all,
    flushed: all,
    applied: all,
    nodes: gone
      ? []
      : [{ node: 'b', parent: 'a', received: got, flushed: got, applied: done, lagMs, appliedLagMs: lagMs }],
    log: {
      bytesOnDisk: at.logBytes ?? 64 * MiB,
      usualBytesMax: 1024 * MiB,
      laggingBytesMax: 16 * 1024 * MiB,
      retainBytesMax: 16 * 1024 * MiB,
      readers: [{ name: 'b', lsn: got }],
    },
    disk: { freeBytes: at.freeBytes ?? 100_000 * MiB, totalBytes: 200_000 * MiB },
    damagedPages: damaged,
  };
}

/** Looks once per `everyMs`, and notes what begins (+) and ends (-), and when in s. */
function watch(
  seconds: number,
  at: (second: number) => At,
  given: Partial<MonitorLimits> = {},
  sample: (at: At) => MonitorSample = sampleOf,
) {
  const used = { ...limits, ...given };
  let state = initialMonitor;
  let report: MonitorReport | undefined;
  const told: string[] = [];
  for (let ms = 0; ms <= seconds * 1000; ms += used.checkMs) {
    const step = monitorStep(state, sample(at(ms / 1000)), 1_000_000 + ms, used);
    state = step.state;
    report = step.report;
    for (const { on, finding } of step.changes)
      told.push(`${on ? '+' : '-'}${finding.kind} ${finding.node} ${ms / 1000}`);
  }
  return { told, report: report as MonitorReport };
}

const kinds = (told: readonly string[]) => told.map((each) => each.replace(/ [\d.]+$/, ''));

test('a replica that keeps up is no finding; rates are those of the load', () => {
  const { told, report } = watch(300, (s) => ({
    tail: s * MiB,
    received: Math.max(0, s - 0.2) * MiB,
    lagMs: 200,
  }));
  expect(told).toEqual([]);
  const [b] = report.replicas;
  expect(b).toMatchObject({ node: 'b', parent: 'a', link: 'up', lagMs: 200, hopLagMs: 200 });
  expect(b?.rates.received).toBeCloseTo(MiB, -4);
  expect(report.rates.received).toBeCloseTo(MiB, -4);
  expect(b?.lagBytes).toBe(Math.ceil(0.2 * MiB));
});

test('stalled: what does not move though there is more for it; over when it moves, after a while', () => {
  const received = (s: number) => (s < 10 || s > 30 ? s : 10) * MiB;
  const { told } = watch(60, (s) => ({ tail: s * MiB, received: received(s) }));
  expect(told).toEqual(['+replica-stalled b 15', '-replica-stalled b 32']);
  // Nothing written: nothing is missing.
  expect(watch(60, () => ({ tail: MiB })).told).toEqual([]);
  // A single byte that does not come is as bad.
  expect(kinds(watch(60, (s) => ({ tail: s < 10 ? 100 : 101, received: 100 })).told)).toEqual([
    '+replica-stalled b',
  ]);
  // Received, and not applied.
  const { told: unapplied, report } = watch(20, (s) => ({ tail: s * MiB, applied: Math.min(s, 10) * MiB }));
  expect(unapplied).toEqual(['+replica-stalled b 15']);
  expect(report.findings[0]?.message).toMatch(
    /^b applies nothing for 10 s, 0 bytes and 10\.0 MiB not applied behind/,
  );
});

test('a replica that is gone is stalled when there is more for it, and its lag in time goes on', () => {
  const { told, report } = watch(40, (s) => ({
    tail: s * MiB,
    received: s < 10 ? s * MiB : 9.5 * MiB,
    gone: s >= 10,
  }));
  expect(told).toEqual(['+replica-stalled b 14.5', '+replica-lagging b 39.5']);
  const [b] = report.replicas;
  expect(b).toMatchObject({ link: 'lost', lagMs: 30_500, appliedLagMs: 30_500 });
  expect(watch(40, (s) => ({ tail: Math.min(s, 9) * MiB, gone: s >= 10 })).told).toEqual([]);
});

test('a standby takes nobody for lost: that one may follow another node now', () => {
  const standby = (at: At): MonitorSample => ({
    ...sampleOf(at),
    role: 'standby',
    upstream: { node: 'p', tailLsn: BigInt(at.tail), streaming: true },
  });
  expect(watch(60, (s) => ({ tail: s * MiB, received: 9 * MiB, gone: s >= 10 }), {}, standby).told).toEqual(
    [],
  );
});

test('drifting: a lag that grows throughout; not one that comes in bursts, nor a single one', () => {
  // 5 % slower than what is written.
  const slow = watch(300, (s) => ({ tail: 10 * s * MiB, received: 9.5 * s * MiB, lagMs: 50 * s }), {
    lagMs: 1e9,
    lagBytes: 1e12,
  });
  expect(kinds(slow.told)).toEqual(['+replica-drifting b']);
  expect(Number(slow.told[0]?.split(' ')[2])).toBeLessThan(75);
  expect(slow.report.findings[0]).toMatchObject({ code: 'WALSHIP_ERR_MONITOR_DRIFTING', distrusted: true });
  // It catches up from 100 s on: over.
  const well = watch(300, (s) => {
    const lag = s < 100 ? 0.5 * s : Math.max(0, 50 - 10 * (s - 100));
    return { tail: 10 * s * MiB, received: (10 * s - lag) * MiB, lagMs: 100 * lag };
  });
  expect(kinds(well.told)).toEqual(['+replica-drifting b', '-replica-drifting b']);
  const bursts = watch(600, (s) => {
    const lag = 20 * (s % 10);
    return { tail: 100 * s * MiB, received: Math.max(0, 100 * s - lag) * MiB, lagMs: 10 * lag };
  });
  expect(bursts.told).toEqual([]);
});

test('lagging has two limits, and ends at half of them', () => {
  const byTime = (s: number) => (s < 10 ? 0 : s < 20 ? 31_000 : s < 30 ? 16_000 : 14_000);
  const time = watch(60, (s) => ({ tail: s * MiB + 1, received: s * MiB, lagMs: byTime(s) }));
  expect(time.told).toEqual(['+replica-lagging b 10', '-replica-lagging b 31.5']);
  const byBytes = (s: number) => (s < 10 ? 0 : s < 20 ? 300 : s < 30 ? 129 : 127) * MiB;
  const bytes = watch(60, (s) => ({
    tail: (1000 + s) * MiB,
    received: (1000 + s) * MiB - byBytes(s),
    lagMs: 1,
  }));
  expect(bytes.told).toEqual(['+replica-lagging b 10', '-replica-lagging b 31.5']);
});

test('the log will be trimmed past a reader that lags: told with the time that is left, which comes true', () => {
  const tail = (s: number) => 10 * s * MiB;
  const { told, report } = watch(
    1100,
    (s) => ({ tail: tail(s), received: Math.min(tail(s), 100 * MiB), gone: s > 10 }),
    {
      lagMs: 1e9,
      lagBytes: 1024 * MiB,
    },
  );
  const near = told.find((each) => each.startsWith('+log-trim-near')) as string;
  // 16 GiB at 10 MiB/s are full after 1648 s; told 600 s before.
  expect(Number(near.split(' ')[2])).toBeCloseTo(1048, -1);
  const [b] = report.replicas;
  expect(b?.trimInMs).toBeCloseTo((1648 - 1100) * 1000, -4);
});

test('a disk that fills is told before it is full; a log that only grows to its bound is no such thing', () => {
  const grows = watch(900, (s) => ({ tail: MiB, freeBytes: (4000 - s) * MiB }));
  expect(kinds(grows.told)).toEqual(['+disk-filling a']);
  expect(grows.report.disk?.fullInMs).toBeCloseTo(3100 * 1000, -5);
  const toBound = watch(900, (s) => ({
    tail: MiB,
    freeBytes: (2000 - Math.min(s, 900)) * MiB,
    logBytes: (64 + Math.min(s, 900)) * MiB,
  }));
  expect(toBound.told).toEqual([]);
  const full = watch(60, (s) => ({ tail: MiB, freeBytes: (s > 10 && s < 20 ? 100 : 500) * MiB }), {
    diskMs: 10,
  });
  expect(full.told).toEqual(['+disk-full a 10.5', '-disk-full a 21.5']);
  expect(full.report.findings).toEqual([]);
});

test('time to full: the log up to its bound, whatever else fills the disk without one', () => {
  const idle = { freeBytes: 1000, logBytesPerSecond: 0, othersBytesPerSecond: 0, logRoomBytes: 0 };
  expect(timeToFull(idle)).toBeUndefined();
  expect(timeToFull({ ...idle, othersBytesPerSecond: 10 })).toBe(100_000);
  expect(timeToFull({ ...idle, logBytesPerSecond: 10, logRoomBytes: 2000 })).toBe(100_000);
  expect(timeToFull({ ...idle, logBytesPerSecond: 10, logRoomBytes: 500 })).toBeUndefined();
  // 25 s together, then 500 that only the others take.
  expect(
    timeToFull({ freeBytes: 1000, logBytesPerSecond: 10, othersBytesPerSecond: 10, logRoomBytes: 250 }),
  ).toBe(75_000);
});

test('damaged pages are told, and no reads are to go there', () => {
  const { told, report } = watch(20, (s) => ({ tail: MiB, damaged: s < 10 ? 0 : 2 }));
  expect(told).toEqual(['+log-damaged a 10']);
  expect(report.findings[0]).toMatchObject({ level: 'error', distrusted: true, node: 'a' });
  expect(report.findings[0]?.message).toMatch(/^2 pages of the log of a are damaged/);
});

test('whatever happens: begin and end take turns, no rate or time is negative or no number', () => {
  const step = fc.record({
    tail: fc.nat(2 ** 31),
    received: fc.nat(2 ** 31),
    applied: fc.nat(2 ** 31),
    lagMs: fc.nat(100_000),
    gone: fc.boolean(),
    freeBytes: fc.nat(2 ** 31),
    logBytes: fc.nat(2 ** 31),
    damaged: fc.nat(2),
    afterMs: fc.nat(20_000),
  });
  fc.assert(
    fc.property(fc.array(step, { minLength: 1, maxLength: 60 }), (steps) => {
      let state = initialMonitor;
      let now = 0;
      const open = new Set<string>();
      for (const { afterMs, ...at } of steps) {
        now += afterMs;
        const done = monitorStep(state, sampleOf(at), now, limits);
        state = done.state;
        for (const { on, finding } of done.changes) {
          const key = `${finding.kind} ${finding.node}`;
          expect(open.has(key)).toBe(!on);
          if (on) open.add(key);
          else open.delete(key);
        }
        expect(new Set(done.report.findings.map(({ kind, node }) => `${kind} ${node}`))).toEqual(open);
        for (const { rates, lagBytes, hopLagBytes, applyLagBytes, lagMs, trimInMs } of done.report.replicas) {
          for (const value of [
            ...Object.values(rates),
            lagBytes,
            hopLagBytes,
            applyLagBytes,
            lagMs ?? 0,
            trimInMs ?? 0,
          ])
            expect(value).toBeGreaterThanOrEqual(0);
        }
        expect(done.report.disk?.fullInMs ?? 0).toBeGreaterThanOrEqual(0);
      }
    }),
    { numRuns: 300 },
  );
});

test('settings are checked as a whole', () => {
  expect(monitorLimits({ stallMs: 1000 })).toEqual({ ...limits, stallMs: 1000 });
  expect(() => monitorLimits({ checkMs: 5000, lagMs: -1 })).toThrow(/monitor\.lagMs: /);
  expect(() => monitorLimits({ checkMs: 5000 })).toThrow(/stallMs: must be at least twice .*\n.*driftMs/);
});

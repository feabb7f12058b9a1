import type { Access, AccessKind, Trace } from './trace.js';

/** A source of numbers in [0, 1), the same for the same seed (mulberry32). */
export function randomSource(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b_79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 0x1_0000_0000;
  };
}

/** A standby that fell behind: it starts `behind` pages back and reads `speed` pages while the log appends one. */
export interface CatchUp {
  /** When it starts: the page the log appends then. */
  readonly at: number;
  readonly behind: number;
  readonly speed: number;
}

/** A log with readers. Lengths are in pages. */
export interface Workload {
  readonly appends: number;
  /** How far each live reader trails the head of the log, give or take a fifth. */
  readonly lags?: readonly number[];
  readonly catchUps?: readonly CatchUp[];
  /** Pages the scrubber reads while the log appends one. */
  readonly scrub?: number;
  readonly appendsPerSecond?: number;
  readonly seed?: number;
}

/** The accesses of a log that is written, tailed, caught up with and scrubbed at the same time. */
export function logTrace(name: string, workload: Workload): Trace {
  const { appends, lags = [], catchUps = [], scrub = 0, appendsPerSecond = 200, seed = 1 } = workload;
  const random = randomSource(seed);
  const accesses: Access[] = [];
  const live = lags.map((lag) => ({ lag, next: 0 }));
  const scans = catchUps.map((plan) => ({
    ...plan,
    next: Math.max(0, plan.at - plan.behind),
    owed: 0,
    done: false,
  }));
  let scrubbed = 0;
  let scrubOwed = 0;
  for (let head = 0; head < appends; head++) {
    const timeMs = Math.round((head * 1000) / appendsPerSecond);
    const touch = (page: number, kind: AccessKind): number => accesses.push({ timeMs, page, kind });
    touch(head, 'a');
    for (const reader of live) {
      const upTo = head - Math.floor(reader.lag * (0.8 + 0.4 * random()));
      for (; reader.next <= upTo; reader.next++) touch(reader.next, 't');
    }
    for (const scan of scans) {
      if (scan.done || head < scan.at) continue;
      scan.owed += scan.speed;
      for (; scan.owed >= 1 && scan.next < head; scan.owed--) touch(scan.next++, 'c');
      scan.done = scan.next === head;
    }
    scrubOwed += scrub;
    for (; scrubOwed >= 1; scrubOwed--) touch(scrubbed++ % (head + 1), 's');
  }
  return { name, accesses };
}

/** Reads of the pages that `next` gives, one a millisecond. */
export function readTraceOf(name: string, count: number, next: (index: number) => number): Trace {
  const accesses = Array.from({ length: count }, (_, index) => ({
    timeMs: index,
    page: next(index),
    kind: 'c' as const,
  }));
  return { name, accesses };
}

/** Page numbers from 0 to `pages` − 1, the n-th as likely as 1 / n^`skew`. */
export function zipfSource(pages: number, skew: number, seed: number): () => number {
  const random = randomSource(seed);
  const upTo = new Float64Array(pages);
  let total = 0;
  for (let page = 0; page < pages; page++) {
    total += 1 / (page + 1) ** skew;
    upTo[page] = total;
  }
  return () => {
    const wanted = random() * total;
    let low = 0;
    for (let high = pages - 1; low < high; ) {
      const middle = (low + high) >> 1;
      if ((upTo[middle] as number) < wanted) low = middle + 1;
      else high = middle;
    }
    return low;
  };
}

/** One trace after the other. */
export function concatenated(name: string, traces: readonly Trace[]): Trace {
  const accesses: Access[] = [];
  for (const trace of traces) {
    const from = accesses.at(-1)?.timeMs ?? 0;
    for (const access of trace.accesses) accesses.push({ ...access, timeMs: access.timeMs + from });
  }
  return { name, accesses };
}

/** The model of the main workload: a primary, a live reader, and three standbys that lag at different speeds. */
export function laggingStandbys(appends = 20_000, seed = 1): Trace {
  return logTrace('standbys', {
    appends,
    lags: [2, 20, 60],
    catchUps: [
      { at: appends * 0.2, behind: 4000, speed: 8 },
      { at: appends * 0.22, behind: 4000, speed: 5 },
      { at: appends * 0.3, behind: 6000, speed: 3 },
    ],
    seed,
  });
}

/** Traces the policies are compared on beside the recorded ones. */
export function modelTraces(): Trace[] {
  const appends = 20_000;
  const catchUps = (starts: readonly number[], behind: number, speeds: readonly number[]): CatchUp[] =>
    starts.map((at, index) => ({ at, behind, speed: speeds[index % speeds.length] as number }));
  const uniform = randomSource(9);
  const zipf = (index: number): Trace => readTraceOf('', 10_000, zipfSource(2000, 0.9, index));
  return [
    laggingStandbys(appends),
    logTrace('together', {
      appends,
      lags: [2, 20, 60],
      catchUps: catchUps([4000, 4000, 4200], 4000, [5, 4.8, 4.5]),
    }),
    logTrace('fast-scans', {
      appends,
      lags: [2, 60, 150],
      catchUps: catchUps([2000, 6000, 10_000, 14_000], 9000, [100]),
    }),
    logTrace('slow-readers', { appends, lags: [2, 40, 150, 400] }),
    logTrace('scrub', { appends, lags: [2, 20, 60], scrub: 2, catchUps: catchUps([4000], 4000, [8]) }),
    logTrace('no-live', { appends, catchUps: catchUps([4000, 4100, 4200], 4000, [5, 5, 4.9]) }),
    readTraceOf('zipf', 60_000, zipfSource(5000, 1, 3)),
    readTraceOf('loop', 50_000, (index) => index % 600),
    readTraceOf('random', 50_000, () => Math.floor(uniform() * 2000)),
    concatenated(
      'phases',
      [1, 2, 3, 4, 5, 6].map((phase) =>
        phase % 2 === 0 ? zipf(phase) : readTraceOf('', 10_000, (index) => index % (450 + phase * 50)),
      ),
    ),
  ];
}

// Appending from JavaScript: what the package's users see, not only the data plane.
import { readFileSync } from 'node:fs';
import { performance } from 'node:perf_hooks';
import { type Engine, WalshipError } from '../../src/index.js';
import { quantile } from './statistics.js';

export interface CommitTimes {
  readonly count: number;
  readonly p50Us: number;
  readonly p99Us: number;
}

/** One append at a time, each awaited until committed. */
export async function commitInTurn(
  engine: Engine,
  { bytes, seconds, warmup }: { bytes: number; seconds: number; warmup: number },
): Promise<CommitTimes> {
  const payload = Buffer.alloc(bytes, 0xa5);
  for (let i = 0; i < warmup; i++) await engine.committed(await engine.appendWhenWritable(payload));
  const times: number[] = [];
  const until = performance.now() + seconds * 1000;
  for (let before = performance.now(); before < until; ) {
    await engine.committed(await engine.appendWhenWritable(payload));
    const after = performance.now();
    times.push((after - before) * 1000);
    before = after;
  }
  const all = Float64Array.from(times);
  return { count: all.length, p50Us: quantile(all, 0.5), p99Us: quantile(all, 0.99) };
}

export interface JsRate {
  readonly appends: number;
  readonly perSecond: number;
  readonly backPressures: number;
}

/** As many appends as the engine takes, in bursts of 256 with the event loop in between; ends with the last commit. */
export async function jsRate(
  engine: Engine,
  { bytes, seconds }: { bytes: number; seconds: number },
): Promise<JsRate> {
  const payload = Buffer.alloc(bytes, 0xa5);
  let appends = 0;
  let backPressures = 0;
  let last = 0n;
  const start = performance.now();
  while (performance.now() - start < seconds * 1000) {
    try {
      for (let i = 0; i < 256; i++) {
        last = engine.append(payload);
        appends++;
      }
      await new Promise(setImmediate);
    } catch (error) {
      if (!(error instanceof WalshipError) || error.code !== 'WALSHIP_ERR_BACKPRESSURE') throw error;
      backPressures++;
      await engine.writable();
    }
  }
  await engine.committed(last);
  return { appends, perSecond: appends / ((performance.now() - start) / 1000), backPressures };
}

export interface PacedCommits {
  readonly commits: number;
  readonly perSecond: number;
  /** Share of the time in which the event loop was not waiting. */
  readonly loopBusy: number;
  /** Share of the time in which the thread was on a processor. */
  readonly threadBusy: number;
  readonly wakes: number;
  readonly p50Us: number;
  readonly p99Us: number;
}

/** Appends at a steady rate, every commit awaited by itself: what many clients of one server do. */
export async function pacedCommits(
  engine: Engine,
  { bytes, seconds, perSecond }: { bytes: number; seconds: number; perSecond: number },
): Promise<PacedCommits> {
  const payload = Buffer.alloc(bytes, 0xa5);
  const wanted = seconds * perSecond;
  const times = new Float64Array(wanted);
  let made = 0;
  let committed = 0;
  const client = async (): Promise<void> => {
    const before = performance.now();
    await engine.committed(engine.append(payload));
    times[committed++] = (performance.now() - before) * 1000;
  };

  const wakes = engine.status().counters.jsWakes;
  const loop = performance.eventLoopUtilization();
  const cpu = threadCpuNs();
  const start = performance.now();
  const clients: Promise<void>[] = [];
  await new Promise<void>((resolve) => {
    const timer = setInterval(() => {
      const due = Math.min(wanted, Math.floor(((performance.now() - start) / 1000) * perSecond));
      for (; made < due; made++) clients.push(client());
      if (made < wanted) return;
      clearInterval(timer);
      resolve();
    }, 1);
  });
  await Promise.all(clients);
  const tookMs = performance.now() - start;
  return {
    commits: committed,
    perSecond: committed / (tookMs / 1000),
    loopBusy: performance.eventLoopUtilization(loop).utilization,
    threadBusy: (threadCpuNs() - cpu) / 1e6 / tookMs,
    wakes: engine.status().counters.jsWakes - wakes,
    p50Us: quantile(times, 0.5),
    p99Us: quantile(times, 0.99),
  };
}

/** Processor time of this process's main thread. */
function threadCpuNs(): number {
  return Number(readFileSync(`/proc/self/task/${process.pid}/schedstat`, 'utf8').split(' ')[0]);
}

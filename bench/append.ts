import type { Bench, BenchOptions } from './lib/bench.js';
import { Cluster } from './lib/cluster.js';
import { memoryFolder, scratch } from './lib/hosts.js';
import { Report } from './lib/report.js';
import type { PacedCommits } from './lib/script.js';
import { interleave, median } from './lib/statistics.js';
import type { BenchResult } from './result.js';

const bytes = 128;
const nativeTarget = 1_000_000;
const jsTarget = 300_000;
const pacedPerSecond = 100_000;
const busyTarget = 0.25;

/** Small appends, batched by the engine and committed by a standby, and what they cost the JavaScript thread. */
export const appendBench: Bench = {
  name: 'append',
  summary: 'small appends per second, from a native thread and from JavaScript; how busy JavaScript is',

  async run(options: BenchOptions): Promise<BenchResult> {
    const report = new Report('append', options);
    const { seconds } = options;
    const native: number[] = [];
    const script: number[] = [];
    const paced: PacedCommits[] = [];
    await Cluster.with(2, async (cluster) => {
      await cluster.open({
        transport: options.transport,
        dir: scratch(options.dir ?? memoryFolder),
        parents: [0],
        commitRule: { level: 'received', any: 1 },
        completion: 'adaptive',
      });
      const { primary } = cluster;
      await interleave(options.rounds, [
        async () => {
          const settings = { appendBytes: bytes, inFlight: 0, seconds, warmupAppends: 100, spin: false };
          const driven = await primary.call('drive', settings);
          native.push(driven.appends / driven.seconds);
        },
        async () => script.push((await primary.call('jsRate', { bytes, seconds })).perSecond),
        async () =>
          paced.push(await primary.call('pacedCommits', { bytes, seconds, perSecond: pacedPerSecond })),
      ]);
      await cluster.close();
    });

    report.add({
      id: `append/${options.transport}/128B/native`,
      value: median(native),
      unit: 'appends/s',
      limit: { name: 'target', value: nativeTarget },
    });
    report.add({
      id: `append/${options.transport}/128B/js`,
      value: median(script),
      unit: 'appends/s',
      limit: { name: 'target', value: jsTarget },
    });
    const of = (what: (one: PacedCommits) => number) => median(paced.map(what));
    const perSecond = of((one) => one.perSecond);
    report.add({
      id: `append/${options.transport}/128B/js-busy`,
      // Of the thread, not of the event loop: that counts the time in which others had the processor as its own.
      value: of((one) => one.threadBusy),
      unit: 'busy',
      limit: { name: `target at ${pacedPerSecond.toLocaleString('en')} commits/s`, value: busyTarget },
      loopBusy: of((one) => one.loopBusy),
      commitsPerSecond: perSecond,
      wakesPerSecond: of((one) => one.wakes) / seconds,
      p50Us: of((one) => one.p50Us),
      p99Us: of((one) => one.p99Us),
      remark: `event loop ${of((one) => one.loopBusy).toFixed(2)}; ${Math.round(perSecond).toLocaleString('en')} commits/s, p50 ${of((one) => one.p50Us).toFixed(0)} µs`,
    });
    return report.result();
  },
};

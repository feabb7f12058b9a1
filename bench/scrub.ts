import { setTimeout as sleep } from 'node:timers/promises';
import { scrubDefaults } from '../src/consistency/scrubber.js';
import type { CommitRule } from '../src/index.js';
import type { Bench, BenchOptions } from './lib/bench.js';
import { Cluster } from './lib/cluster.js';
import { diskFolder, memoryFolder, scratch } from './lib/hosts.js';
import { Report } from './lib/report.js';
import { interleave, median } from './lib/statistics.js';
import type { BenchResult } from './result.js';

const commitRule: CommitRule = { level: 'flushed', any: 1 };
/** Written before: two segments and more of complete pages. */
const fillAppends = 3000;
const fillBytes = 65536;
const commitBytes = 512;
const warmup = 200;
const settleMs = 500;
const pageBytes = 256 * 1024;
const full = 2 ** 40;
const paces = [
  { name: 'off', bytesPerSecond: 0 },
  { name: 'default', bytesPerSecond: scrubDefaults.bytesPerSecond },
  { name: 'full', bytesPerSecond: full },
] as const;

/** What it costs to look after the pages: how fast they are looked at, and what commits feel of it. */
export const scrubBench: Bench = {
  name: 'scrub',
  summary: 'looking at the log’s pages: how fast, and what a commit feels of it on every node',

  async run(options: BenchOptions): Promise<BenchResult> {
    const report = new Report('scrub', options);
    for (const folder of ['memory', 'disk'] as const) {
      const dir = scratch(options.dir ?? (folder === 'memory' ? memoryFolder : diskFolder));
      await Cluster.with(2, async (cluster) => {
        await cluster.open({
          transport: options.transport,
          dir,
          parents: [0],
          commitRule,
          completion: 'adaptive',
        });
        await cluster.primary.call('drive', {
          appendBytes: fillBytes,
          inFlight: 0,
          appendsMax: fillAppends,
          seconds: 60,
          warmupAppends: 0,
          spin: false,
        });
        await measurePages(report, options, cluster, folder);
        await measureCommits(report, options, cluster, folder);
        await cluster.close();
      });
    }
    return report.result();
  },
};

async function measurePages(
  report: Report,
  { transport, rounds, seconds }: BenchOptions,
  cluster: Cluster,
  folder: string,
): Promise<void> {
  const [looked, read]: [number[], number[]] = [[], []];
  await interleave(rounds, [
    async () => {
      looked.push(await cluster.primary.call('copiesRate', { seconds }));
    },
    async () => {
      read.push(await cluster.primary.call('readRate', { pageBytes, seconds }));
    },
  ]);
  report.add({
    id: `scrub/${transport}/pages/${folder}`,
    value: median(looked) / 1e9,
    unit: 'GB/s',
    limit: { name: 'the same files only read, from the kernel’s memory', value: median(read) / 1e9 },
  });
}

async function measureCommits(
  report: Report,
  { transport, rounds, seconds }: BenchOptions,
  cluster: Cluster,
  folder: string,
): Promise<void> {
  const times = paces.map(() => ({ p50Us: [] as number[], p99Us: [] as number[] }));
  await interleave(
    rounds,
    paces.map(({ bytesPerSecond }, i) => async () => {
      for (const node of [cluster.node(0), cluster.node(1)]) await node.call('scrubAt', bytesPerSecond);
      // What beginning a pass costs is not what it costs to go on with it.
      await sleep(settleMs);
      const { commit } = await cluster.primary.call('drive', {
        appendBytes: commitBytes,
        inFlight: 1,
        seconds,
        warmupAppends: warmup,
        spin: false,
      });
      times[i]?.p50Us.push(commit.p50Us);
      times[i]?.p99Us.push(commit.p99Us);
      for (const node of [cluster.node(0), cluster.node(1)]) await node.call('scrubAt', 0);
    }),
  );
  const off = median(times[0]?.p99Us ?? []);
  for (const [i, { name }] of paces.entries()) {
    const { p50Us, p99Us } = times[i] as (typeof times)[number];
    report.add({
      id: `scrub/${transport}/commit/${folder}/${name}`,
      value: median(p99Us),
      unit: 'µs p99',
      limit: { name: 'with the scrubber off', value: off },
      p50Us: median(p50Us),
      // What a machine does by itself moves the p99 of a second more than the scrubber does: a round has each of them.
      remark: `p50 ${median(p50Us).toFixed(0)}; round by round ${shareOf(p99Us, times[0]?.p99Us).toFixed(3)}`,
    });
  }
}

/** The median of each round's ratio. */
function shareOf(values: readonly number[], limits: readonly number[] = []): number {
  return median(values.map((value, round) => value / (limits[round] ?? Number.NaN)));
}

import { cpus } from 'node:os';
import type { CommitRule } from '../src/index.js';
import type { Bench, BenchOptions } from './lib/bench.js';
import { Cluster } from './lib/cluster.js';
import { diskFolder, memoryFolder, scratch } from './lib/hosts.js';
import { roundTripLimit } from './lib/network.js';
import { Report } from './lib/report.js';
import { interleave, median, sizeName } from './lib/statistics.js';
import type { BenchResult } from './result.js';

type Level = CommitRule['level'];
/** `usual`: as an engine is opened by default, appended from a native thread; `js`: the same, from JavaScript. */
type Way = 'usual' | 'js' | 'event' | 'polling';

interface Part {
  readonly folder: 'memory' | 'disk';
  readonly way: Way;
  readonly levels: readonly Level[];
  readonly sizes: readonly number[];
}

const sizes = [512, 8192, 65536];
const parts: readonly Part[] = [
  { folder: 'memory', way: 'usual', levels: ['received'], sizes },
  { folder: 'disk', way: 'usual', levels: ['async', 'flushed', 'applied'], sizes },
  { folder: 'memory', way: 'js', levels: ['received'], sizes: [512] },
  { folder: 'disk', way: 'js', levels: ['flushed'], sizes: [512] },
  { folder: 'memory', way: 'event', levels: ['received'], sizes: [512] },
  { folder: 'disk', way: 'event', levels: ['flushed'], sizes: [512] },
  { folder: 'memory', way: 'polling', levels: ['received'], sizes: [512] },
  { folder: 'disk', way: 'polling', levels: ['flushed'], sizes: [512] },
];
const warmup = 200;
/** A polling thread for each node and for the appending one, and one more. With fewer, the tools take their turn alone. */
const pollingCores = 4;

interface Times {
  readonly p50Us: number;
  readonly p99Us: number;
}

/** How long one append takes until it is acknowledged, one at a time, beside the network's and the disk's own time. */
export const commitBench: Bench = {
  name: 'commit',
  summary: 'latency of an acknowledged append at every level, on memory and on a disk',

  async run(options: BenchOptions): Promise<BenchResult> {
    const report = new Report('commit', options);
    const cores = cpus().length;
    if (cores < pollingCores) {
      report.note(
        `${cores} cores: two polling nodes leave none for a flusher or the appending thread; the limits of polling are measured while the nodes are closed`,
      );
    }
    const folders = {
      memory: scratch(options.dir ?? memoryFolder),
      disk: scratch(options.dir ?? diskFolder),
    };
    const roundTrip = roundTrips(options);
    await Cluster.with(2, async (cluster) => {
      for (const part of parts) {
        for (const bytes of options.quick ? part.sizes.slice(0, 1) : part.sizes) {
          await measure(report, options, cluster, part, bytes, folders[part.folder], cores, roundTrip);
        }
        await cluster.close();
      }
    });
    return report.result();
  },
};

type RoundTrips = (bytes: number, polling: boolean) => ReturnType<typeof roundTripLimit>;

/** Each in turn with what it is compared with; in the quick form, which compares nothing, each once. */
function roundTrips({ transport, seconds, quick }: BenchOptions): RoundTrips {
  const measured = new Map<string, ReturnType<typeof roundTripLimit>>();
  return (bytes, polling) => {
    const which = `${bytes} ${polling}`;
    const before = quick ? measured.get(which) : undefined;
    const limit = before ?? roundTripLimit(transport, bytes, seconds, { polling });
    measured.set(which, limit);
    return limit;
  };
}

async function measure(
  report: Report,
  options: BenchOptions,
  cluster: Cluster,
  part: Part,
  bytes: number,
  folder: string,
  cores: number,
  roundTrip: RoundTrips,
): Promise<void> {
  const { seconds } = options;
  const polling = part.way === 'polling';
  /** Polling nodes would take the processors that the tools need. */
  const takesTurns = polling && cores < pollingCores;
  const limit = (measureIt: () => Promise<void>) => async () => {
    if (takesTurns) await cluster.close();
    else await open();
    await measureIt();
  };
  const open = async () => {
    if (cluster.isOpen) return;
    await cluster.open({
      transport: options.transport,
      dir: folder,
      parents: [0],
      commitRule: { level: 'async' },
      completion: polling ? 'busy' : part.way === 'event' ? 'event' : 'adaptive',
    });
  };
  const network: number[] = [];
  let networkName = '';
  const syncs: number[] = [];
  const syncsAtOnce: number[] = [];
  const times = new Map<Level, Times[]>(part.levels.map((level) => [level, []]));

  const commits = async (level: Level): Promise<Times> => {
    await open();
    await cluster.primary.call('setCommitRule', level === 'async' ? { level } : { level, any: 1 });
    if (part.way === 'js') return cluster.primary.call('commitInTurn', { bytes, seconds, warmup });
    const { commit } = await cluster.primary.call('drive', {
      appendBytes: bytes,
      inFlight: 1,
      seconds,
      warmupAppends: warmup,
      spin: polling && cores >= pollingCores,
    });
    return commit;
  };
  await interleave(options.rounds, [
    limit(async () => {
      const { name, us } = await roundTrip(bytes, polling);
      networkName = name;
      network.push(us);
    }),
    ...(part.folder === 'disk'
      ? [
          limit(async () => {
            syncs.push((await cluster.primary.call('measureSyncs', { dir: folder, bytes, seconds })).p50Us);
          }),
          // Both nodes sync on this one disk: what that costs each is not walship's.
          limit(async () => {
            const both = [cluster.node(0), cluster.node(1)];
            const found = await Promise.all(
              both.map((node) => node.call('measureSyncs', { dir: folder, bytes, seconds })),
            );
            syncsAtOnce.push(median(found.map(({ p50Us }) => p50Us)));
          }),
        ]
      : []),
    ...part.levels.map((level) => async () => {
      times.get(level)?.push(await commits(level));
    }),
  ]);

  for (const [level, found] of times) {
    // Under a rule that waits for the standby, both nodes sync, and on this one disk they do so at the same time.
    const sync = level === 'received' ? 0 : median(level === 'async' ? syncs : syncsAtOnce);
    const syncName = level === 'async' ? 'fdatasync' : 'fdatasync, two at once';
    const trip = level === 'async' ? 0 : median(network);
    const p99Us = median(found.map((one) => one.p99Us));
    const names = [...(sync > 0 ? [syncName] : []), ...(trip > 0 ? [networkName] : [])];
    report.add({
      id: [
        `commit/${options.transport}/${sizeName(bytes)}/${level}`,
        ...(part.way === 'usual' ? [] : [part.way]),
      ].join('/'),
      value: median(found.map((one) => one.p50Us)),
      unit: 'µs p50',
      limit: { name: names.join(' + '), value: sync + trip },
      p99Us,
      ...(sync > 0 && { fdatasyncUs: median(syncs), fdatasyncTwoAtOnceUs: median(syncsAtOnce) }),
      ...(trip > 0 && { roundTripUs: trip }),
      remark: [
        `p99 ${p99Us.toFixed(0)}`,
        ...(sync > 0
          ? [`fdatasync alone ${median(syncs).toFixed(0)}, two at once ${median(syncsAtOnce).toFixed(0)}`]
          : []),
      ].join('; '),
    });
  }
}

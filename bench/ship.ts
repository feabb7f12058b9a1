import type { Bench, BenchOptions } from './lib/bench.js';
import { Cluster } from './lib/cluster.js';
import { memoryFolder, scratch } from './lib/hosts.js';
import { type Throughput, throughputLimit } from './lib/network.js';
import { Report } from './lib/report.js';
import { interleave, median, sizeName } from './lib/statistics.js';
import type { BenchResult } from './result.js';

const MB = 1e6;
/** Appended and not yet committed at a time: what enough clients that wait for their commits come to. */
const windowBytes = 8 << 20;

interface Load {
  readonly appendBytes: number;
  /** Behind the id; empty for the usual load. */
  readonly suffix: string;
  /** Bounded by {@link windowBytes}, or by nothing but the engine's own back-pressure. */
  readonly bounded: boolean;
}

const loads: readonly Load[] = [
  ...[128, 4096, 65536].map((appendBytes) => ({ appendBytes, suffix: '', bounded: true })),
  { appendBytes: 65536, suffix: '/unbounded', bounded: false },
];

interface Shipped {
  readonly bytesPerSecond: number;
  /** Of both nodes together. */
  readonly cpuNsPerByte: number;
  readonly appendsPerSecond: number;
}

/** Payload of one hop per second, until the standby has it `received`, beside one stream of the bare network. */
export const shipBench: Bench = {
  name: 'ship',
  summary: 'throughput of one hop, primary to standby, at level received',

  async run(options: BenchOptions): Promise<BenchResult> {
    const report = new Report('ship', options);
    await Cluster.with(2, async (cluster) => {
      await cluster.open({
        transport: options.transport,
        dir: scratch(options.dir ?? memoryFolder),
        parents: [0],
        commitRule: { level: 'received', any: 1 },
        completion: 'adaptive',
      });
      const common = { seconds: options.seconds, warmupAppends: 100, spin: false };
      // Every page of the arena is touched once before anything is measured.
      await cluster.primary.call('drive', {
        ...common,
        appendBytes: 65536,
        inFlight: windowBytes / 65536,
        appendsMax: 2048,
        seconds: 60,
      });
      for (const { appendBytes, suffix, bounded } of loads) {
        const settings = { ...common, appendBytes, inFlight: bounded ? windowBytes / appendBytes : 0 };
        const limits: Throughput[] = [];
        const values: Shipped[] = [];
        await interleave(options.rounds, [
          async () => limits.push(await throughputLimit(options.transport, 65536, options.seconds)),
          async () => {
            const run = await cluster.cpuSeconds(() => cluster.primary.call('drive', settings));
            const { bytes, seconds, appends } = run.value;
            values.push({
              bytesPerSecond: bytes / seconds,
              cpuNsPerByte: (run.cpu * 1e9) / bytes,
              appendsPerSecond: appends / seconds,
            });
          },
        ]);
        const cpu = median(values.map((one) => one.cpuNsPerByte));
        const limitCpu = median(limits.map((one) => one.cpuNsPerByte ?? 0));
        const appends = median(values.map((one) => one.appendsPerSecond));
        report.add({
          id: `ship/${options.transport}/${sizeName(appendBytes)}/received${suffix}`,
          value: median(values.map((one) => one.bytesPerSecond)) / MB,
          unit: 'MB/s',
          limit: { name: limits[0]?.name ?? '', value: median(limits.map((one) => one.bytesPerSecond)) / MB },
          appendsPerSecond: appends,
          cpuNsPerByte: cpu,
          limitCpuNsPerByte: limitCpu,
          remark: `${Math.round(appends).toLocaleString('en')} appends/s, processor time ${cpu.toFixed(2)} ns/B${limitCpu > 0 ? ` (iperf3 ${limitCpu.toFixed(2)})` : ''}`,
        });
      }
      await cluster.close();
    });
    return report.result();
  },
};

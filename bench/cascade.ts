import { cpus } from 'node:os';
import { setTimeout as delay } from 'node:timers/promises';
import type { Bench, BenchOptions } from './lib/bench.js';
import { Cluster } from './lib/cluster.js';
import { memoryFolder, scratch } from './lib/hosts.js';
import { Report } from './lib/report.js';
import { interleave, median } from './lib/statistics.js';
import type { BenchResult } from './result.js';

const depths = [1, 2, 3, 4];
const fanOuts = [2, 3, 4];
const latencyBytes = 512;
const throughputBytes = 65536;
const MB = 1e6;
const noTimeoutMs = 60_000;

interface Figures {
  readonly p50Us: number;
  readonly p99Us: number;
  readonly bytesPerSecond: number;
  /** What the primary sent ÷ what was appended. */
  readonly egress: number;
}

/** Trees of standbys: what depth and width cost, and what one that stands still costs the others. */
export const cascadeBench: Bench = {
  name: 'cascade',
  summary: 'chains of up to four standbys, up to four at one primary, and one that is stopped',

  async run(options: BenchOptions): Promise<BenchResult> {
    const report = new Report('cascade', options);
    const nodes = Math.max(...depths) + 1;
    if (cpus().length < nodes) {
      report.note(
        `${cpus().length} cores for up to ${nodes} nodes: throughput falls with every node for that alone`,
      );
    }
    const dir = scratch(options.dir ?? memoryFolder);
    const chains = new Map<number, Figures[]>(depths.map((depth) => [depth, []]));
    const fans = new Map<number, Figures[]>(fanOuts.map((width) => [width, []]));
    const moving: Figures[] = [];
    const stopped: Figures[] = [];
    await Cluster.with(nodes, async (cluster) => {
      const inTree = async (
        parents: readonly number[],
        waitFor: readonly number[],
        body: () => Promise<void>,
      ) => {
        await cluster.open({
          transport: options.transport,
          dir,
          parents,
          commitRule: { level: 'received', any: waitFor.length, nodes: waitFor.map(Cluster.nodeId) },
          completion: 'adaptive',
          linkTimeoutMs: noTimeoutMs,
        });
        await body();
        await cluster.close();
      };
      await interleave(options.rounds, [
        ...depths.map((depth) => () => {
          const parents = Array.from({ length: depth }, (_, index) => index);
          return inTree(parents, [depth], async () => {
            chains.get(depth)?.push(await measure(cluster, options));
          });
        }),
        ...fanOuts.map((width) => () => {
          const parents = Array.from({ length: width }, () => 0);
          return inTree(
            parents,
            [...parents.keys()].map((index) => index + 1),
            async () => {
              fans.get(width)?.push(await measure(cluster, options));
            },
          );
        }),
        () =>
          inTree([0, 0], [1], async () => {
            moving.push(await measure(cluster, options));
            cluster.node(2).signal('SIGSTOP');
            try {
              stopped.push(await measure(cluster, options));
            } finally {
              cluster.node(2).signal('SIGCONT');
            }
          }),
      ]);
    });

    const name = `cascade/${options.transport}`;
    const one = summary(chains.get(1) as Figures[]);
    for (const depth of depths) {
      const here = summary(chains.get(depth) as Figures[]);
      addPair(report, `${name}/depth${depth}`, here, 'depth 1', one);
      if (depth > 1) {
        const before = summary(chains.get(depth - 1) as Figures[]);
        report.add({
          id: `${name}/depth${depth}/added`,
          value: here.p50Us - before.p50Us,
          unit: 'µs p50',
          limit: { name: 'one hop', value: one.p50Us },
        });
      }
      report.add({
        id: `${name}/depth${depth}/egress`,
        value: here.egress,
        unit: 'B/B',
        limit: { name: 'WAL bytes', value: 1 },
      });
    }
    for (const width of fanOuts) {
      addPair(report, `${name}/fanout${width}`, summary(fans.get(width) as Figures[]), 'fan-out 1', one);
    }
    addPair(report, `${name}/stopped-leaf`, summary(stopped), 'both moving', summary(moving));
    return report.result();
  },
};

async function measure(cluster: Cluster, { seconds }: BenchOptions): Promise<Figures> {
  const { primary } = cluster;
  const common = { seconds, warmupAppends: 100, spin: false };
  const latency = await primary.call('drive', { ...common, appendBytes: latencyBytes, inFlight: 1 });
  const before = await sent(cluster);
  const driven = await primary.call('drive', { ...common, appendBytes: throughputBytes, inFlight: 0 });
  const after = await sent(cluster);
  return {
    p50Us: latency.commit.p50Us,
    p99Us: latency.commit.p99Us,
    bytesPerSecond: driven.bytes / driven.seconds,
    egress: (after.wire - before.wire) / (after.appended - before.appended),
  };
}

/** What the primary has appended, and what it has sent to all its downstreams, everything included. */
async function sent(cluster: Cluster): Promise<{ wire: number; appended: number }> {
  await delay(100); // a status may be half a heartbeat old
  const { links, positions } = await cluster.primary.call('status');
  return {
    wire: links.reduce((sum, link) => sum + link.wireBytesSent, 0),
    appended: Number(positions.received),
  };
}

function summary(rounds: readonly Figures[]): Figures {
  const of = (what: (one: Figures) => number) => median(rounds.map(what));
  return {
    p50Us: of((one) => one.p50Us),
    p99Us: of((one) => one.p99Us),
    bytesPerSecond: of((one) => one.bytesPerSecond),
    egress: of((one) => one.egress),
  };
}

function addPair(report: Report, id: string, here: Figures, limitName: string, limit: Figures): void {
  report.add({
    id: `${id}/received`,
    value: here.p50Us,
    unit: 'µs p50',
    limit: { name: limitName, value: limit.p50Us },
    p99Us: here.p99Us,
    remark: `p99 ${here.p99Us.toFixed(0)}`,
  });
  report.add({
    id: `${id}/throughput`,
    value: here.bytesPerSecond / MB,
    unit: 'MB/s',
    limit: { name: limitName, value: limit.bytesPerSecond / MB },
  });
}

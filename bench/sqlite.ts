import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { Bench, BenchOptions } from './lib/bench.js';
import { NodeProcess } from './lib/cluster.js';
import { memoryFolder, scratch } from './lib/hosts.js';
import type { Rate, ReplicaCalls } from './lib/replica.js';
import { Report } from './lib/report.js';
import { interleave, median } from './lib/statistics.js';
import type { BenchResult } from './result.js';

const MiB = 1 << 20;
const lagTargetMs = 5;
const lagPerSecond = 2000;
/** On top of SQLite's own commit, for one that waits until a standby has received it. */
const waitAllowanceUs = 60;

type Replica = NodeProcess<ReplicaCalls>;

/** A replicated SQLite database beside one that nobody replicates, in the same process and turn by turn. */
export const sqliteBench: Bench = {
  name: 'sqlite',
  summary: 'what replication costs SQLite: commits, bulk import, reads, and how far behind a standby is',

  async run(options: BenchOptions): Promise<BenchResult> {
    const report = new Report('sqlite', options);
    const dir = scratch(options.dir ?? memoryFolder);
    mkdirSync(dir, { recursive: true });
    const [primary, standby] = [new NodeProcess('./replica.ts'), new NodeProcess('./replica.ts')] as [
      Replica,
      Replica,
    ];
    try {
      const common = (name: string) => ({
        path: join(dir, `${name}.db`),
        nodeId: name,
        cluster: { id: 'bench', secret: 'a-secret-of-no-consequence' },
        listen: '127.0.0.1:0',
        transport: options.transport,
        log: { retainBytes: 256 * MiB, retainBytesMax: 256 * MiB },
      });
      const port = await primary.call('open', {
        options: { ...common('a'), commitRule: { level: 'received', any: 1 } },
        plainPath: join(dir, 'plain-a.db'),
      });
      await standby.call('open', {
        options: { ...common('b'), upstream: { address: `127.0.0.1:${port}` } },
        plainPath: join(dir, 'plain-b.db'),
      });
      await standby.call('reached', await primary.call('committed'));
      await measure(report, options, primary, standby);
      await standby.call('close');
      await primary.call('close');
    } finally {
      await Promise.all([primary.end(), standby.end()]);
      rmSync(dir, { recursive: true, force: true });
    }
    return report.result();
  },
};

async function measure(
  report: Report,
  options: BenchOptions,
  primary: Replica,
  standby: Replica,
): Promise<void> {
  const { seconds } = options;
  const settle = async () => standby.call('reached', await primary.call('committed'));
  const pair = async (measureOne: (which: 'plain' | 'replicated') => Promise<Rate>) => {
    const plain: Rate[] = [];
    const replicated: Rate[] = [];
    await interleave(options.rounds, [
      async () => plain.push(await measureOne('plain')),
      async () => {
        replicated.push(await measureOne('replicated'));
        await settle();
      },
    ]);
    const of = (rates: readonly Rate[], what: keyof Rate) => median(rates.map((one) => one[what]));
    return {
      plain: (what: keyof Rate) => of(plain, what),
      replicated: (what: keyof Rate) => of(replicated, what),
    };
  };

  const commits = await pair((which) => primary.call('autocommit', { which, seconds }));
  report.add({
    id: 'sqlite/autocommit/async',
    value: commits.replicated('perSecond'),
    unit: 'commits/s',
    limit: { name: 'not replicated', value: commits.plain('perSecond') },
    addedUs: commits.replicated('p50Us') - commits.plain('p50Us'),
    remark: `p50 ${commits.replicated('p50Us').toFixed(1)} µs against ${commits.plain('p50Us').toFixed(1)}`,
  });
  const bulk = await pair((which) => primary.call('bulk', { which, seconds }));
  report.add({
    id: 'sqlite/bulk/async',
    value: bulk.replicated('perSecond'),
    unit: 'rows/s',
    limit: { name: 'not replicated', value: bulk.plain('perSecond') },
    remark: 'transactions of 10,000 rows',
  });
  await primary.call('setCommitMode', 'wait');
  const waits = await pair((which) => primary.call('autocommit', { which, seconds }));
  await primary.call('setCommitMode', 'async');
  report.add({
    id: 'sqlite/autocommit/wait-received',
    value: waits.replicated('p50Us'),
    unit: 'µs p50',
    limit: { name: `not replicated + ${waitAllowanceUs} µs`, value: waits.plain('p50Us') + waitAllowanceUs },
    p99Us: waits.replicated('p99Us'),
    remark: `p99 ${waits.replicated('p99Us').toFixed(0)}`,
  });
  const behind: Rate[] = [];
  const paces: number[] = [];
  for (let round = 0; round < options.rounds; round++) {
    const writing = primary.call('paced', { perSecond: lagPerSecond, seconds: seconds + 1 });
    behind.push(await standby.call('staleness', { seconds }));
    paces.push(await writing);
  }
  report.add({
    id: 'sqlite/staleness',
    value: median(behind.map((one) => one.p99Us)) / 1000,
    unit: 'ms p99',
    limit: { name: `target at ${lagPerSecond} commits/s`, value: lagTargetMs },
    commitsPerSecond: median(paces),
    remark: `p50 ${(median(behind.map((one) => one.p50Us)) / 1000).toFixed(2)}; the age of the newest row a reader sees`,
  });
  await standby.call('autocommit', { which: 'plain', seconds });
  const reads = { plain: [] as number[], replicated: [] as number[] };
  await interleave(options.rounds, [
    async () => reads.plain.push((await standby.call('reads', { which: 'plain', seconds })).perSecond),
    async () =>
      reads.replicated.push((await standby.call('reads', { which: 'replicated', seconds })).perSecond),
  ]);
  report.add({
    id: 'sqlite/reads/standby',
    value: median(reads.replicated),
    unit: 'reads/s',
    limit: { name: 'not replicated', value: median(reads.plain) },
  });
}

// How long nobody can write when the whole host of a PostgreSQL primary dies, as a client of libpq sees it.
import { setTimeout as sleep } from 'node:timers/promises';
import { background, binDirOf, remove } from '../../test/databases/postgres/support.js';
import type { BenchOptions } from '../lib/bench.js';
import { Report } from '../lib/report.js';
import { quantile } from '../lib/statistics.js';
import type { BenchResult } from '../result.js';
import { type DatabaseCluster, type DatabaseHost, primaryOf } from './hosts.js';
import { patroniCluster, patroniTimes } from './patroni.js';
import { walshipCluster } from './walship.js';
import { query, Writer } from './writer.js';

const major = 15;
/** What is asked of walship. */
const bounds = { p50: 700, p99: 1500 };
const shares = { p50: 0.5, p99: 0.99 };
const boundMs = 120_000;

export async function databaseFailover(options: BenchOptions): Promise<BenchResult> {
  const report = new Report('failover', options);
  const bin = binDirOf(major);
  if (!bin) throw new Error(`this bench needs PostgreSQL ${major} (Debian: postgresql-${major})`);
  const { dir } = options;
  const times = await timesOf(report, 'walship', options.rounds, bin, () => walshipCluster(bin, dir));
  tell(report, 'failover/postgres/walship', times, (name) => ({ name: 'asked', value: bounds[name] }));
  if (options.versus === 'patroni') {
    // A round takes a minute.
    const rounds = Math.min(options.rounds, 4);
    for (const kind of ['defaults', 'fastest'] as const) {
      const theirs = await timesOf(report, `Patroni, ${kind}`, rounds, bin, () =>
        patroniCluster(bin, dir, patroniTimes[kind]),
      );
      tell(report, `failover/postgres/patroni-${kind}`, theirs, (name) => ({
        name: 'walship',
        value: quantileOf(times, name),
      }));
    }
  }
  return report.result();
}

/** In milliseconds: from the death of everything on the primary's host to the first write that another server has taken. */
async function timesOf(
  report: Report,
  name: string,
  rounds: number,
  bin: string,
  make: () => Promise<DatabaseCluster>,
): Promise<number[]> {
  const cluster = await make();
  const { hosts } = cluster;
  let writer: Writer | undefined;
  try {
    await cluster.start();
    const first = await primaryOf(hosts, boundMs);
    await query(first.conninfo, 'create table mark (n int)');
    await pgbench(bin, first, '-i', '-q').ended;
    writer = new Writer(cluster.conninfo);
    const times: number[] = [];
    for (let round = 0; round < rounds; round++) {
      await cluster.ready();
      const primary = await primaryOf(hosts, boundMs);
      const load = pgbench(bin, primary, '-n', '-N', '-c', '4', '-T', '600');
      await sleep(500 + 500 * Math.random());
      await writer.next(performance.now(), '', boundMs);
      const killedAt = performance.now();
      await primary.kill();
      const { atMs } = await writer.next(killedAt, primary.dataDir, boundMs);
      times.push(atMs - killedAt);
      await load.stop();
      primary.start();
    }
    await cluster.ready();
    await writer.stop();
    const { conninfo } = await primaryOf(hosts, boundMs);
    const there = new Set((await query(conninfo, "select string_agg(n::text, ',') from mark")).split(','));
    const lost = writer.acknowledged.filter(({ n }) => !there.has(String(n))).length;
    report.note(`${name}: ${writer.acknowledged.length} writes acknowledged, ${lost} lost`);
    return times;
  } catch (error) {
    const said = hosts.map((host) => `${host.name}: ${host.said}`).join('\n');
    throw new Error(`${name}: ${(error as Error).message}\n${said}`);
  } finally {
    await writer?.stop();
    await Promise.all(hosts.map((host) => host.kill()));
    await cluster.etcd.close();
    await remove(cluster.dir);
  }
}

function pgbench(bin: string, host: DatabaseHost, ...args: string[]) {
  return background(`${bin}/pgbench`, [...args, `${host.conninfo} dbname=postgres`]);
}

function quantileOf(times: readonly number[], name: keyof typeof shares): number {
  return quantile(Float64Array.from(times), shares[name]);
}

function tell(
  report: Report,
  id: string,
  times: readonly number[],
  limit: (name: 'p50' | 'p99') => { name: string; value: number },
): void {
  for (const name of ['p50', 'p99'] as const) {
    report.add({
      id: `${id}/${name}`,
      value: quantileOf(times, name),
      unit: 'ms',
      limit: limit(name),
      remark: `${times.length} times`,
      times: times.length,
    });
  }
}

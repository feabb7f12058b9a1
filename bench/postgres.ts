import { binDirOf } from '../test/databases/postgres/support.js';
import type { Bench, BenchOptions } from './lib/bench.js';
import { inLab } from './lib/hosts.js';
import { Report } from './lib/report.js';
import { interleave, median } from './lib/statistics.js';
import { commitP50Us, levels, transactionsPerSecond } from './postgres/commits.js';
import { Stage } from './postgres/stage.js';
import { prepareCopy, ship, shippingLevels, workloads } from './postgres/wal.js';
import type { BenchResult } from './result.js';

const major = 15;

/** PostgreSQL's synchronous commits over walship beside its own streaming, and its WAL beside pg_receivewal. */
export const postgresBench: Bench = {
  name: 'postgres',
  summary:
    "PostgreSQL's synchronous commits and its WAL over walship, beside its own streaming and pg_receivewal",

  async run(options: BenchOptions): Promise<BenchResult> {
    const report = new Report('postgres', options);
    const bin = binDirOf(major);
    if (!bin) throw new Error(`this bench needs PostgreSQL ${major} (Debian: postgresql-${major})`);
    await Stage.with(bin, options, async (stage) => {
      await measureCommits(report, options, stage);
      await measureWal(report, options, stage);
    });
    return report.result();
  },
};

/** All measures of one way, then those of the next one: going over to another takes a second or more. */
async function measureCommits(report: Report, options: BenchOptions, stage: Stage): Promise<void> {
  const { seconds, rounds, quick } = options;
  const { own, walship, cascade, walshipReceived, cascadeReceived } = stage.ways;
  const ways = { own, walship, cascade };
  const received = { own, walship: walshipReceived, cascade: cascadeReceived };
  const clients = quick || inLab ? [1] : [1, 8, 32];
  const found = new Samples();
  await interleave(
    rounds,
    (['own', 'walship', 'cascade'] as const).map((name) => async () => {
      for (const level of levels) {
        await stage.use((level === 'remote_write' ? received : ways)[name]);
        found.add(`${name}/commit/${level}`, await commitP50Us(stage, level, seconds));
      }
      for (const count of clients)
        found.add(`${name}/pgbench/on/c${count}`, await transactionsPerSecond(stage, count, seconds));
    }),
  );
  const tell = (what: string, unit: string) => {
    report.add({
      id: `postgres/${what}`,
      value: found.median(`walship/${what}`),
      unit,
      limit: { name: "PostgreSQL's own streaming", value: found.median(`own/${what}`) },
    });
    report.add({
      id: `postgres/cascade/${what}`,
      value: found.median(`cascade/${what}`),
      unit,
      limit: { name: 'over one hop', value: found.median(`walship/${what}`) },
    });
  };
  for (const level of levels) tell(`commit/${level}`, 'µs p50');
  for (const count of clients) tell(`pgbench/on/c${count}`, 'tps');
}

async function measureWal(report: Report, options: BenchOptions, stage: Stage): Promise<void> {
  const bytes = options.quick || inLab ? 16e6 : 256e6 * options.seconds;
  await stage.endStandbys();
  await prepareCopy(stage, bytes);
  // The server has segments to use again from here on, as one that has run for long.
  await ship(stage, stage.ways.arena, 'message', 'flushed', 8 * bytes);
  const ways = { receiveWal: stage.ways.receiveWal, arena: stage.ways.arena };
  const found = new Samples();
  const levelNames = Object.keys(shippingLevels) as (keyof typeof shippingLevels)[];
  await interleave(
    options.rounds,
    Object.entries(ways).map(([name, way]) => async () => {
      for (const workload of workloads) {
        for (const level of levelNames) {
          const { bytesPerSecond, cpuPerGb } = await ship(stage, way, workload, level, bytes);
          found.add(`${name}/${workload}/${level}`, bytesPerSecond / 1e6);
          const total = Object.values(cpuPerGb).reduce((sum, each) => sum + each, 0);
          found.add(`${name}/${workload}/cpu`, total);
          for (const [process, each] of Object.entries(cpuPerGb))
            found.add(`${name}/${workload}/cpu/${process}`, each);
        }
      }
    }),
  );
  for (const workload of workloads) {
    for (const level of levelNames) {
      report.add({
        id: `postgres/wal/${workload}/${level}`,
        value: found.median(`arena/${workload}/${level}`),
        unit: 'MB/s',
        limit: {
          name: 'pg_receivewal --synchronous',
          value: found.median(`receiveWal/${workload}/${level}`),
        },
      });
    }
    report.add({
      id: `postgres/wal/${workload}/cpu`,
      value: found.median(`arena/${workload}/cpu`),
      unit: 's/GB',
      limit: { name: 'pg_receivewal --synchronous', value: found.median(`receiveWal/${workload}/cpu`) },
      remark: [found.medians(`arena/${workload}/cpu/`), found.medians(`receiveWal/${workload}/cpu/`)].join(
        ' beside ',
      ),
    });
  }
}

/** What was measured, by name, round after round. */
class Samples {
  readonly #all = new Map<string, number[]>();

  add(name: string, value: number): void {
    const values = this.#all.get(name) ?? [];
    values.push(value);
    this.#all.set(name, values);
  }

  median(name: string): number {
    return median(this.#all.get(name) ?? []);
  }

  /** Of everything whose name begins so, in words. */
  medians(prefix: string): string {
    return [...this.#all.keys()]
      .filter((name) => name.startsWith(prefix))
      .map((name) => `${name.slice(prefix.length)} ${this.median(name).toFixed(2)}`)
      .join(', ');
  }
}

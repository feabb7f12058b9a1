import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { openPostgres, type PostgresNode } from '../src/databases/postgres/postgres.js';
import { binDirOf, remove, Server, scratch } from '../test/databases/postgres/support.js';
import type { Bench, BenchOptions } from './lib/bench.js';
import { type Host, hosts } from './lib/hosts.js';
import { Report } from './lib/report.js';
import { interleave, median } from './lib/statistics.js';
import type { BenchResult } from './result.js';

const major = 15;
const clients = [1, 8, 32];
const levels = ['remote_write', 'on', 'remote_apply'] as const;
type Level = (typeof levels)[number];
/** Who brings the primary's WAL to the standby server. */
type Way = 'own' | 'walship';

/** PostgreSQL's synchronous commits over walship beside its own streaming: the same servers, settings and folder. */
export const postgresBench: Bench = {
  name: 'postgres',
  summary:
    'commits of PostgreSQL that wait for a standby: over walship, beside its own streaming replication',

  async run(options: BenchOptions): Promise<BenchResult> {
    const report = new Report('postgres', options);
    const bin = binDirOf(major);
    if (!bin) throw new Error(`this bench needs PostgreSQL ${major} (Debian: postgresql-${major})`);
    const dir = await scratch(options.dir);
    const stage = await Stage.set(dir, bin, options);
    try {
      await measure(report, options, stage);
    } finally {
      await stage.clear();
      await remove(dir);
    }
    return report.result();
  },
};

async function measure(report: Report, options: BenchOptions, stage: Stage): Promise<void> {
  const both = async (what: (way: Way) => Promise<number>) => {
    const found: Record<Way, number[]> = { own: [], walship: [] };
    const once = (way: Way) => async () => {
      await stage.use(way);
      found[way].push(await what(way));
    };
    await interleave(options.rounds, [once('own'), once('walship')]);
    return { own: median(found.own), walship: median(found.walship) };
  };
  for (const level of levels) {
    const { own, walship } = await both(() => stage.commitMeanUs(level));
    report.add({
      id: `postgres/commit/${level}`,
      value: walship,
      unit: 'µs mean',
      limit: { name: "PostgreSQL's own streaming", value: own },
    });
  }
  for (const count of options.quick ? clients.slice(0, 1) : clients) {
    const { own, walship } = await both(() => stage.transactionsPerSecond(count));
    report.add({
      id: `postgres/pgbench/on/c${count}`,
      value: walship,
      unit: 'tps',
      limit: { name: "PostgreSQL's own streaming", value: own },
    });
  }
}

function rateIn(output: string): number {
  const found = /^tps = ([0-9.]+)/m.exec(output)?.[1];
  if (found === undefined) throw new Error(`pgbench gave no tps:\n${output}`);
  return Number(found);
}

/** A primary server, a standby server for each of the two ways, and walship's two nodes; one way at a time runs. */
class Stage {
  readonly #dir: string;
  readonly #options: BenchOptions;
  readonly #primary: Server;
  readonly #standby: Record<Way, Server>;
  #nodes: PostgresNode[] = [];
  #way: Way | undefined;

  private constructor(dir: string, options: BenchOptions, primary: Server, standby: Record<Way, Server>) {
    this.#dir = dir;
    this.#options = options;
    this.#primary = primary;
    this.#standby = standby;
  }

  static async set(dir: string, bin: string, options: BenchOptions): Promise<Stage> {
    const primary = await Server.create(dir, 'primary', bin);
    const standby = {
      own: await Server.create(dir, 'own', bin),
      walship: await Server.create(dir, 'walship', bin),
    };
    const stage = new Stage(dir, options, primary, standby);
    try {
      await primary.init({ max_wal_size: '4GB', synchronous_commit: 'local', shared_buffers: '128MB' });
      await primary.start();
      await primary.pgbench(['-i', '-s', '10', '-q']);
      await primary.sql("select pg_create_physical_replication_slot('own', true)");
      await stage.#openNodes();
      await standby.own.cloneFrom(primary, `${primary.conninfo} application_name=own`, {
        primary_slot_name: 'own',
      });
      await standby.walship.cloneFrom(primary, `host=${dir} port=6001 user=postgres`);
      return stage;
    } catch (error) {
      await stage.clear();
      throw error;
    }
  }

  /** Only what is measured runs: the other standby would take processor time from it. */
  async use(way: Way): Promise<void> {
    if (this.#way === way) return;
    const other = way === 'own' ? 'walship' : 'own';
    await this.#primary.sql("alter system set synchronous_standby_names = ''");
    await this.#primary.reload();
    await this.#standby[other].stop('fast');
    if (other === 'walship') await this.#closeNodes();
    else await this.#openNodes();
    await this.#standby[way].start();
    await this.#primary.sql(`alter system set synchronous_standby_names = '${way}'`);
    await this.#primary.reload();
    // Caught up.
    await this.#primary.sql(
      'set synchronous_commit = remote_apply; create table if not exists here (n int)',
      120_000,
    );
    await this.#primary.sql('set synchronous_commit = remote_apply; insert into here values (1)', 120_000);
    this.#way = way;
  }

  /** Of a transaction that writes one small record and a commit, one at a time. */
  async commitMeanUs(level: Level): Promise<number> {
    const script = join(this.#dir, 'commit.sql');
    writeFileSync(script, `select pg_logical_emit_message(true, 'bench', 'one commit');\n`);
    // Not the times that pgbench logs: it reads the clock once for several steps when the server answers at once.
    return 1e6 / rateIn(await this.#pgbench(level, ['-c', '1', '-f', script]));
  }

  async transactionsPerSecond(count: number): Promise<number> {
    return rateIn(await this.#pgbench('on', ['-N', '-c', String(count)]));
  }

  async clear(): Promise<void> {
    for (const server of [this.#standby.own, this.#standby.walship, this.#primary]) {
      await server.stop().catch(() => {});
    }
    await this.#closeNodes();
  }

  async #pgbench(level: Level, args: readonly string[]): Promise<string> {
    await this.#primary.sql(`alter role postgres set synchronous_commit = ${level}`);
    try {
      return await this.#primary.pgbench([
        '-n',
        '-M',
        'prepared',
        '-T',
        String(this.#options.seconds),
        ...args,
      ]);
    } finally {
      await this.#primary.sql('alter role postgres reset synchronous_commit');
    }
  }

  async #openNodes(): Promise<void> {
    if (this.#nodes.length > 0) return;
    const [{ address: here }, { address: there }] = hosts(2) as [Host, Host];
    const common = (nodeId: string) => ({
      dir: join(this.#dir, `log-${nodeId}`),
      nodeId,
      cluster: { id: 'bench', secret: 'a-secret-of-no-consequence' },
      transport: this.#options.transport,
    });
    const primary = await openPostgres({
      ...common('a'),
      listen: `${here}:0`,
      commitRule: { level: 'flushed', any: 1 },
      server: { conninfo: this.#primary.conninfo },
    });
    this.#nodes.push(primary);
    this.#nodes.push(
      await openPostgres({
        ...common('b'),
        listen: `${there}:0`,
        upstream: { address: `${here}:${primary.engine.listenPort}` },
        serve: { directory: this.#dir, port: 6001 },
      }),
    );
  }

  async #closeNodes(): Promise<void> {
    for (const node of this.#nodes.splice(0).reverse()) await node.close();
  }
}

// What is shown: three hosts with a PostgreSQL server each, and walship between them. One dies, comes back, gets its role
// again; and the outcome is checked.
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { chmodSync, existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Demonstration, DemoOptions } from '../demonstration.js';
import { ms, Printer, table } from '../show.js';
import { binDir, Host, type Said } from './host.js';
import { anywhere, Bookkeeper, Pgbench } from './load.js';
import { prove } from './proof.js';

const names = ['node-1', 'node-2', 'node-3'] as const;
const patienceMs = 60_000;
const lookEveryMs = 300;
const pass = (ms: number) => new Promise((wake) => setTimeout(wake, ms));

const phaseColumns = [
  'phase',
  'pgbench',
  'per second',
  'longest pause',
  'one commit p50',
  'live queries',
  'lag p50',
  'lag max',
];
/** What of a node's log tells the story. */
const telling: ReadonlySet<string> = new Set([
  'postgres-server',
  'primary-lost',
  'handing-over',
  'handed-over',
  'log-cut',
  'failed',
]);

interface Sight {
  readonly rows: number;
  readonly ageMs: number;
}

export class PostgresDemo implements Demonstration {
  readonly #seconds: number;
  readonly #base: string;
  readonly #keep: boolean;
  readonly #print = new Printer();
  readonly #hosts: Host[];
  readonly #janitor: ChildProcess;
  readonly #bookkeeper: Bookkeeper;
  readonly #pgbench: Pgbench;
  readonly #rows: string[][] = [];
  #sights: Sight[] = [];
  #quiet = false;

  constructor({ seconds, base, keep }: DemoOptions) {
    if (!existsSync(join(binDir, 'postgres')))
      throw new Error(`there is no PostgreSQL in ${binDir}: apt-get install postgresql-15`);
    this.#seconds = seconds;
    this.#base = base;
    this.#keep = keep;
    // The servers run as another user than this if this is root.
    chmodSync(base, 0o755);
    writeFileSync(join(base, 'secret'), randomBytes(32).toString('hex'), { mode: 0o600 });
    this.#janitor = spawn(
      process.execPath,
      ['--import', 'tsx', fileURLToPath(new URL('janitor.ts', import.meta.url)), base, keep ? 'keep' : ''],
      { stdio: ['pipe', 'inherit', 'inherit'] },
    );
    const port = 20_000 + (process.pid % 30_000);
    this.#hosts = names.map(
      (name, i) => new Host(base, name, port + i, i === 0, (said) => this.#hear(name, said)),
    );
    const conninfo = anywhere(this.#hosts);
    this.#bookkeeper = new Bookkeeper(conninfo);
    this.#pgbench = new Pgbench(conninfo, ({ perSecond, latencyMs }) => {
      const sight = this.#sights.at(-1);
      const live = sight
        ? `; the last standby shows ${sight.rows} rows, ${sight.ageMs.toFixed(0)} ms old`
        : '';
      this.#print.line(
        `${String(Math.round(perSecond)).padStart(5)} transactions/s, ${latencyMs.toFixed(1)} ms each${live}`,
      );
    });
  }

  async run(): Promise<number> {
    try {
      return await this.#play();
    } finally {
      const tidied = once(this.#janitor, 'exit');
      this.end();
      await tidied;
    }
  }

  end(): void {
    this.#janitor.stdin?.end();
  }

  #hear(name: string, { level, event, message }: Said): void {
    if (!this.#quiet && (telling.has(event) || level === 'error')) this.#print.line(`${name}: ${message}`);
  }

  async #play(): Promise<number> {
    const [first] = this.#hosts as [Host];
    await this.#startAll();
    const share = (percent: number) => (this.#seconds * percent) / 100;
    await this.#load('all three hosts are up', share(30), () => pass(0));
    await this.#load('the primary’s host dies and comes back', share(40), async () => {
      await pass(share(8) * 1000);
      await this.#killPrimary(share(8));
    });
    await this.#load('the primary hands over, as planned', share(30), async () => {
      await pass(share(8) * 1000);
      const to = (await this.#primary()) === first ? (await this.#chain())[1] : first.name;
      this.#print.line(`$ walship switchover --to ${to}`);
      const said = await first.walship('switchover', '--to', to as string, '-d', first.logDir);
      this.#print.line(said.trim());
    });
    await this.#settled();
    return await this.#prove();
  }

  async #startAll(): Promise<void> {
    const [first, ...others] = this.#hosts as [Host, ...Host[]];
    this.#print.line(`three hosts, in ${this.#base}: a PostgreSQL server each, and beside it walship node`);
    this.#print.line(`${first.name}: walship postgres init`);
    for (const line of (await first.init()).trim().split('\n').slice(0, -1)) this.#print.line(`  ${line}`);
    first.start();
    await this.#until(`${first.name} to be the primary`, async () => (await first.sql('select 1')) === '1');
    for (const host of others) {
      host.start();
      await this.#until(`${host.name} to follow`, async () => (await this.#follows()).includes(host.name));
    }
    this.#print.line(`the chain: ${(await this.#chain()).join(' → ')}`);
    await first.program('pgbench', '-i', '-s', '2', '-q', first.conninfo);
    await first.sql('create table ledger (n int); create extension amcheck');
    const settings = await first.sql(
      "select current_setting('synchronous_standby_names'), current_setting('synchronous_commit')",
    );
    const [standbys, level] = settings.split('|');
    this.#print.line(
      `PostgreSQL waits for '${standbys}' with synchronous_commit = ${level}: until the commit is on the disk of one ` +
        'standby, whichever is first',
    );
  }

  /** Load while `script` runs: one row of the table. */
  async #load(title: string, seconds: number, script: () => Promise<unknown>): Promise<void> {
    this.#print.heading(title);
    const done = this.#pgbench.done;
    const from = performance.now();
    this.#sights = [];
    let loaded = true;
    const watch = async () => {
      for (; loaded; await pass(lookEveryMs)) {
        const sight = await this.#look();
        if (sight) this.#sights.push(sight);
      }
    };
    this.#bookkeeper.start();
    const watching = watch();
    await Promise.all([this.#pgbench.run(seconds), script()]);
    const tookSeconds = (performance.now() - from) / 1000;
    await this.#bookkeeper.stop();
    loaded = false;
    await watching;
    const ages = Float64Array.from(this.#sights, ({ ageMs }) => ageMs).sort();
    const count = this.#pgbench.done - done;
    this.#rows.push([
      title,
      String(count),
      String(Math.round(count / tookSeconds)),
      `${this.#bookkeeper.longestPauseMs.toFixed(0)} ms`,
      ms(this.#bookkeeper.takeLatencies(), 0.5),
      String(this.#sights.length),
      ms(ages, 0.5),
      ms(ages, 1),
    ]);
  }

  /** A query on the last standby; undefined: there is none to query, or it has nothing yet. */
  async #look(): Promise<Sight | undefined> {
    try {
      const name = (await this.#chain()).at(-1);
      const host = this.#hosts.find((each) => each.name === name && each.up);
      const answer = await host?.sql(
        'select count(*), extract(epoch from clock_timestamp() - max(mtime)) * 1000 from pgbench_history ' +
          'where pg_is_in_recovery()',
      );
      const [rows, ageMs] = (answer ?? '').split('|').map(Number);
      return rows === undefined || !ageMs ? undefined : { rows, ageMs };
    } catch {
      return undefined;
    }
  }

  async #killPrimary(awaySeconds: number): Promise<void> {
    const victim = await this.#primary();
    const acknowledged = this.#bookkeeper.next();
    const from = performance.now();
    await victim.kill();
    this.#print.line(
      `${victim.name}: the host is dead: its server's and its node's processes were killed (SIGKILL)`,
    );
    await acknowledged;
    const took = (performance.now() - from).toFixed(0);
    const successor = await this.#primary();
    this.#print.line(
      `${successor.name} has taken over: ${took} ms from the death to a transaction done through libpq's ` +
        'target_session_attrs=read-write',
    );
    await pass(awaySeconds * 1000);
    const back = performance.now();
    victim.start();
    this.#print.line(`${victim.name}: started again`);
    await this.#until(`${victim.name} to follow`, async () => (await this.#follows()).includes(victim.name));
    this.#print.line(
      `${victim.name}: follows as a standby after ${((performance.now() - back) / 1000).toFixed(1)} s; ` +
        `the chain: ${(await this.#chain()).join(' → ')}`,
    );
  }

  /** The hosts whose servers stream from their own nodes, on the newest timeline. */
  async #follows(): Promise<string[]> {
    const timeline = await (await this.#primary()).sql(
      "select ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int",
    );
    const following: string[] = [];
    for (const host of this.#hosts) {
      const seen = await host.sql('select status, received_tli from pg_stat_wal_receiver').catch(() => '');
      if (seen === `streaming|${timeline}`) following.push(host.name);
    }
    return following;
  }

  async #primary(): Promise<Host> {
    return await this.#until('a primary server', async () => {
      for (const host of this.#hosts) {
        if (!host.up) continue;
        if ((await host.sql('select pg_is_in_recovery()').catch(() => 't')) === 'f') return host;
      }
      return undefined;
    });
  }

  /** From the primary on, each with whom it ships to behind it. */
  async #chain(): Promise<string[]> {
    for (const host of this.#hosts) {
      const status = host.up ? await host.status().catch(() => undefined) : undefined;
      const primary = status?.failover?.primary?.node;
      if (!status || primary === undefined) continue;
      const chain = [primary];
      for (;;) {
        const last = chain.at(-1);
        const next = status.failover?.members.find(({ upstream }) => upstream === last)?.node;
        if (next === undefined || chain.includes(next)) return chain;
        chain.push(next);
      }
    }
    return [];
  }

  async #until<T>(what: string, look: () => Promise<T | undefined | false>): Promise<T> {
    for (const end = performance.now() + patienceMs; performance.now() < end; await pass(30)) {
      const seen = await look().catch(() => undefined);
      if (seen !== undefined && seen !== false) return seen;
    }
    const said = this.#hosts.map((host) => host.lastWords());
    throw new Error(`waited ${patienceMs / 1000} s for ${what}\n${said.join('\n')}`);
  }

  /** Every server follows, and has replayed everything. */
  async #settled(): Promise<void> {
    const primary = await this.#primary();
    await this.#until('two standbys', async () => (await this.#follows()).length === names.length - 1);
    const end = await primary.sql('select pg_current_wal_flush_lsn()');
    for (const host of this.#hosts) {
      if (host === primary) continue;
      await this.#until(`${host.name} to replay everything`, async () => {
        return (await host.sql(`select pg_last_wal_replay_lsn() >= '${end}'`)) === 't';
      });
    }
  }

  async #prove(): Promise<number> {
    this.#print.heading('the positions, as PostgreSQL sees them');
    const primary = await this.#primary();
    const ordered = [primary, ...this.#hosts.filter((host) => host !== primary)];
    const positions = await Promise.all(
      ordered.map(async (host) => {
        const answer = await host.sql(
          "select case when pg_is_in_recovery() then 'standby' else 'primary' end, case when pg_is_in_recovery() then " +
            '(select received_tli from pg_stat_wal_receiver) else ' +
            "('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int end",
        );
        const [role = '', timeline = ''] = answer.split('|');
        const where = await host.sql(
          role === 'primary'
            ? "select pg_current_wal_flush_lsn(), '', (select string_agg(application_name || ' ' || state || ' ' || sync_state || ', flush ' || flush_lsn || ', replay ' || replay_lsn, '; ') from pg_stat_replication)"
            : "select pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn(), (select status || ' from ' || sender_host || ':' || sender_port from pg_stat_wal_receiver)",
        );
        return [host.name, role, timeline, ...where.split('|')];
      }),
    );
    process.stdout.write(`${table(['server', 'role', 'timeline', 'WAL', 'replayed', 'link'], positions)}\n`);

    this.#print.heading('the proof: all three servers compared, with PostgreSQL’s own programs');
    this.#quiet = true;
    const { acknowledged } = this.#bookkeeper;
    const wrong = await prove(ordered, {
      acknowledged,
      done: this.#pgbench.done,
      unknown: this.#pgbench.unknown,
      tell: (text) => this.#print.line(text),
    });
    for (const problem of wrong.slice(0, 20)) this.#print.line(`WRONG: ${problem}`);
    process.stdout.write(`\n${table(phaseColumns, this.#rows)}\n`);
    const verdict =
      wrong.length === 0 ? 'nothing is missing, nothing is doubled' : `${wrong.length} differences`;
    process.stdout.write(
      `\n${this.#pgbench.done + acknowledged.length} transactions acknowledged by PostgreSQL, ${verdict}.\n`,
    );
    if (this.#keep) process.stdout.write(`Servers' data, logs and configurations are in ${this.#base}.\n`);
    return wrong.length === 0 ? 0 : 1;
  }
}

// Hosts that die, each a node and its server: who takes over has every transaction that was acknowledged, and who returns
// follows, unattended.
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, expect, it } from 'vitest';
import { assertBuilt } from '../../lib/process.js';
import { background, binDirOf, remove, Server, scratch, sleep, until } from './support.js';

const program = fileURLToPath(new URL('host.mjs', import.meta.url));
const names = ['a', 'b', 'c'];

class Host {
  readonly name: string;
  readonly server: Server;
  readonly #options: object;
  #child: ChildProcess | undefined;
  said = '';

  constructor(dir: string, name: string, server: Server, bin: string, ports: number) {
    this.name = name;
    this.server = server;
    const index = names.indexOf(name);
    this.#options = {
      dir: join(dir, `log-${name}`),
      nodeId: name,
      cluster: { id: 'pg', secret: 'a secret of the cluster' },
      listen: `127.0.0.1:${ports + index}`,
      transport: 'tcp',
      log: { zeroFill: false },
      commitRule: { level: 'flushed', any: 1 },
      server: { conninfo: server.conninfo },
      serve: { directory: dir, port: 6000 + index },
      manage: { dataDir: server.data, binDir: bin, logFile: join(server.dir, 'log') },
      failover: {
        listen: `127.0.0.1:${ports + 10 + index}`,
        coordinator: { kind: 'embedded', path: join(dir, 'coordinator') },
        bootstrap: index === 0,
      },
    };
  }

  get alive(): boolean {
    return this.#child !== undefined;
  }

  start(): void {
    const child = spawn(process.execPath, [program, JSON.stringify(this.#options)], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (text) => {
        this.said += String(text);
      });
    }
    this.#child = child;
  }

  async killNode(): Promise<void> {
    const child = this.#child;
    this.#child = undefined;
    if (!child) return;
    const ended = new Promise((resolve) => child.once('close', resolve));
    child.kill('SIGKILL');
    await ended;
  }

  killServer(): void {
    const pid = Number(readFileSync(join(this.server.data, 'postmaster.pid'), 'utf8').split('\n')[0]);
    const children = execFileSync('pgrep', ['-P', String(pid)])
      .toString()
      .trim()
      .split('\n')
      .map(Number);
    for (const each of [pid, ...children]) {
      try {
        process.kill(each, 'SIGKILL');
      } catch {
        // A backend whose client has left.
      }
    }
  }
}

let dir = '';
let hosts: Host[] = [];
afterEach(async () => {
  for (const host of hosts) await host.killNode();
  for (const { server } of hosts) await server.stop().catch(() => {});
  hosts = [];
  if (dir !== '') await remove(dir);
});

async function cluster(major: number): Promise<void> {
  assertBuilt();
  const bin = binDirOf(major) as string;
  dir = await scratch();
  // So that everybody's node can make its files there.
  const ports = 20_000 + (process.pid % 2000) * 20;
  for (const name of names) {
    const server = await Server.create(dir, name, bin);
    hosts.push(new Host(dir, name, server, bin, ports));
  }
  const [first] = hosts as [Host];
  await first.server.init({ synchronous_commit: 'on', wal_log_hints: 'on' });
  await first.server.start();
  await first.server.sql('create table mark (client int, n int)');
  await first.server.stop('fast');
  first.start();
  await until('the first server runs', () => first.server.sql('select 1').catch(() => undefined));
  for (const host of hosts.slice(1)) {
    await host.server.cloneFrom(first.server, 'host=/nowhere');
    host.start();
  }
}

const everybody = () =>
  `host=${hosts.map(({ server }) => server.dir).join(',')} user=postgres dbname=postgres connect_timeout=2`;

/** Writes one number after the other wherever the primary is, and keeps what was acknowledged. */
class Writer {
  readonly acknowledged: { n: number; at: number; by: string }[] = [];
  #stopped = false;
  #running: Promise<void> | undefined;
  readonly #client: number;

  constructor(client: number) {
    this.#client = client;
  }

  start(): void {
    this.#running = this.#run();
  }

  async #run(): Promise<void> {
    const server = (hosts[0] as Host).server;
    for (let n = 1; !this.#stopped; n++) {
      try {
        const text = `insert into mark values (${this.#client}, ${n}) returning current_setting('data_directory')`;
        const by = await server.psql(`${everybody()} target_session_attrs=read-write`, text, 5000);
        this.acknowledged.push({ n, at: performance.now(), by });
      } catch {
        await sleep(10);
      }
    }
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#running;
  }

  /** When the first one after `at` was acknowledged, by another server than `not`. */
  since(at: number, not = ''): Promise<number> {
    return until(
      'a transaction is acknowledged',
      () => this.acknowledged.find((each) => each.at > at && each.by !== not)?.at,
      60_000,
    );
  }
}

async function primary(): Promise<Host> {
  return await until('there is a primary', async () => {
    for (const host of hosts) {
      if (!host.alive) continue;
      const answer = await host.server.sql('select pg_is_in_recovery()', 2000).catch(() => 't');
      if (answer === 'f') return host;
    }
    return undefined;
  });
}

/** Until every other server streams on the primary's timeline; a deposed one may look like a primary for a moment. */
async function following(): Promise<void> {
  await until(
    'every server follows the newest timeline',
    async () => {
      const chief = await primary();
      const ask = (host: Host, text: string) => host.server.sql(text, 2000).catch(() => undefined);
      const timeline = await ask(
        chief,
        "select ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int",
      );
      const others = hosts.filter((host) => host !== chief);
      const seen = await Promise.all(
        others.map((host) => ask(host, 'select status, received_tli from pg_stat_wal_receiver')),
      );
      return seen.every((each) => each === `streaming|${timeline}`);
    },
    60_000,
  );
}

/** What is killed, in turn. */
const faults: Record<string, (chief: Host, other: Host) => Promise<void>> = {
  async 'the host of the primary'(chief) {
    chief.killServer();
    await chief.killNode();
  },
  async 'the primary server'(chief) {
    chief.killServer();
  },
  // Whoever has died alone is started again, as a service manager would.
  async 'the node of the primary'(chief) {
    await chief.killNode();
    await sleep(300);
    chief.start();
  },
  async 'a standby server'(_, other) {
    other.killServer();
  },
  async 'the node of a standby'(_, other) {
    await other.killNode();
    await sleep(300);
    other.start();
  },
};

it('servers, nodes and hosts die under load: nothing acknowledged is lost, and all return by themselves', {
  timeout: 3_000_000,
}, async () => {
  await cluster(15);
  await following();
  const [first] = hosts as [Host];
  await first.server.pgbench(['-i', '-s', '1', '-q']);
  const writer = new Writer(1);
  writer.start();
  const times: number[] = [];
  const rounds = Number(process.env['WALSHIP_POSTGRES_KILLS'] ?? 5);
  const only = process.env['WALSHIP_POSTGRES_FAULT'];
  let now = '';
  try {
    for (let round = 0; round < rounds; round++) {
      const chief = await primary();
      const other = hosts.find((host) => host !== chief) as Host;
      const load = background('/usr/lib/postgresql/15/bin/pgbench', [
        ...['-h', chief.server.dir, '-U', 'postgres', '-N', '-c', '4', '-T', '60', '-n', 'postgres'],
      ]);
      await sleep(500 + 500 * Math.random());
      await writer.since(performance.now());
      now = only ?? (Object.keys(faults)[round % Object.keys(faults).length] as string);
      const at = performance.now();
      await faults[now]?.(chief, other);
      if (now === 'the host of the primary') {
        times.push((await writer.since(at, chief.server.data)) - at);
        chief.start();
      } else {
        await writer.since(performance.now() + 100);
      }
      await load.stop();
      await following();
    }
  } catch (error) {
    const said = hosts
      .flatMap(({ name, said: text }) =>
        text.split('\n').map((line) => `${line.slice(8, 14)} ${name}${line.slice(18, 600)}`),
      )
      .filter((line) => /postgres-server|primary:|deposed|lease/.test(line))
      .sort()
      .slice(-150)
      .join('\n');
    const logs = await Promise.all(
      hosts.map(async ({ name, server }) => `${name}: ${(await server.log()).slice(-1500)}`),
    );
    throw new Error(`after the death of ${now}: ${error}\n${said}\n${logs.join('\n')}`);
  } finally {
    await writer.stop();
  }
  const chief = await primary();
  const end = BigInt(await chief.server.sql("select pg_current_wal_flush_lsn() - '0/0'"));
  for (const { server } of hosts) {
    if (server !== chief.server) {
      await until('it has replayed all', async () => {
        return BigInt(await server.sql("select pg_last_wal_replay_lsn() - '0/0'")) >= end;
      });
    }
    const rows = (await server.sql('select n, count(*) from mark group by n')).split('\n');
    expect(rows.every((row) => row.endsWith('|1'))).toBe(true);
    const there = new Set(rows.map((row) => Number(row.split('|')[0])));
    expect(writer.acknowledged.filter(({ n }) => !there.has(n))).toEqual([]);
  }
  times.sort((x, y) => x - y);
  const at = (share: number) =>
    times[Math.min(times.length - 1, Math.floor(share * times.length))]?.toFixed(0);
  console.log(
    `${rounds} killed, ${times.length} hosts among them: first transaction through the promoted server after ` +
      `p50 ${at(0.5)} ms, p99 ${at(0.99)} ms; ${writer.acknowledged.length} acknowledged, none lost`,
  );
});

// Hosts that die whole, each a PostgreSQL server and the process that keeps it available.
import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process';
import { once } from 'node:events';
import { until } from '../../test/databases/postgres/support.js';
import type { Etcd } from '../../test/lib/etcd.js';
import { killServer } from '../lib/server.js';
import { query } from './writer.js';

export interface HostCommand {
  readonly program: string;
  readonly args: readonly string[];
  readonly options?: SpawnOptions;
}

export class DatabaseHost {
  readonly name: string;
  readonly dataDir: string;
  /** Its server, as a superuser. */
  readonly conninfo: string;
  readonly #command: HostCommand;
  #child: ChildProcess | undefined;
  #said = '';

  constructor(name: string, dataDir: string, conninfo: string, command: HostCommand) {
    this.name = name;
    this.dataDir = dataDir;
    this.conninfo = conninfo;
    this.#command = command;
  }

  /** The last of what its process has said. */
  get said(): string {
    return this.#said.slice(-3000);
  }

  start(): void {
    const { program, args, options = {} } = this.#command;
    const child = spawn(program, args, { ...options, stdio: ['ignore', 'pipe', 'pipe'] });
    for (const stream of [child.stdout, child.stderr]) {
      stream?.on('data', (text) => {
        this.#said = this.said + text;
      });
    }
    const end = () => {
      child.kill('SIGKILL');
      killServer(this.dataDir);
    };
    process.once('exit', end);
    child.once('close', () => process.off('exit', end));
    this.#child = child;
  }

  /** Everything of it, at once. */
  async kill(): Promise<void> {
    const child = this.#child;
    this.#child = undefined;
    const ended = child && child.exitCode === null && child.signalCode === null && once(child, 'close');
    child?.kill('SIGKILL');
    killServer(this.dataDir);
    await ended;
  }

  ask(text: string): Promise<string | undefined> {
    return query(this.conninfo, text, 2000).catch(() => undefined);
  }
}

/** Three hosts, and who decides which of them takes writes. */
export interface DatabaseCluster {
  /** Of its files. */
  readonly dir: string;
  readonly etcd: Etcd;
  readonly hosts: readonly DatabaseHost[];
  /** All of them for libpq. */
  readonly conninfo: string;
  start(): Promise<void>;
  /** Until every server follows the primary, and one may be promoted at once. */
  ready(): Promise<void>;
}

export async function primaryOf(hosts: readonly DatabaseHost[], timeoutMs: number): Promise<DatabaseHost> {
  return await until(
    'there is a primary',
    async () => {
      for (const host of hosts) if ((await host.ask('select pg_is_in_recovery()')) === 'f') return host;
      return undefined;
    },
    timeoutMs,
  );
}

/** Until every other server streams on the primary's timeline; a deposed one may look like a primary for a moment. */
export async function following(hosts: readonly DatabaseHost[], timeoutMs: number): Promise<void> {
  await until(
    'every server follows the newest timeline',
    async () => {
      const primary = await primaryOf(hosts, timeoutMs);
      const timeline = await primary.ask(
        "select ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int",
      );
      const others = hosts.filter((host) => host !== primary);
      const text = "select received_tli from pg_stat_wal_receiver where status = 'streaming'";
      const seen = await Promise.all(others.map((host) => host.ask(text)));
      return timeline !== undefined && seen.every((each) => each === timeline);
    },
    timeoutMs,
  );
}

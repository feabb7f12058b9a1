import { execFile, spawn } from 'node:child_process';
import { chownSync, existsSync, readdirSync } from 'node:fs';
import { appendFile, chmod, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);
const require = createRequire(import.meta.url);

/** Where the programs of a major version are; undefined: not on this host. */
export function binDirOf(major: number): string | undefined {
  const debian = `/usr/lib/postgresql/${major}/bin`;
  if (existsSync(join(debian, 'postgres'))) return debian;
  try {
    const bin = join(dirname(require.resolve(`postgres-${major}`)), '..', 'native', 'bin');
    return existsSync(join(bin, 'postgres')) ? bin : undefined;
  } catch {
    return undefined;
  }
}

// PostgreSQL refuses to run as root.
const asRoot = process.getuid?.() === 0;
const [uid, gid] = asRoot ? idsOf('postgres') : [process.getuid?.() ?? 0, process.getgid?.() ?? 0];

function idsOf(user: string): [number, number] {
  const line = require('node:fs')
    .readFileSync('/etc/passwd', 'utf8')
    .split('\n')
    .find((each: string) => each.startsWith(`${user}:`));
  if (!line) throw new Error(`the tests of PostgreSQL need an operating system user '${user}'`);
  const [, , id, group] = line.split(':');
  return [Number(id), Number(group)];
}

/** A folder that the servers may write to, in memory unless a place is given. */
export async function scratch(place = existsSync('/dev/shm') ? '/dev/shm' : '/tmp'): Promise<string> {
  const dir = await mkdtemp(join(place, 'walship-pg-'));
  chownSync(dir, uid, gid);
  await chmod(dir, 0o755);
  return dir;
}

// libpq looks for certificates in the home directory, and may not look into root's.
const environment = { ...process.env, HOME: '/' };

async function tool(program: string, args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<string> {
  const { stdout } = await run(program, args, {
    env: { ...environment, ...env, LC_ALL: 'C' },
    uid,
    gid,
    cwd: '/',
    maxBuffer: 64 << 20,
  });
  return stdout;
}

export const sleep = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

/** Polls until `look` gives something; throws with `what` after `timeoutMs`. */
export async function until<T>(
  what: string,
  look: () => Promise<T | undefined | false> | T | undefined | false,
  timeoutMs = 20_000,
): Promise<T> {
  const end = performance.now() + timeoutMs;
  for (;;) {
    const found = await look();
    if (found !== undefined && found !== false) return found;
    if (performance.now() > end) throw new Error(`${what}: not within ${timeoutMs} ms`);
    await sleep(20);
  }
}

/** One real PostgreSQL server, listening on a unix-domain socket in its own folder alone. */
export class Server {
  readonly dir: string;
  readonly data: string;
  readonly bin: string;

  private constructor(dir: string, bin: string) {
    this.dir = dir;
    this.data = join(dir, 'data');
    this.bin = bin;
  }

  get conninfo(): string {
    return `host=${this.dir} user=postgres`;
  }

  static async create(base: string, name: string, bin: string): Promise<Server> {
    const server = new Server(join(base, name), bin);
    await mkdir(server.dir);
    chownSync(server.dir, uid, gid);
    return server;
  }

  async init(settings: Record<string, string> = {}): Promise<void> {
    await tool(join(this.bin, 'initdb'), ['-D', this.data, '-U', 'postgres', '-A', 'trust', '-N', '-k']);
    await this.configure({
      listen_addresses: '',
      unix_socket_directories: this.dir,
      wal_level: 'replica',
      max_wal_senders: '10',
      wal_retrieve_retry_interval: '100ms',
      shared_buffers: '32MB',
      checkpoint_timeout: '30min',
      // A server that is killed leaves nothing outside of its folder.
      dynamic_shared_memory_type: 'mmap',
      ...settings,
    });
  }

  async configure(settings: Record<string, string>): Promise<void> {
    const lines = Object.entries(settings).map(([name, value]) => `${name} = '${value}'\n`);
    await appendFile(join(this.data, 'postgresql.conf'), lines.join(''));
  }

  async replaceHba(rules: string): Promise<void> {
    await writeFile(join(this.data, 'pg_hba.conf'), rules);
  }

  /** Becomes a copy of `primary`, to follow the walsender at `conninfo`. */
  async cloneFrom(primary: Server, conninfo: string, settings: Record<string, string> = {}): Promise<void> {
    if (existsSync(join(this.bin, 'pg_basebackup'))) {
      await this.baseBackup(primary.conninfo, ['-D', this.data, '-X', 'stream']);
    } else {
      // No such program beside it: a cold copy.
      await primary.stop('fast');
      await tool('cp', ['-a', primary.data, this.data]);
      await primary.start();
    }
    await this.follow(conninfo, settings);
  }

  /** pg_basebackup of the server or the walship node at `conninfo`; what it said. */
  baseBackup(conninfo: string, args: readonly string[]): Promise<string> {
    return tool(join(this.bin, 'pg_basebackup'), ['-d', conninfo, '-c', 'fast', ...args]);
  }

  /** From its next start on it is a standby. */
  async follow(conninfo: string, settings: Record<string, string> = {}): Promise<void> {
    await writeFile(join(this.data, 'standby.signal'), '');
    chownSync(join(this.data, 'standby.signal'), uid, gid);
    await this.configure({
      unix_socket_directories: this.dir,
      primary_conninfo: conninfo,
      synchronous_standby_names: '',
      hot_standby: 'on',
      ...settings,
    });
  }

  /** A role has to give its password on the unix-domain socket. */
  async trustNobody(role: string): Promise<void> {
    const file = join(this.data, 'pg_hba.conf');
    await writeFile(file, `local all ${role} scram-sha-256\n${await readFile(file, 'utf8')}`);
    await this.reload();
  }

  async start(): Promise<void> {
    await tool(join(this.bin, 'pg_ctl'), [
      '-D',
      this.data,
      '-l',
      join(this.dir, 'log'),
      '-w',
      '-t',
      '60',
      'start',
    ]);
  }

  async stop(mode: 'fast' | 'immediate' = 'immediate'): Promise<void> {
    if (!existsSync(join(this.data, 'postmaster.pid'))) return;
    await tool(join(this.bin, 'pg_ctl'), ['-D', this.data, '-w', '-m', mode, 'stop']);
  }

  async reload(): Promise<void> {
    await tool(join(this.bin, 'pg_ctl'), ['-D', this.data, 'reload']);
  }

  async promote(): Promise<void> {
    await tool(join(this.bin, 'pg_ctl'), ['-D', this.data, '-w', 'promote']);
  }

  /** Rows as psql prints them, columns separated by `|`. */
  sql(text: string, timeoutMs = 30_000): Promise<string> {
    return this.psql(`${this.conninfo} dbname=postgres`, text, timeoutMs);
  }

  async psql(conninfo: string, text: string, timeoutMs = 30_000): Promise<string> {
    const args = ['-X', '-q', '-A', '-t', '-v', 'ON_ERROR_STOP=1', '-d', conninfo, '-c', text];
    const { stdout } = await run(this.#client('psql'), args, {
      env: environment,
      uid,
      gid,
      cwd: '/',
      timeout: timeoutMs,
      maxBuffer: 64 << 20,
    });
    return stdout.trim();
  }

  pgbench(args: readonly string[]): Promise<string> {
    return tool(this.#client('pgbench'), ['-h', this.dir, '-U', 'postgres', ...args, 'postgres']);
  }

  /** Its log. */
  log(): Promise<string> {
    return readFile(join(this.dir, 'log'), 'utf8');
  }

  segments(): string[] {
    return readdirSync(join(this.data, 'pg_wal')).filter((name) => /^[0-9A-F]{24}$/.test(name));
  }

  #client(name: string): string {
    const own = join(this.bin, name);
    return existsSync(own) ? own : `/usr/lib/postgresql/15/bin/${name}`;
  }
}

/** A program of PostgreSQL that runs until it is told to stop, or by itself. */
export function background(program: string, args: readonly string[]) {
  const child = spawn(program, args, {
    uid,
    gid,
    cwd: '/',
    env: environment,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (text) => {
      output += String(text);
    });
  }
  const ended = new Promise<string>((resolve) => child.on('close', () => resolve(output)));
  return {
    pid: child.pid,
    /** Its output, when it has ended. */
    ended,
    stop(): Promise<string> {
      child.kill('SIGINT');
      return ended;
    },
  };
}

export async function remove(dir: string): Promise<void> {
  await rm(dir, { recursive: true, force: true });
}

/** Where the servers of a test may find what runs as another user. */
export { gid, uid };

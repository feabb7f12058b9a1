import { execFile } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import {
  appendFile,
  chown,
  copyFile,
  mkdir,
  readFile,
  rename,
  rm,
  truncate,
  writeFile,
} from 'node:fs/promises';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { WalshipError } from '../../engine/errors.js';
import { parseLsn } from '../../engine/lsn.js';
import { settled } from '../../engine/native.js';
import { nativePostgres } from './native.js';
import type { PostgresManage } from './options.js';

/** How a server is controlled, and reached by this node's own commands. */
export interface ManagedServer extends PostgresManage {
  readonly conninfo: string;
}

const run = promisify(execFile);
/** What a rewind or a clone takes over from the other server, and must not. */
const ownFiles = ['postgresql.conf', 'postgresql.auto.conf', 'pg_hba.conf', 'pg_ident.conf'];

/** One PostgreSQL server beside a node, by PostgreSQL's own programs. What it is and does is read from its files. */
export class PostgresServerControl {
  readonly settings: ManagedServer;
  /** `-c` settings that the server is started with. */
  readonly #parameters: Readonly<Record<string, string>>;

  constructor(settings: ManagedServer, parameters: Readonly<Record<string, string>>) {
    this.settings = settings;
    this.#parameters = parameters;
  }

  get advertised(): string {
    return this.settings.advertise ?? this.settings.conninfo;
  }

  /** By its lock file, whose first line is the process. */
  get isRunning(): boolean {
    try {
      const pid = Number(readFileSync(this.#file('postmaster.pid'), 'utf8').split('\n')[0]);
      // The number may be another process's by now, or that of one that is dead and not yet buried.
      return /^\d+ \(postgres\) [^ZX]/.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
    } catch {
      return false;
    }
  }

  /** It follows, or will when it is started. */
  get isStandby(): boolean {
    return existsSync(this.#file('standby.signal'));
  }

  /** There is a data directory. */
  get exists(): boolean {
    return existsSync(this.#file('PG_VERSION'));
  }

  /** It runs with what `start` gives it: not so if somebody else has started it. */
  get isOurs(): boolean {
    const options = readFileSync(this.#file('postmaster.opts'), 'utf8');
    return Object.entries(this.#parameters).every(([name, value]) => options.includes(`${name}=${value}`));
  }

  async start(): Promise<void> {
    const { logFile = `${this.settings.dataDir}.log`, configFile } = this.settings;
    const parameters = { ...(configFile && { config_file: configFile }), ...this.#parameters };
    const options = Object.entries(parameters).map(([name, value]) => `-c ${name}=${quoted(value)}`);
    try {
      await this.#control('start', '-l', logFile, '-o', options.join(' '));
    } catch (error) {
      const why = await lastComplaint(logFile);
      throw why === '' ? error : failed(`${(error as Error).message}: ${why}`);
    }
  }

  /**
   * Makes an empty database cluster, with checksums, reachable as `conninfo` says, and by this process's own user.
   *
   * @throws {WalshipError} `WALSHIP_ERR_POSTGRES_CONTROL`
   */
  async init(): Promise<void> {
    const { dataDir } = this.settings;
    const user = userInfo().username;
    await this.#makeRoom(dataDir);
    await this.#program(
      'initdb',
      '-D',
      dataDir,
      '-k',
      '-U',
      'postgres',
      '-A',
      'peer',
      '--auth-host=scram-sha-256',
    );
    await this.#listenAsSaid();
    const [hba, ident] = ['pg_hba.conf', 'pg_ident.conf'].map((name) => this.#file(name)) as [string, string];
    await this.#write(
      'pg_ident.conf',
      Buffer.from(`walship postgres postgres\nwalship ${user} postgres\n${await readFile(ident)}`),
    );
    const rules = ['all', 'replication'].map((what) => `local ${what} postgres peer map=walship\n`);
    await this.#write('pg_hba.conf', Buffer.from(`${rules.join('')}${await readFile(hba)}`));
  }

  /** `immediate`: as a crash; `fast`: after everything is written, and sent to walship. */
  async stop(mode: 'immediate' | 'fast'): Promise<void> {
    if (this.isRunning) await this.#control('stop', '-m', mode);
  }

  async promote(): Promise<void> {
    await this.#control('promote');
  }

  async sql(text: string): Promise<readonly (string | null)[]> {
    return await sqlAt(this.settings.conninfo, text, this.#timeoutMs);
  }

  /**
   * Makes it a standby of the newest timeline: what it has of its own beyond the other server's history is undone by
   * `pg_rewind`, which needs checksums or `wal_log_hints`; if that cannot be, the data directory is moved aside and made
   * anew by `pg_basebackup`. It must not run.
   *
   * @param from the primary server, as a connection string
   * @returns what was done, in a sentence
   * @throws {WalshipError} `WALSHIP_ERR_POSTGRES_CONTROL`: to be tried again
   */
  async follow(from: string): Promise<string> {
    await this.#expectPrimary(from);
    // pg_rewind takes the timeline from the control file, which says so after a checkpoint only.
    await sqlAt(from, 'checkpoint', this.#timeoutMs);
    const how = this.isRewinding
      ? await this.#replaced(from, 'it was not rewound to the end')
      : await this.#rewound(from);
    for (const name of readdirSync(this.#rewinding))
      await this.#write(name, await readFile(join(this.#rewinding, name)));
    await this.#write('standby.signal', Buffer.alloc(0));
    await this.#endRewind();
    return how;
  }

  /** What is in the data directory may be neither what it was nor what it is to be: no server can be started on it. */
  get isRewinding(): boolean {
    return existsSync(this.#rewinding);
  }

  async #rewound(from: string): Promise<string> {
    const { dataDir } = this.settings;
    try {
      await this.#recover();
      await this.#beginRewind();
      const said = await this.#program('pg_rewind', '-D', dataDir, `--source-server=${from} dbname=postgres`);
      if (/no rewind required/.test(said)) return 'it had nothing that the other has not';
      await this.#forgetTail();
      return 'rewound by pg_rewind';
    } catch (error) {
      const { message } = error as Error;
      // Its processes are dead, but not all gone yet, or the other server cannot be reached: this passes, nothing was
      // changed, and it is no reason to copy everything.
      if (/lock file|shared memory block|connection to server .* failed:/.test(message)) {
        await this.#endRewind();
        throw error;
      }
      if (!this.isRewinding) await this.#beginRewind();
      return await this.#replaced(from, message);
    }
  }

  async #replaced(from: string, why: string): Promise<string> {
    return `made anew by pg_basebackup, the old one is ${await this.#replace(from)}: ${why}`;
  }

  /** It holds this server's own files, which the other's take the place of, and is there until they are back. */
  get #rewinding(): string {
    return `${this.settings.dataDir}.rewinding`;
  }

  async #beginRewind(): Promise<void> {
    const made = `${this.#rewinding}.new`;
    await rm(made, { recursive: true, force: true });
    await mkdir(made, { mode: 0o700 });
    for (const name of ownFiles)
      if (existsSync(this.#file(name))) await copyFile(this.#file(name), join(made, name));
    await rename(made, this.#rewinding);
  }

  async #endRewind(): Promise<void> {
    await rm(this.#rewinding, { recursive: true, force: true });
  }

  /**
   * Recovers a server that was killed, with all of its WAL kept. pg_rewind would do it by itself, but the checkpoint that
   * such a recovery ends with removes what is older, and with it the last checkpoint that both servers have, from which
   * on pg_rewind has to read. As pg_rewind's own does, it leaves the sync to pg_rewind.
   */
  async #recover(): Promise<void> {
    const { dataDir, configFile } = this.settings;
    const state = await this.#program('pg_controldata', '-D', dataDir);
    if (/^Database cluster state: +shut down/m.test(state)) return;
    const settings = ['wal_keep_size=1TB', ...(configFile ? [`config_file=${configFile}`] : [])];
    const options = settings.flatMap((setting) => ['-c', setting]);
    await this.#program('postgres', '--single', '-F', '-D', dataDir, ...options, 'template1');
  }

  /** Makes the data directory, which is missing, as a standby of another server. */
  async clone(from: string): Promise<void> {
    await this.#expectPrimary(from);
    await this.#makeRoom(this.settings.dataDir);
    await this.#copy(from, this.settings.dataDir);
    // The settings are the other host's.
    await this.#listenAsSaid();
    await this.#write('standby.signal', Buffer.alloc(0));
  }

  /** A directory that the server's user may fill: a server refuses to run as root. */
  async #makeRoom(dir: string): Promise<void> {
    await mkdir(dir, { recursive: true, mode: 0o700 });
    if (process.getuid?.() !== 0) return;
    const above = statSync(join(dir, '..'));
    const { uid, gid } = above.uid === 0 ? await idsOf('postgres') : above;
    await chown(dir, uid, gid);
  }

  /** On the socket and the port that the node connects to, where the settings name any. */
  async #listenAsSaid(): Promise<void> {
    const said = (key: string) =>
      new RegExp(`(?:^|\\s)${key}\\s*=\\s*'?([^\\s']+)`).exec(this.settings.conninfo)?.[1];
    const [host, port] = [said('host'), said('port')];
    const reachedAt = /(?:^|\s)host\s*=\s*'?([^\s'/]+)/.exec(this.settings.advertise ?? '')?.[1];
    const lines = ['', '# By walship, as its own settings say.'];
    if (host?.startsWith('/')) lines.push(`unix_socket_directories = '${host}'`);
    if (port !== undefined) lines.push(`port = ${port}`);
    if (reachedAt !== undefined) lines.push(`listen_addresses = 'localhost, ${reachedAt}'`);
    if (lines.length > 2) await appendFile(this.#file('postgresql.conf'), `${lines.join('\n')}\n`);
  }

  async #expectPrimary(from: string): Promise<void> {
    const [recovering] = await sqlAt(from, 'select pg_is_in_recovery()', this.#timeoutMs);
    if (recovering !== 'f') throw failed(`the server at '${from}' is not the primary yet`);
  }

  async #copy(from: string, to: string): Promise<void> {
    await this.#program('pg_basebackup', '-D', to, '-d', from, '-c', 'fast', '-X', 'stream');
  }

  /**
   * pg_rewind keeps the WAL from the last common checkpoint on, and with it, in the segment where the timelines part, what
   * this server alone had written behind that place. Where the other server has no such segment of the new timeline any more,
   * recovery would read on in the old one: it is made to end where the timeline does, and goes on with what is streamed.
   */
  async #forgetTail(): Promise<void> {
    const dir = this.#file('pg_wal');
    const names = readdirSync(dir).sort();
    const newest = names.findLast((name) => /^[0-9A-F]{8}\.history$/.test(name));
    if (newest === undefined) return;
    for (const line of (await readFile(join(dir, newest), 'utf8')).split('\n')) {
      const [, timeline, lsn] = /^\s*(\d+)\s+([0-9A-F]+\/[0-9A-F]+)/.exec(line) ?? [];
      if (timeline === undefined || lsn === undefined) continue;
      const prefix = Number(timeline).toString(16).toUpperCase().padStart(8, '0');
      for (const name of names) {
        if (!name.startsWith(prefix) || !/^[0-9A-F]{24}$/.test(name)) continue;
        const file = join(dir, name);
        const { size } = statSync(file);
        const log = BigInt(`0x${name.slice(8, 16)}`) << 32n;
        const begin = log + BigInt(`0x${name.slice(16)}`) * BigInt(size);
        const kept = Number(parseLsn(lsn) - begin);
        if (kept <= 0) await rm(file);
        else if (kept < size) {
          await truncate(file, kept);
          await truncate(file, size); // zeros
        }
      }
    }
  }

  /** The data directory is replaced when the new one is whole; where the old one is then. */
  async #replace(from: string): Promise<string> {
    const { dataDir } = this.settings;
    const [made, aside] = [`${dataDir}.new`, `${dataDir}.aside`];
    await rm(made, { recursive: true, force: true });
    await this.#copy(from, made);
    await rm(aside, { recursive: true, force: true });
    await rename(dataDir, aside);
    await rename(made, dataDir);
    return aside;
  }

  async #write(name: string, content: Buffer): Promise<void> {
    const { uid, gid } = statSync(this.settings.dataDir);
    await writeFile(this.#file(name), content, { mode: 0o600 });
    if (process.getuid?.() === 0) await chown(this.#file(name), uid, gid);
  }

  async #control(command: string, ...args: string[]): Promise<void> {
    const wait = ['-w', '-t', String(Math.ceil(this.#timeoutMs / 1000))];
    await this.#program('pg_ctl', command, '-D', this.settings.dataDir, ...wait, ...args);
  }

  async #program(name: string, ...args: string[]): Promise<string> {
    // A server refuses to run as root.
    const { uid, gid } = statSync(this.settings.dataDir);
    try {
      const running = run(join(this.settings.binDir, name), args, {
        ...(process.getuid?.() === 0 && { uid, gid }),
        cwd: '/',
        env: { ...process.env, LC_ALL: 'C' },
      });
      running.child.stdin?.end();
      const { stdout, stderr } = await running;
      return stdout + stderr;
    } catch (error) {
      const {
        stderr = '',
        stdout = '',
        message,
      } = error as { stderr?: string; stdout?: string; message: string };
      const said = (stderr || stdout || message).trim().split('\n').slice(-3).join(' ');
      throw failed(`${name} ${args[0]}: ${said}${name === 'pg_ctl' ? "; more is in the server's log" : ''}`);
    }
  }

  get #timeoutMs(): number {
    return this.settings.timeoutMs ?? 60_000;
  }

  #file(name: string): string {
    return join(this.settings.dataDir, name);
  }
}

async function sqlAt(conninfo: string, text: string, timeoutMs: number) {
  return await settled(nativePostgres.queryPostgres(`${conninfo} dbname=postgres`, text, timeoutMs));
}

function failed(message: string): WalshipError {
  return new WalshipError('WALSHIP_ERR_POSTGRES_CONTROL', message);
}

const logTailBytes = 4096;

/** What a server's log ends with, as far as it says why the server has ended; empty if it does not. */
async function lastComplaint(file: string): Promise<string> {
  try {
    const lines = (await readFile(file, 'utf8')).slice(-logTailBytes).split('\n');
    return (
      lines.findLast((line) => /(FATAL|PANIC|ERROR):/.test(line))?.replace(/^.*?(?=FATAL|PANIC|ERROR)/, '') ??
      ''
    );
  } catch {
    return '';
  }
}

async function idsOf(user: string): Promise<{ uid: number; gid: number }> {
  const line = (await readFile('/etc/passwd', 'utf8'))
    .split('\n')
    .find((each) => each.startsWith(`${user}:`));
  const [, , uid, gid] = line?.split(':') ?? [];
  if (uid === undefined || gid === undefined)
    throw failed(
      `there is no user '${user}' on this host that a server could run as: install PostgreSQL's package`,
    );
  return { uid: Number(uid), gid: Number(gid) };
}

/** For `pg_ctl -o`, which a shell reads. */
function quoted(value: string): string {
  return `'${value.replaceAll("'", `'\\''`)}'`;
}

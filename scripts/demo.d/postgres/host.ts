// One host of the demonstration: a PostgreSQL server, and beside it `walship node` with a configuration file, as anybody
// would run them.
import { type ChildProcess, execFile, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { appendFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { AdminClient } from 'walship';

const run = promisify(execFile);
const main = fileURLToPath(new URL('../../../dist/cli/main.js', import.meta.url));
/** Debian's. */
export const binDir = '/usr/lib/postgresql/15/bin';

const linesKept = 15;
const asRoot = process.getuid?.() === 0;

/** A line of a node's log. */
export interface Said {
  readonly level: 'info' | 'warn' | 'error';
  readonly event: string;
  readonly message: string;
}

export class Host {
  readonly name: string;
  readonly dataDir: string;
  readonly logDir: string;
  readonly port: number;
  readonly #base: string;
  readonly #sockets: string;
  readonly #config: string;
  readonly #hear: (said: Said) => void;
  #node: ChildProcess | undefined;
  /** The last lines of the node's log. */
  #lines: string[] = [];

  /** @param hear gets every line of the node's log */
  constructor(base: string, name: string, port: number, first: boolean, hear: (said: Said) => void) {
    this.name = name;
    this.port = port;
    this.#base = base;
    this.#hear = hear;
    this.dataDir = join(base, name, 'data');
    this.logDir = join(base, name, 'log');
    this.#config = join(base, `${name}.toml`);
    this.#sockets = join(base, name);
    mkdirSync(this.#sockets);
    // A server refuses to run as root.
    if (asRoot) execFileSync('chown', ['postgres:', this.#sockets]);
    writeFileSync(
      this.#config,
      `node_id = "${name}"
dir = "${name}/log"
listen = "127.0.0.1:0"
commit_rule = { level = "flushed", any = 1 }
[cluster]
id = "demo"
secret_file = "secret"
[log]
retain_bytes = "1TiB"             # all of it is compared at the end
retain_bytes_max = 0
[failover]
listen = "127.0.0.1:0"
bootstrap = ${first}
fan_out = 1                       # a chain: every node ships to one other
suspect_ms = "1s"                 # three servers and their load share this machine: nobody is dead for having to wait for it
lease_ms = "4s"
[coordinator]
kind = "embedded"
path = "coordinator"
[postgres.server]
conninfo = "host=${this.#sockets} port=${port} user=postgres"
[postgres.serve]
directory = "."
port = ${port + 100}
[postgres.manage]
data_dir = "${name}/data"
bin_dir = "${binDir}"
log_file = "${name}/data/server.log"
`,
    );
  }

  /** For PostgreSQL's programs. */
  get conninfo(): string {
    return `host=${this.#sockets} port=${this.port} user=postgres dbname=postgres`;
  }

  /** For those that take no connection string. */
  get options(): string[] {
    return ['-h', this.#sockets, '-p', String(this.port), '-U', 'postgres'];
  }

  get up(): boolean {
    return this.#node !== undefined;
  }

  get nodePid(): number | undefined {
    return this.#node?.pid;
  }

  /** `walship postgres init`: what it prints. */
  async init(): Promise<string> {
    const { stdout } = await run(process.execPath, [main, 'postgres', 'init', '-c', this.#config]);
    // Nobody comes by TCP, a server that is killed leaves no shared memory behind, and little is written.
    const settings = [
      "listen_addresses = ''",
      'dynamic_shared_memory_type = mmap',
      "shared_buffers = '32MB'",
    ];
    appendFileSync(join(this.dataDir, 'postgresql.conf'), `${settings.join('\n')}\nmin_wal_size = '64MB'\n`);
    return stdout;
  }

  start(): void {
    const child = spawn(process.execPath, [main, 'node', '-c', this.#config, '--log-format', 'json'], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    this.#node = child;
    writeFileSync(join(this.#base, `${this.name}.pid`), String(child.pid));
    createInterface({ input: child.stdout }).on('line', (line) => {
      const said: Said = JSON.parse(line);
      this.#lines = [...this.#lines, said.message].slice(-linesKept);
      this.#hear(said);
    });
  }

  /** What its node and its server said last, for when the show does not go on. */
  lastWords(): string {
    const file = join(this.dataDir, 'server.log');
    const server = existsSync(file) ? readFileSync(file, 'utf8').trimEnd().split('\n').slice(-linesKept) : [];
    return [`${this.name}, node:`, ...this.#lines, `${this.name}, server:`, ...server].join('\n  ');
  }

  /** Node and server at once, as when the host loses power. */
  async kill(): Promise<void> {
    const node = this.#node;
    this.#node = undefined;
    // Stopped, the server can start nobody else while its processes are looked for.
    const server = this.serverPid();
    if (server !== undefined) process.kill(server, 'SIGSTOP');
    const backends = server === undefined ? [] : await childrenOf(server);
    for (const pid of [server, ...backends]) kill(pid);
    if (!node) return;
    const ended = once(node, 'exit');
    node.kill('SIGKILL');
    await ended;
  }

  /** SIGTERM to the node; its server goes on as a standby. */
  async stopNode(): Promise<void> {
    const node = this.#node;
    this.#node = undefined;
    if (!node) return;
    const ended = once(node, 'exit');
    node.kill('SIGTERM');
    await ended;
  }

  async stopServer(): Promise<void> {
    if (this.serverPid() !== undefined)
      await this.program('pg_ctl', 'stop', '-D', this.dataDir, '-m', 'fast', '-w');
  }

  serverPid(): number | undefined {
    const file = join(this.dataDir, 'postmaster.pid');
    if (!existsSync(file)) return undefined;
    return Number(readFileSync(file, 'utf8').split('\n')[0]);
  }

  /** Rows as psql prints them, columns separated by `|`. */
  async sql(text: string): Promise<string> {
    return await psql(this.conninfo, text);
  }

  /** One of PostgreSQL's programs, as the user that the server runs as. */
  program(name: string, ...args: string[]): Promise<string> {
    return program(join(binDir, name), args);
  }

  /** `walship …`, about this node. */
  async walship(...args: string[]): Promise<string> {
    const { stdout } = await run(process.execPath, [main, ...args], { maxBuffer: 1 << 30 });
    return stdout;
  }

  status() {
    return new AdminClient({ socket: join(this.logDir, 'walship.sock') }).status();
  }
}

/** Runs a program, as the user postgres if this is root: some refuse to be run by root. */
export async function program(file: string, args: readonly string[]): Promise<string> {
  const [command, ...all] = asRoot
    ? ['setpriv', '--reuid=postgres', '--regid=postgres', '--clear-groups', file, ...args]
    : [file, ...args];
  const { stdout, stderr } = await run(command as string, all, {
    cwd: '/',
    env: { ...process.env, LC_ALL: 'C' },
    maxBuffer: 1 << 30,
  });
  return stdout + stderr;
}

export async function psql(conninfo: string, text: string): Promise<string> {
  const args = ['-X', '-q', '-A', '-t', '-v', 'ON_ERROR_STOP=1', '-d', conninfo, '-c', text];
  const { stdout } = await run(join(binDir, 'psql'), args, { timeout: 20_000, maxBuffer: 1 << 28 });
  return stdout.trim();
}

async function childrenOf(pid: number): Promise<number[]> {
  const { stdout } = await run('ps', ['--ppid', String(pid), '-o', 'pid=']).catch(() => ({ stdout: '' }));
  return stdout.trim().split(/\s+/).filter(Boolean).map(Number);
}

function kill(pid: number | undefined): void {
  if (pid === undefined) return;
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It has ended meanwhile.
  }
}

// The walship command as a process: run to its end, or kept running as a node.
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { onTestFinished } from 'vitest';

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
export const secret = 'a secret of the command line tests';

/** In memory where that can be had: these tests are not about disks. */
export function scratch(): string {
  const { TMPDIR: wanted } = process.env;
  const base = wanted ?? (existsSync('/dev/shm') ? '/dev/shm' : tmpdir());
  const dir = mkdtempSync(join(base, 'walship-cli-'));
  onTestFinished(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

export interface Outcome {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
  readonly bytes: Buffer;
}

/** Runs a command to its end. */
export function walship(args: readonly string[], cwd = tmpdir()): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [main, ...args], {
      cwd,
      timeout: 30_000,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const [out, err]: [Buffer[], Buffer[]] = [[], []];
    child.stdout.on('data', (part: Buffer) => out.push(part));
    child.stderr.on('data', (part: Buffer) => err.push(part));
    child.on('error', reject);
    child.on('close', (code) => {
      const bytes = Buffer.concat(out);
      resolve({ code, stdout: bytes.toString(), stderr: Buffer.concat(err).toString(), bytes });
    });
  });
}

/** Runs a command until its output matches, then ends it; gives back what it has printed. */
export function walshipUntil(args: readonly string[], match: RegExp): Promise<string> {
  const child = spawn(process.execPath, [main, ...args], { timeout: 30_000 });
  let text = '';
  child.stdout.on('data', (part: Buffer) => {
    text += part;
    if (match.test(text)) child.kill();
  });
  return new Promise((resolve) => child.on('close', () => resolve(text)));
}

/** Small segments, so that a few MiB fill several files. */
export function writeConfig(
  dir: string,
  name: string,
  settings = '',
  tables = '',
  host = '127.0.0.1',
): string {
  const file = join(dir, `${name}.toml`);
  writeFileSync(
    file,
    `node_id = "${name}"
dir = "${name}"
listen = "${host}:0"
transport = "tcp"
${settings}
[cluster]
id = "cli"
secret = "${secret}"
[log]
page_bytes = "64KiB"
segment_bytes = "1MiB"
[arena]
bytes = "4MiB"
huge_pages = false
${tables}
`,
    { mode: 0o600 },
  );
  return file;
}

interface Line {
  readonly level: string;
  readonly event: string;
  readonly message: string;
  readonly port?: number;
  readonly node?: string;
}

/** Where a node lives: the address that it listens on, and a command to run it under, such as nsenter. */
export interface Place {
  readonly host: string;
  readonly prefix: readonly string[];
}

/** A `walship node` process and what it logs. */
export class NodeCommand {
  readonly name: string;
  readonly dir: string;
  readonly lines: Line[] = [];
  readonly #child: ChildProcess;
  /** The exit code. */
  readonly ended: Promise<number | null>;
  #text = '';
  errors = '';

  /** Returns once it has taken its role. */
  static async start(
    dir: string,
    name: string,
    settings = '',
    args: readonly string[] = [],
    tables = '',
    place: Place = { host: '127.0.0.1', prefix: [] },
  ): Promise<NodeCommand> {
    const config = writeConfig(dir, name, settings, tables, place.host);
    const node = new NodeCommand(dir, name, config, args, place.prefix);
    await node.said('role');
    return node;
  }

  private constructor(
    dir: string,
    name: string,
    config: string,
    args: readonly string[],
    prefix: readonly string[],
  ) {
    this.name = name;
    this.dir = join(dir, name);
    const node = [process.execPath, main, 'node', '-c', config, '--log-format', 'json', ...args];
    const [command, ...rest] = [...prefix, ...node];
    this.#child = spawn(command as string, rest);
    this.ended = new Promise((resolve) => this.#child.on('close', resolve));
    // A node that ends has not taken everything.
    this.#child.stdin?.on('error', () => {});
    this.#child.stdout?.on('data', (part: Buffer) => this.#take(part.toString()));
    this.#child.stderr?.on('data', (part: Buffer) => {
      this.errors += part;
    });
    onTestFinished(async () => {
      this.#child.kill('SIGKILL');
      await this.ended;
    });
  }

  get port(): number {
    return this.lines.find((line) => line.event === 'listening')?.port ?? 0;
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  write(bytes: Buffer): void {
    this.#child.stdin?.write(bytes);
  }

  endInput(): void {
    this.#child.stdin?.end();
  }

  /** The first line of this event; `count`: the so manieth. */
  async said(event: string, count = 1): Promise<Line> {
    let found: Line | undefined;
    await until(`${this.name} says ${event}`, () => {
      found = this.lines.filter((line) => line.event === event)[count - 1];
      if (!found && this.#child.exitCode !== null) throw new Error(`node ${this.name} ended: ${this.errors}`);
      return found !== undefined;
    });
    return found as Line;
  }

  /** The first line of this event whose message matches. */
  async saidThat(event: string, matches: RegExp): Promise<Line> {
    let found: Line | undefined;
    await until(`${this.name} says ${event}: ${matches}`, () => {
      found = this.lines.find((line) => line.event === event && matches.test(line.message));
      return found !== undefined;
    });
    return found as Line;
  }

  signal(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }

  /** Sends the signal and waits for the end; gives back the exit code. */
  stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<number | null> {
    this.#child.kill(signal);
    return this.ended;
  }

  #take(text: string): void {
    const lines = (this.#text + text).split('\n');
    this.#text = lines.pop() ?? '';
    for (const line of lines) this.lines.push(JSON.parse(line));
  }
}

/** Looks until it holds, for as long as a loaded machine may need. */
export async function until(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = Date.now() + 30_000;
  while (!(await holds())) {
    if (Date.now() > deadline) throw new Error(`timed out: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Bytes that say where they belong. */
export function pattern(length: number, seed: number): Buffer {
  const bytes = Buffer.alloc(length - (length % 4));
  for (let i = 0; i < bytes.length; i += 4) bytes.writeUInt32LE((i * 2654435761 + seed) >>> 0, i);
  return bytes;
}

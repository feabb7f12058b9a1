import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';

/** A program that runs beside the bench; ended by `end()`, or with the bench. */
export interface Running {
  /** Its exit code. */
  readonly ended: Promise<number | null>;
  output(): string;
  end(): Promise<void>;
}

export function start(command: readonly string[]): Running {
  const [tool = '', ...args] = command;
  const child = spawn(tool, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  const collect = (chunk: Buffer) => {
    output += chunk.toString();
  };
  child.stdout.on('data', collect);
  child.stderr.on('data', collect);
  const ended = new Promise<number | null>((resolve, reject) => {
    child.on('error', (error: NodeJS.ErrnoException) =>
      reject(
        error.code === 'ENOENT' ? new Error(`${tool} is not installed; scripts/setup installs it`) : error,
      ),
    );
    child.on('close', resolve);
  });
  // Whoever waits hears of it.
  ended.catch(() => {});
  const kill = () => child.kill('SIGKILL');
  process.on('exit', kill);
  ended.finally(() => process.off('exit', kill)).catch(() => {});
  return {
    ended,
    output: () => output,
    async end() {
      kill();
      await ended;
    },
  };
}

/** A tool that did not end in time, and was killed. */
export class Late extends Error {}

/**
 * Runs `client` beside `server` once that listens on TCP port `port`, and returns what the client printed.
 *
 * @throws {Late} when the client takes longer than `timeoutMs`
 */
export async function runPair(
  server: readonly string[],
  client: readonly string[],
  port: number,
  timeoutMs: number,
): Promise<string> {
  const serving = start(server);
  try {
    const deadline = Date.now() + timeoutMs;
    while (!isListening(port)) {
      const over = await Promise.race([serving.ended.then(() => true), delay(20, false)]);
      if (over || Date.now() > deadline) throw failure(server, serving.output());
    }
    const calling = start(client);
    const code = await Promise.race([calling.ended, delay(timeoutMs, 'late' as const, { ref: false })]);
    if (code === 'late') {
      await calling.end();
      throw new Late(`${client.join(' ')} did not end within ${timeoutMs / 1000} s`);
    }
    if (code !== 0) throw failure(client, `${calling.output()}\n${serving.output()}`);
    return calling.output();
  } finally {
    await serving.end();
  }
}

function failure(command: readonly string[], output: string): Error {
  return new Error(`${command.join(' ')} did not do its work:\n${output.slice(0, 2000)}`);
}

/** Asks the kernel, not the port: some servers take one connection only. */
function isListening(port: number): boolean {
  const suffix = `:${port.toString(16).toUpperCase().padStart(4, '0')}`;
  return ['/proc/net/tcp', '/proc/net/tcp6'].some((file) =>
    readFileSync(file, 'utf8')
      .split('\n')
      .some((line) => {
        const [, local, , state] = line.trim().split(/\s+/);
        return state === '0A' && local?.endsWith(suffix) === true;
      }),
  );
}

export async function freePort(address: string): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve, reject) => {
    server.on('error', reject);
    server.listen(0, address, resolve);
  });
  const bound = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (bound === null || typeof bound === 'string') throw new Error('no port');
  return bound.port;
}

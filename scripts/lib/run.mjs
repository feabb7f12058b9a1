import { spawn } from 'node:child_process';

/**
 * Runs a command in a process group of its own, shows its output as it comes and also keeps it. At the deadline
 * the whole group is ended, so that nothing it started outlives it.
 *
 * @param {string[]} command
 * @param {{ deadline: number, env?: Record<string, string> }} options deadline in ms of `performance.now()`
 * @returns {Promise<{ code: number, output: string }>} code 128 + n after signal n
 */
export function run(command, { deadline, env = {} }) {
  return new Promise((resolve) => {
    const [program = '', ...args] = command;
    const child = spawn(program, args, {
      detached: true,
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, ...env },
    });
    /** @type {Buffer[]} */
    const chunks = [];
    /** @param {NodeJS.Signals} signal */
    const end = (signal) => {
      try {
        if (child.pid !== undefined) process.kill(-child.pid, signal);
      } catch {
        // The group is gone already.
      }
    };
    /** @type {NodeJS.Timeout | undefined} */
    let killer;
    const timer = setTimeout(
      () => {
        end('SIGTERM');
        killer = setTimeout(() => end('SIGKILL'), 5_000);
      },
      Math.max(0, deadline - performance.now()),
    );
    const interrupted = () => {
      end('SIGTERM');
      process.exit(130);
    };
    process.once('SIGINT', interrupted);
    process.once('SIGTERM', interrupted);
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (/** @type {Buffer} */ chunk) => {
        chunks.push(chunk);
        process.stdout.write(chunk);
      });
    }
    let finished = false;
    /** @param {number} code @param {string} [message] */
    const finish = (code, message) => {
      if (finished) return;
      finished = true;
      clearTimeout(timer);
      clearTimeout(killer);
      end('SIGKILL');
      process.off('SIGINT', interrupted);
      process.off('SIGTERM', interrupted);
      resolve({ code, output: Buffer.concat(chunks).toString() + (message ?? '') });
    };
    child.on('error', (error) => finish(127, String(error)));
    child.on('exit', (code, signal) => {
      // A straggler that holds the pipes open must not hold up the run: what is written by now is all there is.
      setTimeout(() => finish(code ?? 128 + (signal === 'SIGKILL' ? 9 : 15)), 1_000).unref();
    });
    child.on('close', (code, signal) => finish(code ?? 128 + (signal === 'SIGKILL' ? 9 : 15)));
  });
}

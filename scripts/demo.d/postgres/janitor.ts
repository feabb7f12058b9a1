// Ends what the demonstration has started, when the conductor ends or dies: its end of a pipe is closed then.
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { removeScratch } from '../scratch.js';

const [, , base = '', keep = ''] = process.argv;

function numberIn(file: string): number | undefined {
  return existsSync(file) ? Number(readFileSync(file, 'utf8').split('\n')[0]) : undefined;
}

function signal(pid: number | undefined, name: 'SIGKILL' | 'SIGQUIT'): boolean {
  if (pid === undefined) return false;
  try {
    process.kill(pid, name);
    return true;
  } catch {
    return false; // There is none.
  }
}

const alive = (pid: number) => existsSync(`/proc/${pid}`);

async function tidy(): Promise<void> {
  // Nodes first: they would start their servers again.
  const nodes = readdirSync(base).filter((name) => name.endsWith('.pid'));
  for (const name of nodes) signal(numberIn(join(base, name)), 'SIGKILL');
  const servers = nodes
    .map((name) => numberIn(join(base, name.replace(/\.pid$/, ''), 'data', 'postmaster.pid')))
    .filter((pid) => pid !== undefined);
  for (const pid of servers) signal(pid, 'SIGQUIT');
  for (const until = Date.now() + 10_000; servers.some(alive) && Date.now() < until; )
    await new Promise((wake) => setTimeout(wake, 20));
  if (keep !== 'keep') removeScratch(base);
}

// Ctrl-C reaches every process in the terminal; this one ends when the work is done.
for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(name, () => {});
process.stdin.resume().on('end', () => void tidy());

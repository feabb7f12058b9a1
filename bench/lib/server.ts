// PostgreSQL servers that a bench has started.
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { scratch } from '../../test/databases/postgres/support.js';
import { memoryFolder } from './hosts.js';

/** Everything of the server with this data directory, at once: as it goes when its host dies. */
export function killServer(dataDir: string): void {
  for (const pid of processesOf(dataDir)) {
    try {
      process.kill(pid, 'SIGKILL');
    } catch {
      // It has ended meanwhile.
    }
  }
}

/** The postmaster, and whoever works for it. */
function processesOf(dataDir: string): number[] {
  try {
    const pid = Number(readFileSync(join(dataDir, 'postmaster.pid'), 'utf8').split('\n')[0]);
    // The number of one that died long ago may be another's by now.
    if (!readFileSync(`/proc/${pid}/comm`, 'utf8').startsWith('postgres')) return [];
    return [
      pid,
      ...execFileSync('pgrep', ['-P', String(pid)])
        .toString()
        .trim()
        .split('\n')
        .map(Number),
    ];
  } catch {
    return [];
  }
}

/** A fresh folder for servers below `parent`, in memory unless that is given. */
export async function serverScratch(parent: string | undefined): Promise<string> {
  if (parent !== undefined) mkdirSync(parent, { recursive: true });
  return await scratch(resolve(parent ?? memoryFolder));
}

// The files of databases that nodes have open, or had.
import { spawnSync } from 'node:child_process';
import Sqlite from 'better-sqlite3';
import { pause } from '../../lib/cluster.js';

/** Copies the WAL into the database file, which then is what the node has applied. */
export async function checkpoint(path: string): Promise<void> {
  const connection = new Sqlite(path);
  try {
    for (const until = performance.now() + 10_000; ; ) {
      const [state] = connection.pragma('wal_checkpoint(PASSIVE)') as [
        { busy: number; log: number; checkpointed: number },
      ];
      // busy: a checkpoint of the node's own is under way.
      if (state.busy === 0 && state.log === state.checkpointed) return;
      if (performance.now() > until) throw new Error(`no checkpoint of ${path}: ${JSON.stringify(state)}`);
      await pause(5);
    }
  } finally {
    connection.close();
  }
}

/**
 * Byte for byte; empty: there is none. By another process: closing a file here would end the locks that SQLite has on it
 * in this process.
 */
export function differenceOf(one: string, other: string): string {
  const { status, stdout, stderr } = spawnSync('cmp', [one, other], { encoding: 'utf8' });
  return status === 0 ? '' : `${stdout}${stderr}` || `cmp ended with ${status}`;
}

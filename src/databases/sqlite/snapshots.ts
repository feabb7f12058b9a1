// A node without any of the database can begin only at a snapshot in the log: one must always be there.
import { existsSync, renameSync } from 'node:fs';
import type { Lsn } from '../../engine/lsn.js';

export interface SnapshotFacts {
  /** The oldest LSN in the log. */
  readonly firstLsn: Lsn;
  /** Where the last snapshot of this run begins; 0 if there was none. */
  readonly snapshotLsn: Lsn;
  readonly databaseBytes: number;
  /** What the log keeps in any case. */
  readonly retainBytes: number;
}

/**
 * Whether the database has to go into the log whole, because the log is about to lose, or no longer has, what a new node
 * begins with. `too-large`: the log does not keep enough for that to help; it would be all snapshots.
 */
export function snapshotDue({
  firstLsn,
  snapshotLsn,
  databaseBytes,
  retainBytes,
}: SnapshotFacts): 'no' | 'yes' | 'too-large' {
  // The very beginning of the log holds the database from its first transaction on.
  if (firstLsn === 0n || firstLsn <= snapshotLsn) return 'no';
  return databaseBytes * 2 <= retainBytes ? 'yes' : 'too-large';
}

/** Renames a log that its node cannot go on from. @returns where it is now; undefined if there was none */
export function setLogAside(dir: string, now: Date): string | undefined {
  if (!existsSync(dir)) return undefined;
  const aside = `${dir}-${now.toISOString().replace(/[-:]|\.\d+/g, '')}`;
  renameSync(dir, aside);
  return aside;
}

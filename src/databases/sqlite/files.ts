import { constants, existsSync, rmSync } from 'node:fs';
import { copyFile, mkdtemp } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { WalshipError } from '../../engine/errors.js';
import type { Lsn } from '../../engine/lsn.js';
import { settled } from '../../engine/native.js';
import { loadSqlite } from './extension.js';
import {
  type NativeComparison,
  type NativeRestored,
  type NativeSqliteFiles,
  type SqliteLogSurvey,
  type SqliteSidecar,
  sqliteFiles,
} from './native.js';

/** The last transaction that is wanted: that ends at or below `lsn`, or before the first one committed after `timeUs`. */
export type RestoreTarget = { readonly lsn: Lsn } | { readonly timeUs: number };

export interface OfflineOptions {
  /** Called ten times a second while files are read; counts may be rough. */
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void;
}

/** What {@link restoreDatabase} made. */
export interface RestoredDatabase extends NativeRestored {
  /** What SQLite's integrity check says is wrong; empty if nothing is. */
  readonly integrity: readonly string[];
}

/** What {@link checkDatabase} found. */
export interface CheckedDatabase extends NativeComparison {
  readonly sidecar: SqliteSidecar;
  /** What SQLite's integrity check says is wrong; empty if nothing is. */
  readonly integrity: readonly string[];
}

/** What {@link inspectDatabase} found. */
export interface SqliteFacts {
  readonly sidecar: SqliteSidecar;
  readonly log: SqliteLogSurvey;
}

/**
 * Makes a new database file from a log directory, as the database was at `target`, or at the log's end. Reads the log
 * only, which may be in use.
 *
 * @throws {WalshipError} `WALSHIP_ERR_OUTPUT` (the file, or a WAL for it, exists, or cannot be written),
 * `WALSHIP_ERR_LOG_RANGE` (no transaction at or before the target, or the log ends before it), `WALSHIP_ERR_LOG_TRIMMED`
 * (no snapshot in the log before the target, and the log does not reach back far enough without one),
 * `WALSHIP_ERR_LOG_NOT_FOUND`, `WALSHIP_ERR_SQLITE_MISSING`
 */
export async function restoreDatabase(
  logDir: string,
  file: string,
  target?: RestoreTarget,
  options: OfflineOptions = {},
): Promise<RestoredDatabase> {
  const all = 2n ** 64n - 1n;
  const lsn = target && 'lsn' in target ? target.lsn : all;
  const timeUs = target && 'timeUs' in target ? BigInt(target.timeUs) : all;
  const restored = await reading(options, (files, progress) =>
    files.restoreSqlite(logDir, file, lsn, timeUs, progress),
  );
  return { ...restored, integrity: integrityOf(file) };
}

/**
 * Compares a database that nobody has open with its log: every page that the log knows, with what it was at the applied
 * LSN, or behind it if the WAL holds more; and runs SQLite's integrity check on a copy in the same directory.
 *
 * @throws {WalshipError} `WALSHIP_ERR_LOG_LOCKED` (a node has it open), `WALSHIP_ERR_SQLITE` (no such database),
 * `WALSHIP_ERR_LOG_RANGE` (the log holds no transaction), `WALSHIP_ERR_LOG_NOT_FOUND`, `WALSHIP_ERR_SQLITE_MISSING`
 */
export async function checkDatabase(
  database: string,
  logDir: string,
  options: OfflineOptions = {},
): Promise<CheckedDatabase> {
  mustExist(database);
  const comparison = await reading(options, (files, progress) =>
    files.compareSqlite(database, logDir, progress),
  );
  const sidecar = await reading({}, (files) => files.inspectSidecar(database));
  return { ...comparison, sidecar, integrity: await integrityOfCopy(database) };
}

/**
 * What the files of a database and its log say; changes nothing. Reads all of the log.
 *
 * @throws {WalshipError} `WALSHIP_ERR_SQLITE` (no such database), `WALSHIP_ERR_LOG_NOT_FOUND`,
 * `WALSHIP_ERR_SQLITE_MISSING`
 */
export async function inspectDatabase(
  database: string,
  logDir: string,
  options: OfflineOptions = {},
): Promise<SqliteFacts> {
  mustExist(database);
  const sidecar = await reading({}, (files) => files.inspectSidecar(database));
  const log = await reading(options, (files, progress) => files.surveySqliteLog(logDir, progress));
  return { sidecar, log };
}

function mustExist(database: string): void {
  if (!existsSync(database)) throw new WalshipError('WALSHIP_ERR_SQLITE', `${database} does not exist`);
}

async function reading<T>(
  { onProgress }: OfflineOptions,
  work: (files: NativeSqliteFiles, progress: BigUint64Array) => Promise<T>,
): Promise<T> {
  const files = sqliteFiles();
  const progress = new BigUint64Array(2);
  const report = () => onProgress?.(Number(progress[0]), Number(progress[1]));
  const timer = onProgress && setInterval(report, 100);
  try {
    return await settled(work(files, progress));
  } finally {
    clearInterval(timer);
  }
}

/**
 * SQLite may make, recover and remove files beside the database, which a check must not. The copy loses its name as soon
 * as SQLite has it open, so that nothing is left of it whatever ends the process.
 */
async function integrityOfCopy(database: string): Promise<string[]> {
  const scratch = await mkdtemp(join(dirname(database), '.walship-check-'));
  const remove = () => rmSync(scratch, { recursive: true, force: true });
  const stop = (signal: NodeJS.Signals) => {
    remove();
    release();
    // To whoever else listens, it has come already.
    if (process.listenerCount(signal) === 0) process.kill(process.pid, signal);
  };
  const release = () => {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.off(signal, stop);
  };
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, stop);
  try {
    const copy = join(scratch, basename(database));
    for (const suffix of ['', '-wal']) {
      if (existsSync(database + suffix))
        await copyFile(database + suffix, copy + suffix, constants.COPYFILE_FICLONE);
    }
    return integrityOf(copy, () => {
      remove();
      // The check that follows keeps JavaScript from running: a signal must end the process by itself.
      release();
    });
  } finally {
    release();
    remove();
  }
}

function integrityOf(file: string, opened?: () => void): string[] {
  const Sqlite = loadSqlite();
  try {
    const database = new Sqlite(file, { fileMustExist: true });
    try {
      database.pragma('schema_version'); // opens the WAL, too
      opened?.();
      const rows = database.pragma('integrity_check') as { integrity_check: string }[];
      const lines = rows.map((row) => row.integrity_check);
      return lines.length === 1 && lines[0] === 'ok' ? [] : lines;
    } finally {
      database.close();
    }
  } catch (error) {
    return [(error as Error).message];
  }
}

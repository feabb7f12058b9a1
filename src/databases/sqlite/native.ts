import { native } from '../../engine/native.js';
import { loadSqlite } from './extension.js';

/** A transaction as the log of a SQLite database holds it. */
export interface LoggedTransaction {
  readonly startLsn: bigint;
  /** Behind its last byte. */
  readonly lsn: bigint;
  /** Wall clock of the primary when it saw the commit, in µs since 1970. */
  readonly timeUs: number;
  readonly pageBytes: number;
  /** The database's size after it. */
  readonly databasePages: number;
}

/** What the log of a SQLite database holds. */
export interface SqliteLogSurvey {
  readonly firstLsn: bigint;
  readonly endLsn: bigint;
  /** A process has the log open. */
  readonly inUse: boolean;
  readonly transactions: number;
  /** Absent while there is none. */
  readonly first?: LoggedTransaction;
  readonly last?: LoggedTransaction;
  /** The whole database is in the log there. */
  readonly snapshots: readonly LoggedTransaction[];
}

/** What the file `<database>-walship` says. */
export interface SqliteSidecar {
  /** `none`: walship has not had this database yet. */
  readonly role: 'none' | 'primary' | 'standby';
  /** Durably in the database's files; a node that runs may have applied more. */
  readonly appliedLsn: bigint;
  readonly closedCleanly: boolean;
  /** Closed cleanly, and the files are as they were then. */
  readonly untouched: boolean;
}

export interface NativeRestored {
  readonly reached: LoggedTransaction;
  /** Where the replay began: at a snapshot, or at the log's start. */
  readonly baseLsn: bigint;
  readonly fromSnapshot: boolean;
  /** Replayed on top of it. */
  readonly transactions: number;
}

export interface NativeComparison {
  readonly pageBytes: number;
  readonly databasePages: number;
  /** Of whole transactions, in the WAL file. */
  readonly walFrames: number;
  /** Pages; the others are older than the log, or of {@link uncaptured} transactions. */
  readonly compared: number;
  /** Transactions in the WAL of a primary that was killed before they came into the log; its next start appends them. */
  readonly uncaptured: number;
  /** The state in the log that the database is, or comes closest to. */
  readonly closest: LoggedTransaction;
  readonly loggedPages: number;
  readonly differentCount: number;
  /** Pages that are not what the log says: the first 1,000. */
  readonly different: readonly number[];
}

/** Of the files of databases and logs that nobody needs to have open (native/addon/sqlite_files.cc). */
export interface NativeSqliteFiles {
  surveySqliteLog(logDir: string, progress: BigUint64Array): Promise<SqliteLogSurvey>;
  restoreSqlite(
    logDir: string,
    file: string,
    toLsn: bigint,
    toTimeUs: bigint,
    progress: BigUint64Array,
  ): Promise<NativeRestored>;
  compareSqlite(database: string, logDir: string, progress: BigUint64Array): Promise<NativeComparison>;
  inspectSidecar(database: string): Promise<SqliteSidecar>;
}

/** @throws {WalshipError} `WALSHIP_ERR_SQLITE_MISSING` */
export function sqliteFiles(): NativeSqliteFiles {
  loadSqlite(); // or says that the addon was built without
  return native as unknown as NativeSqliteFiles;
}

import type Database from 'better-sqlite3';
import type { WalshipError } from '../../engine/errors.js';

type Call = (...args: unknown[]) => unknown;

/**
 * Makes a read-only database answer writes with `refusal()` instead of SQLite's own, shorter message. Statements may be
 * prepared: only running them is refused.
 */
export function refuseWrites(database: Database.Database, refusal: () => WalshipError): Database.Database {
  const prepare = database.prepare.bind(database) as Call;
  const guard = (owner: object, name: string, call: Call): void => {
    Object.defineProperty(owner, name, {
      value: (...args: unknown[]) => {
        try {
          return call(...args);
        } catch (error) {
          throw isReadOnly(error) ? refusal() : error;
        }
      },
    });
  };
  guard(database, 'exec', database.exec.bind(database) as Call);
  guard(database, 'pragma', database.pragma.bind(database) as Call);
  Object.defineProperty(database, 'prepare', {
    value: (source: string) => {
      const statement = prepare(source) as Database.Statement;
      if (!statement.readonly) {
        for (const name of ['run', 'get', 'all'] as const)
          guard(statement, name, statement[name].bind(statement) as Call);
        const iterate = statement.iterate.bind(statement) as Call;
        guard(statement, 'iterate', (...args) => {
          // SQLite says no at the first step only.
          const rows = iterate(...args) as IterableIterator<unknown>;
          guard(rows, 'next', rows.next.bind(rows) as Call);
          return rows;
        });
      }
      return statement;
    },
  });
  return database;
}

// What stands in quotes or a comment is no statement; the mode itself may be quoted.
const changesJournalMode =
  /'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|\/\*[\s\S]*?\*\/|\bpragma\s+(?:("?)main\1\s*\.\s*)?journal_mode\s*[=(]\s*['"]?(\w+)/gi;

/**
 * Makes a database refuse at once to leave WAL mode, which SQLite itself refuses after it has waited for walship's own
 * connections.
 */
export function keepWalMode(database: Database.Database, refusal: () => WalshipError): Database.Database {
  const guard = (name: 'exec' | 'pragma' | 'prepare', prefix: string): void => {
    const call = database[name].bind(database) as Call;
    Object.defineProperty(database, name, {
      // Of its own: prepare() is replaced again on a standby.
      configurable: true,
      value: (source: string, ...rest: unknown[]) => {
        if (typeof source === 'string' && /journal_mode/i.test(source)) {
          for (const [, , mode] of `${prefix}${source}`.matchAll(changesJournalMode))
            if (mode !== undefined && mode.toLowerCase() !== 'wal') throw refusal();
        }
        return call(source, ...rest);
      },
    });
  };
  guard('exec', '');
  guard('prepare', '');
  guard('pragma', 'pragma ');
  return database;
}

function isReadOnly(error: unknown): boolean {
  const code = (error as { code?: unknown } | null)?.code;
  return typeof code === 'string' && code.startsWith('SQLITE_READONLY');
}

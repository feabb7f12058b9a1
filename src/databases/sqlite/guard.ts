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

function isReadOnly(error: unknown): boolean {
  const code = (error as { code?: unknown } | null)?.code;
  return typeof code === 'string' && code.startsWith('SQLITE_READONLY');
}

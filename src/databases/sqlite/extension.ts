import { createRequire } from 'node:module';
import type Database from 'better-sqlite3';
import { WalshipError } from '../../engine/errors.js';
import { addonPath, native } from '../../engine/native.js';

type DatabaseConstructor = typeof Database;

let loaded: DatabaseConstructor | undefined;

/**
 * better-sqlite3, with the addon loaded into its SQLite as an extension: once per process, and for good.
 *
 * @throws {WalshipError} `WALSHIP_ERR_SQLITE_MISSING`
 */
export function loadSqlite(): DatabaseConstructor {
  if (loaded) return loaded;
  let Sqlite: DatabaseConstructor;
  try {
    Sqlite = createRequire(import.meta.url)('better-sqlite3') as DatabaseConstructor;
  } catch (cause) {
    throw new WalshipError(
      'WALSHIP_ERR_SQLITE_MISSING',
      'better-sqlite3 cannot be loaded: npm install better-sqlite3, then npm rebuild walship',
      { cause },
    );
  }
  if (!native.openReplica) {
    throw new WalshipError(
      'WALSHIP_ERR_SQLITE_MISSING',
      'the addon was built without better-sqlite3: npm install better-sqlite3, then npm rebuild walship',
    );
  }
  const carrier = new Sqlite(':memory:');
  try {
    carrier.loadExtension(addonPath());
  } finally {
    carrier.close();
  }
  loaded = Sqlite;
  return Sqlite;
}

import type { Command } from 'commander';
import { does, target } from './command.js';

/** `walship sqlite …` and `walship postgres …` */
export function addDatabaseCommands(program: Command): void {
  addSqlite(program);
  addPostgres(program);
}

function addSqlite(program: Command): void {
  const sqlite = program
    .command('sqlite')
    .description('Works on the files of a replicated SQLite database, without a running node.');

  sqlite
    .command('status')
    .description('Shows what is known of a database and its log: applied LSN, last commit, WAL, snapshots.')
    .argument('<database>', 'the database file')
    .option('--log <dir>', "the log's directory (default: the database file's name with -log behind it)")
    .option('--json', 'as JSON; LSNs are decimal text, times are µs since 1970')
    .addHelpText(
      'after',
      `
Reads the whole log and changes nothing, also while a node runs. What a running node has applied since its last
checkpoint is known to the node alone.

Example:
  $ walship sqlite status /var/lib/app/app.db`,
    )
    .action(does(async (database, options) => (await import('./sqlite.js')).status(database, options)));

  sqlite
    .command('restore')
    .description('Makes a new database file from a log, as it was at an LSN or a time.')
    .argument('<dir>', "the log's directory")
    .argument('<file>', 'the database file to make; nothing is overwritten')
    .option(
      '--to <target>',
      'the last transaction wanted: an LSN, or a time (default: the end of the log)',
      target,
    )
    .option('--json', 'as JSON; LSNs are decimal text, times are µs since 1970')
    .addHelpText(
      'after',
      `
With an LSN: every transaction that ends at or below it. With a time: every transaction before the first one that was
committed later, by the clock of its primary. The log is only read, also while a node runs. Restoring begins at the last
snapshot in the log before that, so the log must hold one, or reach back to the database's first transaction.
Exit code 4 if SQLite's integrity check finds something wrong in the new file.

Examples:
  $ walship sqlite restore /var/lib/app/app.db-log before.db --to 2026-05-01T12:30:00Z
  $ walship sqlite restore /var/lib/app/app.db-log before.db --to 0/16B3740`,
    )
    .action(does(async (dir, file, options) => (await import('./sqlite.js')).restore(dir, file, options)));

  sqlite
    .command('check')
    .description('Compares a database, page by page, with what its log says, and runs the integrity check.')
    .argument('<database>', 'the database file')
    .option('--log <dir>', "the log's directory (default: the database file's name with -log behind it)")
    .option('--json', 'as JSON; LSNs are decimal text, times are µs since 1970')
    .addHelpText(
      'after',
      `
Stop the node first. Nothing is changed: the integrity check runs on a copy, which needs as much room as the database,
in the same directory. A copy of a replicated database, or a restored one, may be checked against any node's log.
Exit code 4 if there are differences, with the numbers of the pages.

Examples:
  $ walship sqlite check /var/lib/app/app.db
  $ walship sqlite check before.db --log /var/lib/app/app.db-log`,
    )
    .action(does(async (database, options) => (await import('./sqlite.js')).check(database, options)));
}

function addPostgres(program: Command): void {
  const postgres = program
    .command('postgres')
    .description('Works on the PostgreSQL server beside a node, as [postgres…] in its configuration says.');
  const config = ['-c, --config <file>', 'configuration file of the node', 'walship.toml'] as const;

  postgres
    .command('init')
    .description('Makes the database that a new cluster begins with, or checks the one that is there.')
    .option(...config)
    .addHelpText(
      'after',
      `
Without a data directory: an empty database cluster is made by initdb, with checksums, listening where
[postgres.server] says, and open to the user postgres and to the one who runs this. With one: nothing is changed; the
server is asked what it has, and started for that if it does not run. What is wrong is said with what to do about it; exit
code 4 if walship could not work with it. Do this on the node with bootstrap = true only.

Example:
  $ walship postgres init --config /etc/walship/a.toml`,
    )
    .action(does(async (options) => (await import('./postgres.js')).init(options)));

  postgres
    .command('clone')
    .description('Makes the data directory of a standby, by pg_basebackup from the primary.')
    .option(...config)
    .option('--from <conninfo>', 'the primary server (default: as the coordinator knows it)')
    .addHelpText(
      'after',
      `
A node that finds no data directory does this by itself; here it can be watched. Nothing is overwritten.

Examples:
  $ walship postgres clone --config /etc/walship/b.toml
  $ walship postgres clone --from 'host=10.0.0.1 user=postgres'`,
    )
    .action(does(async (options) => (await import('./postgres.js')).clone(options)));

  postgres
    .command('status')
    .description(
      'Shows the server beside a node, both ends of the stream, and what is wrong with its settings.',
    )
    .option(...config)
    .option('--json', 'as JSON; LSNs of walship are decimal text')
    .addHelpText(
      'after',
      `
The server and the node are asked, whichever of them runs. Exit code 4 if something is wrong that keeps walship from
working.

Example:
  $ walship postgres status --config /etc/walship/a.toml`,
    )
    .action(does(async (options) => (await import('./postgres.js')).status(options)));
}

import { statSync } from 'node:fs';
import {
  checkDatabase,
  inspectDatabase,
  type RestoreTarget,
  restoreDatabase,
  type SqliteFacts,
} from '../databases/sqlite/files.js';
import type { LoggedTransaction, SqliteSidecar } from '../databases/sqlite/native.js';
import { formatLsn } from '../engine/lsn.js';
import { formatTimeUs, readableSize } from '../node/units.js';
import { exitCode } from './exit.js';
import { columns, jsonText, type Paint, paintFor, print, withProgress } from './terminal.js';

interface Options {
  readonly log?: string;
  readonly json?: boolean;
}

const logOf = (database: string, options: Options) => options.log ?? `${database}-log`;

const sizeOf = (file: string) => statSync(file, { throwIfNoEntry: false })?.size ?? 0;

const placeOf = ({ lsn, timeUs }: LoggedTransaction) => `LSN ${formatLsn(lsn)}, ${formatTimeUs(timeUs)}`;

const count = (number: number, what: string) => `${number} ${what}${number === 1 ? '' : 's'}`;

/** `walship sqlite status` */
export async function status(database: string, options: Options): Promise<number> {
  const dir = logOf(database, options);
  const facts = await withProgress((onProgress) =>
    inspectDatabase(database, dir, onProgress && { onProgress }),
  );
  const files = { databaseBytes: sizeOf(database), walBytes: sizeOf(`${database}-wal`) };
  if (options.json) print(jsonText({ ...files, ...facts }, 2));
  else print(renderFacts(files, facts, paintFor(process.stdout)));
  return exitCode.ok;
}

function renderFacts(
  { databaseBytes, walBytes }: { databaseBytes: number; walBytes: number },
  { sidecar, log }: SqliteFacts,
  paint: Paint,
): string {
  const { first, last, snapshots } = log;
  const rows: [string, string][] = [
    ['database', `${readableSize(databaseBytes)}, WAL ${readableSize(walBytes)}`],
    ['role', sidecar.role === 'none' ? 'none: no node has had this database' : sidecar.role],
    ['applied', `LSN ${formatLsn(sidecar.appliedLsn)} at least`],
    ['state', log.inUse ? 'in use: a process has the log open' : stateOf(sidecar)],
    [
      'log',
      `${formatLsn(log.firstLsn)} to ${formatLsn(log.endLsn)}, ${count(log.transactions, 'transaction')}`,
    ],
  ];
  if (first && last) rows.push(['first commit', placeOf(first)], ['last commit', placeOf(last)]);
  rows.push(...snapshots.map((each): [string, string] => ['snapshot', placeOf(each)]));
  return columns(rows.map(([name, text]) => [paint.dim(name), text])).join('\n');
}

function stateOf({ closedCleanly, untouched }: SqliteSidecar): string {
  if (untouched) return 'closed cleanly';
  return closedCleanly
    ? 'closed cleanly, and changed since by something else'
    : 'not closed cleanly: the next start goes on from the WAL and the log';
}

/** `walship sqlite restore` */
export async function restore(
  dir: string,
  file: string,
  options: { readonly to?: RestoreTarget; readonly json?: boolean },
): Promise<number> {
  const restored = await withProgress((onProgress) =>
    restoreDatabase(dir, file, options.to, onProgress && { onProgress }),
  );
  const { reached, baseLsn, fromSnapshot, transactions, integrity } = restored;
  const paint = paintFor(process.stdout);
  if (options.json) print(jsonText(restored, 2));
  else {
    const base = fromSnapshot ? 'the snapshot at' : 'the start of the log,';
    print(
      `${file}: ${placeOf(reached)}\n` +
        `${count(transactions, 'transaction')} from ${base} LSN ${formatLsn(baseLsn)}, ` +
        `${readableSize(reached.databasePages * reached.pageBytes)}; ${integrityText(integrity, paint)}`,
    );
  }
  return integrity.length > 0 ? exitCode.problems : exitCode.ok;
}

/** `walship sqlite check` */
export async function check(database: string, options: Options): Promise<number> {
  const dir = logOf(database, options);
  const checked = await withProgress((onProgress) =>
    checkDatabase(database, dir, onProgress && { onProgress }),
  );
  const { closest, compared, databasePages, loggedPages, different, differentCount, integrity } = checked;
  const paint = paintFor(process.stdout);
  if (options.json) print(jsonText(checked, 2));
  else {
    const lines = [
      `${compared} of ${databasePages} pages compared with the log; ${integrityText(integrity, paint)}`,
    ];
    if (differentCount === 0)
      lines.push(paint.good(`the database is what the log says at ${placeOf(closest)}`));
    else {
      lines.push(
        paint.bad(`PROBLEM  ${count(differentCount, 'page')} not as the log says`) +
          `; it comes closest to ${placeOf(closest)}`,
      );
      if (databasePages !== loggedPages)
        lines.push(`it has ${count(databasePages, 'page')}, the log says ${loggedPages}`);
      if (different.length > 0) lines.push(`different: ${pagesText(different, checked.pageBytes)}`);
    }
    print(lines.join('\n'));
  }
  return integrity.length > 0 || differentCount > 0 ? exitCode.problems : exitCode.ok;
}

function integrityText(problems: readonly string[], paint: Paint): string {
  if (problems.length === 0) return 'integrity_check ok';
  return paint.bad(['integrity_check:', ...problems].join('\n  '));
}

/** `page 3 at offset 8192, page 7 at …` */
function pagesText(pages: readonly number[], pageBytes: number): string {
  const shown = pages.slice(0, 20).map((page) => `page ${page} at offset ${(page - 1) * pageBytes}`);
  return shown.join(', ') + (pages.length > shown.length ? `, and ${pages.length - shown.length} more` : '');
}

import { closeSync, openSync } from 'node:fs';
import { WalshipError } from '../engine/errors.js';
import { exportLog, inspectLog, verifyLog } from '../engine/logfiles.js';
import { formatLsn, type Lsn } from '../engine/lsn.js';
import type { LogProblem, LogSummary } from '../engine/native.js';
import { readableSize, readableTime, sizeText } from '../node/units.js';
import { exitCode, UsageError } from './exit.js';
import { columns, jsonText, type Paint, paintFor, print, withProgress } from './terminal.js';

/** `walship log inspect` */
export async function inspect(
  path: string,
  options: { json?: boolean; segments?: boolean },
): Promise<number> {
  const summary = await inspectLog(path);
  if (options.json) print(jsonText(summary, 2));
  else print(renderSummary(summary, options.segments === true, paintFor(process.stdout)));
  return summary.problems.length > 0 ? exitCode.problems : exitCode.ok;
}

function renderSummary(summary: LogSummary, segments: boolean, paint: Paint): string {
  const { tail, durable, readers } = summary;
  const rows: [string, string][] = [
    ['range', `${formatLsn(summary.firstLsn)} to ${formatLsn(tail.lsn)}`],
    ['tail', `page ${tail.page}, offset ${tail.offset}, epoch ${tail.epoch}`],
    [
      'durable',
      durable ? `up to ${formatLsn(durable.lsn)} at least` : 'how far is not known: there is no mark',
    ],
    ['state', stateOf(summary)],
    ['sizes', `pages of ${sizeText(summary.pageBytes)}, segments of ${sizeText(summary.segmentBytes)}`],
    [
      'on disk',
      `${readableSize(summary.bytesOnDisk)}: ${summary.segments.length} segments, ${summary.spares.length} spares`,
    ],
    ...summary.epochs.map(({ epoch, firstLsn }): [string, string] => [
      `epoch ${epoch}`,
      `from ${formatLsn(firstLsn)}`,
    ]),
    ...(summary.promisedEpoch > 0n
      ? ([['promised', `nothing older than epoch ${summary.promisedEpoch} is accepted`]] as [
          string,
          string,
        ][])
      : []),
    ...(summary.protectedLsn > 0n
      ? ([['protected', `never cut below ${formatLsn(summary.protectedLsn)}`]] as [string, string][])
      : []),
    ...readers.map((reader): [string, string] => [
      'kept for',
      `${reader.name}, from ${formatLsn(reader.lsn)}, last seen ${readableTime(Math.max(0, Date.now() - reader.lastSeenMs))} ago`,
    ]),
    ...summary.diverged.map((file): [string, string] => ['diverged', file]),
    ...summary.strays.map((file): [string, string] => ['stray', paint.warn(`${file} is no file of a log`)]),
    ...(summary.note === '' ? [] : [['note', paint.warn(summary.note)] as [string, string]]),
  ];
  const lines = columns(rows.map(([name, text]) => [paint.dim(name), text]));
  if (segments) {
    lines.push(
      '',
      ...columns(
        [['FIRST LSN', 'FIRST PAGE', 'FILE'].map(paint.dim)].concat(
          summary.segments.map(({ firstLsn, firstPage, file }) => [
            formatLsn(firstLsn),
            String(firstPage),
            file,
          ]),
        ),
      ),
    );
  }
  return [...lines, ...summary.problems.map((problem) => paint.bad(problemText(problem)))].join('\n');
}

function stateOf({ inUse, closedCleanly, discardableBytes, problems }: LogSummary): string {
  if (inUse) return 'in use: a process has it open';
  if (problems.length > 0) return 'cannot be opened';
  if (closedCleanly) return 'closed cleanly';
  return `not closed cleanly: the next open recovers it and discards ${discardableBytes} incomplete bytes`;
}

/** `FILE at offset N: what (code)` */
function problemText({ code, message, file, offset }: LogProblem): string {
  const place = file === undefined ? '' : `${file}${offset === undefined ? '' : ` at offset ${offset}`}: `;
  return `PROBLEM  ${place}${message} [${code}]`;
}

/** `walship log verify` */
export async function verify(path: string, options: { json?: boolean }): Promise<number> {
  const paint = paintFor(process.stdout);
  const found = await withProgress((onProgress) => verifyLog(path, onProgress && { onProgress }));
  const bad = found.problems.length > 0;
  if (options.json) print(jsonText(found, 2));
  else {
    for (const problem of found.problems) print(paint.bad(problemText(problem)));
    if (found.problemsLeftOut > 0) print(paint.bad(`PROBLEM  and ${found.problemsLeftOut} more`));
    const count = found.problems.length + found.problemsLeftOut;
    const outcome = bad
      ? paint.bad(`${count} ${count === 1 ? 'problem' : 'problems'}`)
      : paint.good('no problems');
    const range = `${formatLsn(found.firstLsn)} to ${formatLsn(found.tail.lsn)}`;
    const size = `${found.pages} pages, ${found.frames} frames, ${readableSize(found.payloadBytes)} of payload`;
    print(`${range}: ${size}; ${outcome}`);
    if (bad && !path.endsWith('.wal') && (await inspectLog(path)).inUse) {
      print(
        paint.warn('note: a process has this log open, and may have changed it meanwhile: verify it again'),
      );
    }
  }
  return bad ? exitCode.problems : exitCode.ok;
}

export interface ExportOptions {
  readonly from?: Lsn;
  readonly to?: Lsn;
  readonly out: string;
}

/** `walship log export` */
export async function exportRange(path: string, options: ExportOptions): Promise<number> {
  const toStdout = options.out === '-';
  if (toStdout && process.stdout.isTTY) {
    throw new UsageError(
      'a log is no text for a terminal: give --out FILE, or pipe the output into something',
    );
  }
  const summary = options.from === undefined || options.to === undefined ? await inspectLog(path) : undefined;
  const range = {
    from: options.from ?? (summary?.firstLsn as Lsn),
    to: options.to ?? (summary?.tail.lsn as Lsn),
  };
  const fd = toStdout ? 1 : openOutput(options.out);
  try {
    const bytes = await exportLog(path, range, fd);
    process.stderr.write(`${bytes} bytes, ${formatLsn(range.from)} to ${formatLsn(range.to)}\n`);
    return exitCode.ok;
  } catch (error) {
    if (!(error instanceof WalshipError)) throw error;
    // Whoever reads the pipe has seen enough.
    if (error.code === 'WALSHIP_ERR_OUTPUT_CLOSED') return exitCode.ok;
    const damage =
      error.code === 'WALSHIP_ERR_LOG_CORRUPT' || error.code === 'WALSHIP_ERR_LOG_SEGMENT_MISSING';
    if (!damage) throw error;
    process.stderr.write(`walship: ${error.message} [${error.code}]\nwhat lies before it has been written\n`);
    return exitCode.problems;
  } finally {
    if (!toStdout) closeSync(fd);
  }
}

function openOutput(file: string): number {
  try {
    return openSync(file, 'w');
  } catch (error) {
    throw new WalshipError('WALSHIP_ERR_OUTPUT', `cannot write the export: ${(error as Error).message}`);
  }
}

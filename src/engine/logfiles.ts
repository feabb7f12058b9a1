import type { Lsn } from './lsn.js';
import { type LogSummary, type LogVerification, native, settled } from './native.js';

/**
 * Looks at a log without opening it for use: nothing is changed and no lock is taken, so a log in use can be looked at
 * too. Fast, whatever the size of the log; {@link verifyLog} reads all of it.
 *
 * @param path a log directory, or a `diverged-…` file of one
 * @throws {WalshipError} `WALSHIP_ERR_LOG_NOT_FOUND` if it is neither, `WALSHIP_ERR_LOG_IO`. What would keep the log from
 * being opened is no error here: it is in `problems`.
 */
export function inspectLog(path: string): Promise<LogSummary> {
  return settled(native.inspectLog(path));
}

export interface VerifyLogOptions {
  /** Called every `progressMs` while the files are read. */
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void;
  /** Default 100. */
  readonly progressMs?: number;
  /** Stops the run; what was found until then is given back, with `stopped`. */
  readonly signal?: AbortSignal;
}

/**
 * Checks every page and every frame of a log, on a thread of its own, and goes on behind damage. Like
 * {@link inspectLog} it changes and locks nothing; what is trimmed or cut from a log in use meanwhile may be reported as
 * missing.
 *
 * @param path a log directory, or a `diverged-…` file of one
 * @throws {WalshipError} `WALSHIP_ERR_LOG_NOT_FOUND`, `WALSHIP_ERR_LOG_IO`
 */
export async function verifyLog(path: string, options: VerifyLogOptions = {}): Promise<LogVerification> {
  const progress = new BigUint64Array(3);
  const stop = () => {
    progress[2] = 1n;
  };
  if (options.signal?.aborted) stop();
  options.signal?.addEventListener('abort', stop);
  const report = () => options.onProgress?.(Number(progress[0]), Number(progress[1]));
  const timer = options.onProgress && setInterval(report, options.progressMs ?? 100);
  try {
    return await settled(native.verifyLog(path, progress));
  } finally {
    clearInterval(timer);
    options.signal?.removeEventListener('abort', stop);
  }
}

/** A range of a log: `from` included, `to` excluded. */
export interface LogRange {
  readonly from: Lsn;
  readonly to: Lsn;
}

/**
 * Writes the payload bytes of exactly `range` to the open file or pipe `fd`, which stays the caller's. When it fails, the
 * bytes before the place of the error have been written.
 *
 * @param path a log directory, or a `diverged-…` file of one
 * @returns how many bytes were written
 * @throws {WalshipError} `WALSHIP_ERR_LOG_TRIMMED` (the log begins behind `from`), `WALSHIP_ERR_LOG_RANGE` (it ends before
 * `to`, or the range is turned round), `WALSHIP_ERR_LOG_CORRUPT`, `WALSHIP_ERR_LOG_SEGMENT_MISSING`,
 * `WALSHIP_ERR_LOG_NOT_FOUND`, `WALSHIP_ERR_OUTPUT_CLOSED` (nobody reads the pipe any more), `WALSHIP_ERR_OUTPUT`.
 */
export function exportLog(path: string, range: LogRange, fd: number): Promise<bigint> {
  return settled(native.exportLog(path, range.from, range.to, fd));
}

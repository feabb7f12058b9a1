import { WalshipError } from '../engine/errors.js';

/** What the command's exit code says. `walship --help` lists them. */
export const exitCode = {
  ok: 0,
  failed: 1,
  usage: 2,
  unreachable: 3,
  problems: 4,
} as const;

/** A wrong use of the command: its message is for the person who typed it. */
export class UsageError extends Error {}

const usageCodes = new Set(['WALSHIP_ERR_CONFIG', 'WALSHIP_ERR_ADDRESS', 'WALSHIP_ERR_ARGUMENT']);

/** What is printed, and what the process exits with, when `error` ends a command. */
export function outcomeOf(error: unknown): { message: string; code: number } {
  if (error instanceof UsageError) return { message: error.message, code: exitCode.usage };
  if (!(error instanceof WalshipError)) {
    // Not expected, so the place matters to whoever has to find out.
    const detail = error instanceof Error ? (error.stack ?? error.message) : String(error);
    return { message: `internal error, please report it: ${detail}`, code: exitCode.failed };
  }
  const code = usageCodes.has(error.code)
    ? exitCode.usage
    : error.code === 'WALSHIP_ERR_UNREACHABLE'
      ? exitCode.unreachable
      : exitCode.failed;
  const configuration = error.code === 'WALSHIP_ERR_CONFIG';
  return { message: configuration ? error.message : `${error.message} [${error.code}]`, code };
}

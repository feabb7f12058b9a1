import { readFileSync, writeFileSync } from 'node:fs';
import { gunzipSync, gzipSync } from 'node:zlib';

/**
 * Who touched the page: `a` the log appended it (a new page), `t` a live reader or downstream that tails the log, `c` a
 * catch-up reader, `s` the scrubber.
 */
export type AccessKind = 'a' | 't' | 'c' | 's';

/** One touch of one page. */
export interface Access {
  readonly timeMs: number;
  readonly page: number;
  readonly kind: AccessKind;
}

/** Accesses in the order they happened. */
export interface Trace {
  readonly name: string;
  readonly accesses: readonly Access[];
}

const linePattern = /^(\d+(?:\.\d+)?) (\d+) ([atcs])$/;

/**
 * Reads a trace: gzipped text, one access a line, `<timeMs> <page> <kind>`, oldest first. Lines that start with `#` are
 * comments.
 *
 * @throws {Error} that names the file and line which is not of that form
 */
export function readTrace(path: string, name: string): Trace {
  const accesses: Access[] = [];
  let lastMs = 0;
  for (const [index, line] of gunzipSync(readFileSync(path)).toString('latin1').split('\n').entries()) {
    if (line === '' || line.startsWith('#')) continue;
    const match = linePattern.exec(line);
    const [timeMs, page] = [Number(match?.[1]), Number(match?.[2])];
    if (match === null || timeMs < lastMs || !Number.isSafeInteger(page)) {
      throw new Error(
        `${path}, line ${index + 1}: "${line}" is not "<timeMs> <page> <a|t|c|s>" in order of time`,
      );
    }
    lastMs = timeMs;
    accesses.push({ timeMs, page, kind: match[3] as AccessKind });
  }
  return { name, accesses };
}

/** Writes a trace in the form {@link readTrace} reads; `comment` says where it comes from. */
export function writeTrace(path: string, accesses: Iterable<Access>, comment: string): void {
  const lines = comment.split('\n').map((line) => `# ${line}`);
  for (const { timeMs, page, kind } of accesses) lines.push(`${timeMs} ${page} ${kind}`);
  writeFileSync(path, gzipSync(`${lines.join('\n')}\n`, { level: 9 }));
}

/** Number of distinct pages. */
export function footprint(trace: Trace): number {
  return new Set(trace.accesses.map(({ page }) => page)).size;
}

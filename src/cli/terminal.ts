import { styleText } from 'node:util';
import { readableSize } from '../node/units.js';

/** Colours where a person looks and has not asked for none (https://no-color.org). */
export interface Paint {
  bold(text: string): string;
  dim(text: string): string;
  bad(text: string): string;
  warn(text: string): string;
  good(text: string): string;
}

export function paintFor(stream: { isTTY?: boolean }, env: NodeJS.ProcessEnv = process.env): Paint {
  const { NO_COLOR: none } = env;
  const on = stream.isTTY === true && (none === undefined || none === '');
  const style = (format: Parameters<typeof styleText>[0]) => (text: string) =>
    on ? styleText(format, text) : text;
  return {
    bold: style('bold'),
    dim: style('dim'),
    bad: style(['bold', 'red']),
    warn: style('yellow'),
    good: style('green'),
  };
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: escape sequences are what is looked for
const escapes = /\u001b\[[0-9;]*m/g;

function width(text: string): number {
  return text.replace(escapes, '').length;
}

/** Columns as wide as their widest cell, two spaces apart; the last one is not filled up. */
export function columns(rows: readonly (readonly string[])[]): string[] {
  const widths: number[] = [];
  for (const row of rows) {
    row.forEach((cell, i) => {
      if (i < row.length - 1) widths[i] = Math.max(widths[i] ?? 0, width(cell));
    });
  }
  return rows.map((row) =>
    row
      .map((cell, i) => (i === row.length - 1 ? cell : cell + ' '.repeat((widths[i] ?? 0) - width(cell))))
      .join('  ')
      .trimEnd(),
  );
}

/** JSON for people and programs: every bigint is decimal text. */
export function jsonText(value: unknown, indent?: number): string {
  return JSON.stringify(value, (_, inner) => (typeof inner === 'bigint' ? String(inner) : inner), indent);
}

export function print(text: string): void {
  process.stdout.write(`${text}\n`);
}

/** Runs `work`, and shows how far it is on a terminal. */
export async function withProgress<T>(
  work: (onProgress: ((doneBytes: number, totalBytes: number) => void) | undefined) => Promise<T>,
): Promise<T> {
  if (process.stderr.isTTY !== true) return work(undefined);
  try {
    return await work((done, total) => {
      if (total === 0) return;
      const percent = Math.floor((done * 100) / total);
      process.stderr.write(`\r\u001b[K${percent} %  ${readableSize(done)} of ${readableSize(total)}`);
    });
  } finally {
    process.stderr.write('\r\u001b[K');
  }
}

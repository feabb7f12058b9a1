// What people see, whatever the database.

export class Printer {
  readonly #start = performance.now();

  heading(text: string): void {
    process.stdout.write(`\n── ${text}\n`);
  }

  line(text: string): void {
    const at = ((performance.now() - this.#start) / 1000).toFixed(1);
    process.stdout.write(`${at.padStart(6)} s  ${text}\n`);
  }
}

/** The first column to the left, the others to the right. */
export function table(columns: readonly string[], rows: readonly (readonly string[])[]): string {
  const all = [columns, ...rows];
  const widths = columns.map((_, column) => Math.max(...all.map((row) => (row[column] ?? '').length)));
  return all
    .map((row) => {
      const cells = row.map((cell, column) =>
        column === 0 ? cell.padEnd(widths[0] as number) : cell.padStart(widths[column] as number),
      );
      return cells.join('  ');
    })
    .join('\n');
}

export function ms(sorted: Float64Array, share: number): string {
  if (sorted.length === 0) return '–';
  return `${(sorted[Math.ceil(share * sorted.length) - 1] as number).toFixed(2)} ms`;
}

export function bytes(count: number): string {
  return count < 10_000 ? `${count} B` : `${(count / 1e6).toFixed(count < 1e6 ? 2 : 1)} MB`;
}

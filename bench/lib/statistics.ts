/** The middle value; of an even number the mean of the two in the middle. */
export function median(values: readonly number[]): number {
  if (values.length === 0) throw new Error('the median of nothing');
  const sorted = [...values].sort((a, b) => a - b);
  const half = sorted.length >> 1;
  const upper = sorted[half] as number;
  return sorted.length % 2 === 1 ? upper : ((sorted[half - 1] as number) + upper) / 2;
}

/** The value below which `share` (0 … 1) of the values lie. */
export function quantile(values: Float64Array, share: number): number {
  if (values.length === 0) throw new Error('a quantile of nothing');
  const sorted = values.slice().sort();
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] as number;
}

/** `512B`, `8KiB`, `64KiB`: as ids write sizes. */
export function sizeName(bytes: number): string {
  return bytes % 1024 === 0 ? `${bytes / 1024}KiB` : `${bytes}B`;
}

/** Calls each of `measures` once per round, each time another one first: whatever else the machine does falls on all alike. */
export async function interleave(
  rounds: number,
  measures: readonly (() => Promise<unknown>)[],
): Promise<void> {
  for (let round = 0; round < rounds; round++) {
    for (let i = 0; i < measures.length; i++) await measures[(round + i) % measures.length]?.();
  }
}

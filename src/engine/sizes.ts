/** Units of bytes, the largest first. */
export const sizes = [
  ['TiB', 1024 ** 4],
  ['GiB', 1024 ** 3],
  ['MiB', 1024 ** 2],
  ['KiB', 1024],
  ['B', 1],
] as const;

/** The bytes in `64MiB`, `1.5 GiB` or `4096`; undefined if it is no size. */
export function parseSize(text: string): number | undefined {
  const match = /^([0-9]+(?:\.[0-9]+)?)\s*([KMGT]i)?B?$/.exec(text.trim());
  if (!match) return undefined;
  const unit = sizes.find(([name]) => name === `${match[2] ?? ''}B`)?.[1] ?? 1;
  const bytes = Number(match[1]) * unit;
  return Number.isSafeInteger(bytes) ? bytes : undefined;
}

/** Sizes and times as people write them. */
import { sizes } from '../engine/sizes.js';

const times = { ms: 1, s: 1000, min: 60_000, h: 3_600_000 } as const;

/** The milliseconds in `20ms`, `2s`, `1.5min`, `1h` or `20`; undefined if it is no time. */
export function parseTime(text: string): number | undefined {
  const match = /^([0-9]+(?:\.[0-9]+)?)\s*(ms|s|min|h)?$/.exec(text.trim());
  if (!match) return undefined;
  const ms = Number(match[1]) * times[(match[2] ?? 'ms') as keyof typeof times];
  return Number.isSafeInteger(ms) ? ms : undefined;
}

/** Exact where the size is a multiple of a unit (`64MiB`), as it may be written in a setting. */
export function sizeText(bytes: number): string {
  const [name, unit] = sizes.find(([, value]) => bytes >= value && bytes % value === 0) ?? ['B', 1];
  return `${bytes / unit}${name}`;
}

/** Exact, as it may be written in a setting. */
export function timeText(ms: number): string {
  const unit = (['h', 'min', 's'] as const).find((name) => ms >= times[name] && ms % times[name] === 0);
  return unit ? `${ms / times[unit]}${unit}` : `${ms}ms`;
}

/** Rounded to three digits or so, for people to read: `1.21 MiB`. */
export function readableSize(bytes: number): string {
  const [name, unit] = sizes.find(([, value]) => bytes >= value) ?? ['B', 1];
  return `${rounded(bytes / unit, unit === 1)} ${name}`;
}

/** Rounded to three digits or so, for people to read: `840 µs`, `2.5 s`, `3 h 12 min`. */
export function readableTime(ms: number): string {
  if (ms > 0 && ms < 1) return `${rounded(ms * 1000, false)} µs`;
  if (ms < 1000) return `${rounded(ms, Number.isInteger(ms))} ms`;
  const seconds = ms / 1000;
  if (seconds < 60) return `${rounded(seconds, false)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.floor(seconds % 60)} s`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} days`;
}

function rounded(value: number, whole: boolean): string {
  if (whole || value >= 100) return String(Math.round(value));
  return String(Number(value.toPrecision(3)));
}

/**
 * The µs since 1970 in `2026-05-01T12:30:00Z`; seconds and up to six digits behind them may be left out, and the offset
 * of a time zone may stand for Z. Undefined if it is no such time.
 */
export function parseTimeUs(text: string): number | undefined {
  const match = /^(\d{4}-\d\d-\d\dT\d\d:\d\d)(:\d\d)?(?:\.(\d{1,6}))?(Z|[+-]\d\d:\d\d)$/.exec(text);
  if (!match || (match[3] !== undefined && match[2] === undefined)) return undefined;
  const ms = Date.parse(`${match[1]}${match[2] ?? ':00'}${match[4]}`);
  return ms >= 0 ? ms * 1000 + Number((match[3] ?? '').padEnd(6, '0')) : undefined;
}

/** `2026-05-01T12:30:00.000000Z`: what {@link parseTimeUs} reads. */
export function formatTimeUs(timeUs: number): string {
  const seconds = new Date(Math.floor(timeUs / 1_000_000) * 1000).toISOString().slice(0, 19);
  return `${seconds}.${String(timeUs % 1_000_000).padStart(6, '0')}Z`;
}

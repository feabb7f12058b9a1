import { z } from 'zod';
import { WalshipError } from '../engine/errors.js';
import { problemsOf } from '../engine/options.js';

const MiB = 1024 * 1024;
const ms = (least: number, most: number) => z.number().int().min(least).max(most);
const bytes = z.number().int().min(1).max(Number.MAX_SAFE_INTEGER);
const hourMs = 3_600_000;

/** What an operator may set of the replica monitor. */
export const monitorSchema = z.strictObject({
  /** How often it looks. Default 500. */
  checkMs: ms(20, 60_000).optional(),
  /** Rates are means over about so long. Default 5000. */
  rateMs: ms(20, hourMs).optional(),
  /** A finding ends when its cause has been away for so long. Default 2000. */
  clearMs: ms(0, hourMs).optional(),
  /** A position that has not moved for so long, though the one before it is ahead: `replica-stalled`. Default 5000. */
  stallMs: ms(100, hourMs).optional(),
  /** A replica that is further behind is `replica-lagging`, until it is half as far. Default 30,000 and 256 MiB. */
  lagMs: ms(10, 24 * hourMs).optional(),
  lagBytes: bytes.optional(),
  /** A lag that has grown all the time for so long … Default 60,000 */
  driftMs: ms(400, 24 * hourMs).optional(),
  /** … and to so much is `replica-drifting`. Default 16 MiB. */
  driftBytes: bytes.optional(),
  /** A reader that lags, and that the log will be trimmed past in so long, is `log-trim-near`. Default 600,000. */
  trimMs: ms(10, 24 * hourMs).optional(),
  /** A disk that will be full in so long, as things go, is `disk-filling`. Default 3,600,000. */
  diskMs: ms(10, 30 * 24 * hourMs).optional(),
  /** One with less space than this, and than a twentieth of itself, is `disk-full`. Default 128 MiB. */
  diskBytes: bytes.optional(),
});

/** Settings of the replica monitor, in ms and bytes; all have defaults. */
export type MonitorSettings = z.input<typeof monitorSchema>;
export type MonitorLimits = { readonly [Name in keyof MonitorSettings]-?: number };

export const defaultMonitorLimits: MonitorLimits = {
  checkMs: 500,
  rateMs: 5000,
  clearMs: 2000,
  stallMs: 5000,
  lagMs: 30_000,
  lagBytes: 256 * MiB,
  driftMs: 60_000,
  driftBytes: 16 * MiB,
  trimMs: 600_000,
  diskMs: hourMs,
  diskBytes: 128 * MiB,
};

/** What is wrong with settings that are each right by themselves. */
export function monitorProblems(settings: MonitorSettings): string[] {
  const { checkMs, stallMs, driftMs } = withDefaults(settings);
  const problems: string[] = [];
  if (stallMs < 2 * checkMs) problems.push('monitor.stallMs: must be at least twice monitor.checkMs');
  if (driftMs < 16 * checkMs) problems.push('monitor.driftMs: must be at least 16 times monitor.checkMs');
  return problems;
}

/** @throws {WalshipError} `WALSHIP_ERR_CONFIG` that lists every problem */
export function monitorLimits(settings: MonitorSettings): MonitorLimits {
  const { error } = monitorSchema.safeParse(settings);
  const problems = error ? problemsOf(error).map((each) => `monitor.${each}`) : monitorProblems(settings);
  if (problems.length > 0)
    throw new WalshipError('WALSHIP_ERR_CONFIG', problems.join('\n'), { details: { problems } });
  return withDefaults(settings);
}

function withDefaults(settings: MonitorSettings): MonitorLimits {
  const set = Object.fromEntries(Object.entries(settings).filter(([, value]) => value !== undefined));
  return { ...defaultMonitorLimits, ...set };
}

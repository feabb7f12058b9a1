/** A mean that forgets what is older than about `overMs`: the one before, and `amount` more in `elapsedMs`. Per second. */
export function rateOf(before: number, amount: number, elapsedMs: number, overMs: number): number {
  const now = (amount * 1000) / elapsedMs;
  return before + (now - before) * (1 - Math.exp(-elapsedMs / overMs));
}

interface Lag {
  readonly bytes: number;
  readonly ms: number;
}

/** The least lag of each eighth of a window, the oldest first; the last one is still under way. */
export interface Trend {
  readonly slots: readonly (Lag & { readonly beganAt: number })[];
}

export const noTrend: Trend = { slots: [] };
const slotsInWindow = 8;

export function addToTrend({ slots }: Trend, nowMs: number, windowMs: number, lag: Lag): Trend {
  const last = slots.at(-1);
  if (last === undefined || nowMs - last.beganAt >= windowMs / slotsInWindow)
    return { slots: [...slots.slice(-slotsInWindow), { ...lag, beganAt: nowMs }] };
  const least = { bytes: Math.min(last.bytes, lag.bytes), ms: Math.min(last.ms, lag.ms) };
  return { slots: [...slots.slice(0, -1), { ...last, ...least }] };
}

/**
 * Whether the lag has grown throughout the window, in bytes and in time. The least of each part is compared, so that a load
 * that comes in bursts, after which a replica catches up, is none; a single part that does not grow ends it.
 */
export function growsSteadily({ slots }: Trend): boolean {
  const whole = slots.slice(0, -1);
  return whole.length >= slotsInWindow && whole.every((slot, i) => i === 0 || grew(whole[i - 1], slot));
}

/** Whether it still grows, as far as the last quarter of the window tells. */
export function stillGrows({ slots }: Trend): boolean {
  const recent = slots.slice(-3, -1);
  return recent.length === 2 && grew(recent[0], recent[1]);
}

function grew(before: Lag | undefined, after: Lag | undefined): boolean {
  return before !== undefined && after !== undefined && after.bytes > before.bytes && after.ms > before.ms;
}

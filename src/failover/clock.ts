/** A stamp's low bits count what happens within one millisecond. */
const counterBits = 16n;
/** A stamp further ahead of this host's clock than this is not believed: one wrong clock must not carry all others away. */
const aheadMsMax = 60_000;

/**
 * A hybrid logical clock (Kulkarni et al., "Logical Physical Clocks", 2014): stamps are near the wall clock, and what could
 * have been the cause of something has the smaller stamp, also if it happened on another node whose clock is ahead.
 */
export class HybridClock {
  readonly #nowMs: () => number;
  #last = 0n;

  constructor(nowMs: () => number = Date.now) {
    this.#nowMs = nowMs;
  }

  /** Greater than every one before, and than every one heard. */
  stamp(): bigint {
    const wall = BigInt(Math.floor(this.#nowMs())) << counterBits;
    this.#last = this.#last < wall ? wall : this.#last + 1n;
    return this.#last;
  }

  /** Another node's stamp. */
  hear(stamp: bigint): void {
    if (stamp > this.#last && timeOf(stamp).getTime() - this.#nowMs() <= aheadMsMax) this.#last = stamp;
  }
}

/** The wall clock's part of a stamp. */
export function timeOf(stamp: bigint): Date {
  return new Date(Number(stamp >> counterBits));
}

/** The first stamp of a time. */
export function stampOf(time: Date): bigint {
  return BigInt(time.getTime()) << counterBits;
}

import { WalshipError } from '../engine/errors.js';

/** What may be chosen about the cache. Everything has a default. */
export interface CacheOptions {
  /**
   * T1, in milliseconds: a new page that is accessed within this time moves to the head of the LRU queue.
   * Default 5000.
   */
  readonly firstWindowMs?: number;
  /**
   * T2, in milliseconds: how often the pages of the LRU queue that were accessed since the last look move to its
   * head. Default 100.
   */
  readonly reviewMs?: number;
  /** p1, in percent of a queue's share, 1…100: how full a queue gets before pages of it are evicted. Default 90. */
  readonly fillPercent?: number;
  /** p2, in percent of a queue's length, 1…100: how much of it is evicted then. Default 10. */
  readonly evictPercent?: number;
  /** The FIFO queue's share of the slots, between 0 and 1; the LRU queue has the rest. Default 0.5. */
  readonly fifoShare?: number;
  /**
   * True (the default): evicted pages are remembered, the split between the queues follows what readers come back
   * for (`fifoShare` is where it starts), every slot is used before any page is evicted (`fillPercent` and
   * `evictPercent` rest), and misses stay within `lruMarginPercent` of plain LRU's. False: the two queues to the
   * letter.
   */
  readonly adaptive?: boolean;
  /**
   * Adaptive only, in percent, 0…100: never more misses than plain LRU with the same slots would have had, plus
   * this. 0 is plain LRU until the two queues have earned a difference. Default 2.
   */
  readonly lruMarginPercent?: number;
  /**
   * How many pages stand ready for the data plane to evict without asking, at least 1. More outlasts a longer stall
   * of the event loop. Default: half of the slots, at most 8192.
   */
  readonly victims?: number;
  /** How often the keeper looks at the arena and samples its reference bits, in ms, from 1. Default 10. */
  readonly intervalMs?: number;
}

/** The settings of one cache, complete. */
export interface CacheSettings extends Required<CacheOptions> {
  /** Pages the arena holds. */
  readonly slots: number;
}

/** Below this the queues' shares and percentages round to nothing. */
export const minSlots = 4;
/** Per-page state is kept in typed arrays that are taken at once: 2^24 slots are 1 TiB of 64 KiB pages. */
export const maxSlots = 2 ** 24;

const mostVictimsByDefault = 8192;

/**
 * Fills in the defaults and checks everything.
 *
 * @throws {WalshipError} `WALSHIP_ERR_CONFIG` that lists every problem, also as `details.problems`.
 */
export function cacheSettings(slots: number, options: CacheOptions = {}): CacheSettings {
  const settings: CacheSettings = {
    slots,
    firstWindowMs: options.firstWindowMs ?? 5000,
    reviewMs: options.reviewMs ?? 100,
    fillPercent: options.fillPercent ?? 90,
    evictPercent: options.evictPercent ?? 10,
    fifoShare: options.fifoShare ?? 0.5,
    adaptive: options.adaptive ?? true,
    lruMarginPercent: options.lruMarginPercent ?? 2,
    victims: options.victims ?? Math.max(1, Math.min(Math.floor(slots / 2), mostVictimsByDefault)),
    intervalMs: options.intervalMs ?? 10,
  };
  const problems: string[] = [];
  const check = (name: string, good: boolean, rule: string): void => {
    if (!good) problems.push(`${name} must be ${rule}, not ${show((settings as object as Values)[name])}`);
  };
  const within = (value: unknown, low: number, high: number): boolean =>
    typeof value === 'number' && value >= low && value <= high;

  const slotsAreGood = Number.isInteger(slots) && within(slots, minSlots, maxSlots);
  check('slots', slotsAreGood, `a whole number from ${minSlots} to ${maxSlots}`);
  check('firstWindowMs', within(settings.firstWindowMs, 0, Number.MAX_VALUE), 'a time in ms, 0 or more');
  check(
    'reviewMs',
    settings.reviewMs > 0 && within(settings.reviewMs, 0, Number.MAX_VALUE),
    'a time in ms, more than 0',
  );
  check('fillPercent', within(settings.fillPercent, 1, 100), 'a percentage from 1 to 100');
  check('evictPercent', within(settings.evictPercent, 1, 100), 'a percentage from 1 to 100');
  const shareIsGood = within(settings.fifoShare, 0, 1) && settings.fifoShare > 0 && settings.fifoShare < 1;
  check('fifoShare', shareIsGood, 'a number between 0 and 1, both excluded');
  check('adaptive', typeof settings.adaptive === 'boolean', 'true or false');
  check('lruMarginPercent', within(settings.lruMarginPercent, 0, 100), 'a percentage from 0 to 100');
  const most = slotsAreGood ? slots : maxSlots;
  check(
    'victims',
    Number.isInteger(settings.victims) && within(settings.victims, 1, most),
    `a whole number from 1 to the number of slots (${most})`,
  );
  check('intervalMs', within(settings.intervalMs, 1, 2 ** 31 - 1), 'a time in ms, 1 or more');
  for (const name of Object.keys(options)) {
    if (!(name in settings) || name === 'slots') problems.push(`${name} is not a setting of the cache`);
  }
  if (problems.length > 0) {
    throw new WalshipError(
      'WALSHIP_ERR_CONFIG',
      `cache settings: ${problems.join('; ')}. Correct ${problems.length === 1 ? 'it' : 'them'} and start again.`,
      { details: { problems } },
    );
  }
  return settings;
}

type Values = Record<string, unknown>;

function show(value: unknown): string {
  return typeof value === 'string' ? JSON.stringify(value) : String(value);
}

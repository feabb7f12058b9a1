import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { WalshipError } from '../engine/errors.js';
import type { Pages } from './pages.js';
import { type Finding, Pass, type PassOptions, type PassProgress } from './pass.js';

/** What may be set of a node's scrubber. */
export const scrubSchema = z.strictObject({
  bytesPerSecond: z
    .number()
    .int()
    .min(0)
    .max(2 ** 40)
    .optional(),
  repair: z.boolean().optional(),
  pauseMs: z
    .number()
    .int()
    .min(0)
    .max(7 * 24 * 3_600_000)
    .optional(),
});

export interface ScrubSettings {
  /** Of the log, looked at in the background; as much is asked of each neighbour. 0: never. Default 4 MiB. */
  readonly bytesPerSecond?: number | undefined;
  /** Repair what can be. Default true. */
  readonly repair?: boolean | undefined;
  /** From the end of the log to its beginning again. Default 10 min. */
  readonly pauseMs?: number | undefined;
}

export const scrubDefaults = {
  bytesPerSecond: 4 * 1024 * 1024,
  repair: true,
  pauseMs: 600_000,
} as const satisfies Required<ScrubSettings>;

/** A step of maintenance. */
export interface ScrubEvent {
  readonly level: 'info' | 'warn' | 'error';
  readonly event: 'scrub-begun' | 'scrub-damage' | 'scrub-repair' | 'scrub-isolated' | 'scrub-ended';
  readonly message: string;
  readonly facts?: Readonly<Record<string, string | number | boolean>>;
}

export interface ScrubberOptions {
  /** For its position and for what it sets aside; made when needed. */
  readonly dir: string;
  readonly settings?: ScrubSettings | undefined;
  readonly onEvent?: (event: ScrubEvent) => void;
}

export interface ScrubStatus {
  /** 0: nothing is done in the background. */
  readonly bytesPerSecond: number;
  /** The pass that is running, or the last one. */
  readonly pass?: PassProgress;
  /** It was asked for, and is not the background's. */
  readonly foreground: boolean;
  /** Passes of the background that have reached the end, ever. */
  readonly passes: number;
  /** ISO 8601. */
  readonly lastEndedAt?: string;
}

const positionSchema = z.strictObject({
  nextPage: z.number().int().min(0),
  passes: z.number().int().min(0),
  lastEndedAt: z.string().optional(),
});
type Position = z.infer<typeof positionSchema>;

const positionMs = 2000;

/**
 * Looks after a node's copies of the log's pages, slowly and for ever: passes over all of them, from where the last one
 * stopped, also after a restart. One pass runs at a time; one that is asked for takes the background's place meanwhile.
 */
export class Scrubber {
  readonly #pages: Pages;
  readonly #options: ScrubberOptions;
  readonly #settings: Required<{ [Key in keyof ScrubSettings]-?: NonNullable<ScrubSettings[Key]> }>;
  readonly #stopped = new AbortController();
  #position: Position;
  #pass: Pass | undefined;
  #passStop = new AbortController();
  #foreground = false;
  #background: Promise<void> | undefined;
  #asked: Promise<PassProgress> | undefined;

  constructor(pages: Pages, options: ScrubberOptions) {
    this.#pages = pages;
    this.#options = options;
    const { settings = {} } = options;
    this.#settings = {
      bytesPerSecond: settings.bytesPerSecond ?? scrubDefaults.bytesPerSecond,
      repair: settings.repair ?? scrubDefaults.repair,
      pauseMs: settings.pauseMs ?? scrubDefaults.pauseMs,
    };
    this.#position = readPosition(options.dir);
  }

  /** Begins the background's work, if there is to be any. */
  start(): void {
    if (this.#settings.bytesPerSecond > 0 && !this.#stopped.signal.aborted)
      this.#background ??= this.#runBackground();
  }

  /** When it resolves nothing is read or written any more. */
  async stop(): Promise<void> {
    this.#stopped.abort();
    this.#passStop.abort();
    await this.#background;
    await this.#asked;
  }

  status(): ScrubStatus {
    const { passes, lastEndedAt } = this.#position;
    return {
      bytesPerSecond: this.#settings.bytesPerSecond,
      ...(this.#pass && { pass: this.#pass.progress }),
      foreground: this.#foreground,
      passes,
      ...(lastEndedAt !== undefined && { lastEndedAt }),
    };
  }

  /**
   * Looks at every page now, from the first one; {@link status} shows how far it is.
   *
   * @param options `bytesPerSecond` 0: as fast as it goes
   * @throws {WalshipError} `WALSHIP_ERR_BUSY` if such a pass runs already, `WALSHIP_ERR_CLOSED`
   */
  verify(options: { readonly repair: boolean; readonly bytesPerSecond: number }): Promise<PassProgress> {
    if (this.#stopped.signal.aborted)
      throw new WalshipError('WALSHIP_ERR_CLOSED', 'the node is being stopped');
    if (this.#asked)
      throw new WalshipError(
        'WALSHIP_ERR_BUSY',
        'the pages of this node are being verified already; wait for that',
      );
    const asked = this.#runAsked(options).finally(() => {
      this.#asked = undefined;
    });
    this.#asked = asked;
    return asked;
  }

  async #runAsked(options: { repair: boolean; bytesPerSecond: number }): Promise<PassProgress> {
    this.#passStop.abort();
    await this.#background;
    this.#background = undefined;
    this.#foreground = true;
    const progress = await this.#runPass(options, 0);
    if (!this.#stopped.signal.aborted) {
      // What is found from now on is the background's; what was found here stays to be seen until it begins a pass.
      this.#passStop = new AbortController();
      this.start();
    }
    return progress;
  }

  async #runBackground(): Promise<void> {
    const { pauseMs, ...settings } = this.#settings;
    // After a pass that was asked for, too: two passes need not follow one another.
    if (this.#foreground) await this.#pause(pauseMs);
    while (!this.#passStop.signal.aborted) {
      this.#foreground = false;
      const { state, page } = await this.#runPass(settings, this.#position.nextPage);
      const done = state === 'done';
      this.#keep({
        ...this.#position,
        nextPage: done ? 0 : page,
        ...(done && { passes: this.#position.passes + 1, lastEndedAt: new Date().toISOString() }),
      });
      await this.#pause(pauseMs);
    }
  }

  async #pause(ms: number): Promise<void> {
    await sleep(ms, undefined, { signal: this.#passStop.signal, ref: false }).catch(() => {});
  }

  async #runPass(
    { repair, bytesPerSecond }: { repair: boolean; bytesPerSecond: number },
    from: number,
  ): Promise<PassProgress> {
    const foreground = this.#foreground;
    if (foreground) this.#passStop = new AbortController();
    if (this.#stopped.signal.aborted) this.#passStop.abort();
    const options: PassOptions = {
      repair,
      bytesPerSecond,
      asideDir: this.#options.dir,
      signal: this.#passStop.signal,
      onFinding: (finding) => this.#tellFinding(finding),
      onRepair: (page, why, source) =>
        this.#tell('warn', 'scrub-damage', `page ${page}: ${why}; it is being repaired from ${source}`, {
          page,
          source,
        }),
    };
    const pass = new Pass(this.#pages, options);
    this.#pass = pass;
    const who = foreground ? 'asked for' : 'in the background';
    this.#tell(
      'info',
      'scrub-begun',
      `looking at the log's pages (${who})${from > 0 ? ` from page ${from}` : ''}`,
      {
        foreground,
        repair,
      },
    );
    const timer = foreground ? undefined : setInterval(() => this.#keepPage(pass), positionMs);
    timer?.unref();
    const progress = await pass.run(from);
    clearInterval(timer);
    const { state, problem, findings, findingsLeftOut, page, firstPage } = progress;
    this.#tell(
      state === 'failed' ? 'warn' : 'info',
      'scrub-ended',
      `looked at ${page - firstPage} pages (${who}): ${findings.length + findingsLeftOut} found in bad order` +
        (state === 'done'
          ? ''
          : state === 'stopped'
            ? '; stopped before the end'
            : `; ended early: ${problem}`),
      { state, pages: page - firstPage, found: findings.length + findingsLeftOut },
    );
    return progress;
  }

  #tellFinding({ page, lsn, place, what, outcome, source, copy }: Finding): void {
    const facts = { page, place, ...(lsn !== undefined && { pageLsn: String(lsn) }) };
    const at = place === 'file' ? '' : `page ${page}${place === 'memory' ? ' in memory' : ''}: `;
    if (outcome === 'isolated') {
      const kept = copy === undefined ? '' : `; a copy of it was set aside as ${copy}`;
      this.#tell('error', 'scrub-isolated', `${at}${what}; it is left as it is${kept}`, facts);
    } else if (outcome === 'repaired') {
      this.#tell('warn', 'scrub-repair', `${at}${what}; repaired from ${source}`, facts);
    } else {
      this.#tell('warn', 'scrub-damage', `${at}${what}; it can be repaired from ${source}`, facts);
    }
  }

  #tell(
    level: ScrubEvent['level'],
    event: ScrubEvent['event'],
    message: string,
    facts: ScrubEvent['facts'],
  ): void {
    this.#options.onEvent?.({ level, event, message, ...(facts && { facts }) });
  }

  #keepPage(pass: Pass): void {
    const { page } = pass.progress;
    if (page !== this.#position.nextPage) this.#keep({ ...this.#position, nextPage: page });
  }

  /** Not synced: what a crash costs is a few pages looked at twice. */
  #keep(position: Position): void {
    this.#position = position;
    const path = positionPath(this.#options.dir);
    try {
      mkdirSync(this.#options.dir, { recursive: true });
      writeFileSync(`${path}.new`, JSON.stringify(position));
      renameSync(`${path}.new`, path);
    } catch {
      // The next pass begins at the first page then.
    }
  }
}

function positionPath(dir: string): string {
  return join(dir, 'position.json');
}

function readPosition(dir: string): Position {
  try {
    return positionSchema.parse(JSON.parse(readFileSync(positionPath(dir), 'utf8')));
  } catch {
    return { nextPage: 0, passes: 0 };
  }
}

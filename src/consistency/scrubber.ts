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
  /** Of the log, looked at in the background; as much is asked of each neighbour. 0: never. Default 512 KiB. */
  readonly bytesPerSecond?: number | undefined;
  /** Repair what can be. Default true. */
  readonly repair?: boolean | undefined;
  /** From the end of the log to its beginning again. Default 10 min. */
  readonly pauseMs?: number | undefined;
}

export const scrubDefaults = {
  bytesPerSecond: 512 * 1024,
  repair: true,
  pauseMs: 600_000,
} as const satisfies Required<ScrubSettings>;

/** A step of maintenance. */
export interface ScrubEvent {
  readonly level: 'info' | 'warn' | 'error';
  readonly event: 'scrub-begun' | 'scrub-damage' | 'scrub-repair' | 'scrub-isolated' | 'scrub-ended';
  readonly message: string;
  readonly facts: Readonly<Record<string, string | number | boolean>>;
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
  /** The background's pass that is running, or its last one. */
  readonly pass?: PassProgress;
  /** Passes of the background that have reached the end, ever. */
  readonly passes: number;
  /** ISO 8601. */
  readonly lastEndedAt?: string;
  /** What was asked for last, by {@link Scrubber.verify}. */
  readonly verify?: PassProgress & { readonly number: number };
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
  readonly #settings: Record<'bytesPerSecond' | 'pauseMs', number> & { readonly repair: boolean };
  #position: Position;
  #pass: Pass | undefined;
  #background: { readonly done: Promise<void>; readonly stop: AbortController } | undefined;
  #asked: { readonly number: number; readonly pass: Pass } | undefined;
  #verifying: Promise<PassProgress> | undefined;
  readonly #stopped = new AbortController();

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

  /** Begins the background's work, if there is to be any, in so many milliseconds. */
  start(afterMs = 0): void {
    this.#begin(afterMs);
  }

  /** When it resolves nothing is read or written any more. */
  async stop(): Promise<void> {
    this.#stopped.abort();
    this.#background?.stop.abort();
    await this.#background?.done;
    await this.#verifying;
  }

  status(): ScrubStatus {
    const { passes, lastEndedAt } = this.#position;
    return {
      bytesPerSecond: this.#settings.bytesPerSecond,
      ...(this.#pass && { pass: this.#pass.progress }),
      passes,
      ...(lastEndedAt !== undefined && { lastEndedAt }),
      ...(this.#asked && { verify: { number: this.#asked.number, ...this.#asked.pass.progress } }),
    };
  }

  /** Pages that the newest look found in bad order and left as they are. */
  get damagedPages(): number {
    const looks = [this.#pass, this.#asked?.pass].flatMap((pass) => (pass ? [pass.progress] : []));
    const [newest] = looks.sort((a, b) => b.startedAt.localeCompare(a.startedAt));
    if (!newest) return 0;
    const left = newest.findings.filter(({ outcome }) => outcome !== 'repaired').length;
    return left + newest.findingsLeftOut;
  }

  /**
   * Looks at every page now, from the first one; {@link status} shows how far it is.
   *
   * @param options `bytesPerSecond` 0: as fast as it goes
   * @returns `number`: of this pass in {@link ScrubStatus.verify}
   * @throws {WalshipError} `WALSHIP_ERR_BUSY` if such a pass runs already, `WALSHIP_ERR_CLOSED`
   */
  verify(options: { readonly repair: boolean; readonly bytesPerSecond: number }): {
    readonly number: number;
    readonly done: Promise<PassProgress>;
  } {
    if (this.#stopped.signal.aborted)
      throw new WalshipError('WALSHIP_ERR_CLOSED', 'the node is being stopped');
    if (this.#verifying)
      throw new WalshipError(
        'WALSHIP_ERR_BUSY',
        'the pages of this node are being verified already; wait for that',
      );
    const number = (this.#asked?.number ?? 0) + 1;
    const pass = this.#newPass(options, this.#stopped.signal);
    this.#asked = { number, pass };
    const done = this.#runAsked(pass);
    this.#verifying = done;
    return { number, done };
  }

  async #runAsked(pass: Pass): Promise<PassProgress> {
    this.#background?.stop.abort();
    await this.#background?.done;
    const progress = await this.#runPass(pass, 'asked for', 0);
    this.#verifying = undefined;
    // All was just looked at.
    if (this.#background) this.#begin(this.#settings.pauseMs);
    return progress;
  }

  #begin(afterMs: number): void {
    if (this.#settings.bytesPerSecond === 0 || this.#stopped.signal.aborted) return;
    const stop = new AbortController();
    this.#background = { stop, done: this.#runBackground(stop.signal, afterMs) };
  }

  async #runBackground(signal: AbortSignal, afterMs: number): Promise<void> {
    const { pauseMs, ...settings } = this.#settings;
    const pause = (ms: number) => sleep(ms, undefined, { signal, ref: false }).catch(() => {});
    if (afterMs > 0) await pause(afterMs);
    while (!signal.aborted) {
      const pass = this.#newPass(settings, signal);
      this.#pass = pass;
      const timer = setInterval(() => this.#keepPage(pass), positionMs).unref();
      const { state, page } = await this.#runPass(pass, 'in the background', this.#position.nextPage);
      clearInterval(timer);
      const done = state === 'done';
      this.#keep({
        ...this.#position,
        nextPage: done ? 0 : page,
        ...(done && { passes: this.#position.passes + 1, lastEndedAt: new Date().toISOString() }),
      });
      await pause(pauseMs);
    }
  }

  #newPass(settings: Pick<PassOptions, 'repair' | 'bytesPerSecond'>, signal: AbortSignal): Pass {
    const { repair, bytesPerSecond } = settings;
    return new Pass(this.#pages, {
      repair,
      bytesPerSecond,
      asideDir: this.#options.dir,
      signal,
      onFinding: (finding) => this.#tellFinding(finding),
      onRepair: (page, why, source) =>
        this.#tell('warn', 'scrub-damage', `page ${page}: ${why}; it is being repaired from ${source}`, {
          page,
          source,
        }),
    });
  }

  async #runPass(pass: Pass, who: string, from: number): Promise<PassProgress> {
    const where = from > 0 ? ` from page ${from} on` : '';
    this.#tell('info', 'scrub-begun', `looking at the log's pages (${who})${where}`, {});
    const progress = await pass.run(from);
    const { state, problem, findings, findingsLeftOut, page, firstPage } = progress;
    const found = findings.length + findingsLeftOut;
    const end = {
      done: '',
      running: '',
      stopped: '; stopped before the end',
      failed: `; ended early: ${problem}`,
    };
    this.#tell(
      state === 'failed' ? 'warn' : 'info',
      'scrub-ended',
      `looked at ${page - firstPage} pages (${who}): ${found} found in bad order${end[state]}`,
      { state, pages: page - firstPage, found },
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
    facts: NonNullable<ScrubEvent['facts']>,
  ): void {
    this.#options.onEvent?.({ level, event, message, facts });
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

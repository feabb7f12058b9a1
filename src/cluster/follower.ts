import { Agent, request } from 'node:http';
import { problemsOf } from '../engine/options.js';
import { Pause } from '../engine/pause.js';
import { type NodeView, nodeViewSchema } from './view.js';

/** A node that does not answer is asked again after so long, doubling. */
const backOffMs = { min: 10, max: 250 };
/** A node answers a long poll after 10 s at the latest. */
const pollMs = 15_000;
/** An answer that tells nothing new should have waited: then it is asked no faster than this. */
const idleMs = 100;
const answerBytesMax = 4 << 20;
/** The shortest of the last ones is the way; the others waited for somebody's processor. */
const roundTripsMax = 8;

export interface FollowerOptions {
  /** How often the node is asked beside the long poll, which alone would not show that it has fallen silent. */
  readonly checkMs: number;
  /** A check that has no answer for so long: the node is taken for dead. */
  readonly silentMs: number;
}

/**
 * Follows what one node says of itself: a long poll tells changes as they happen, and a broken connection at once; a
 * check every `checkMs` tells new positions, and that the node still answers at all.
 */
export class NodeFollower {
  readonly http: string;
  /** What it said last; undefined while it does not answer. */
  view: NodeView | undefined;
  /** When that was asked for, by performance.now(): what it says is of no earlier time. */
  askedAt = 0;
  /** Why it does not answer. */
  problem = 'was not reached yet';
  readonly #options: FollowerOptions;
  readonly #roundTripsMs: number[] = [];
  readonly #onChange: () => void;
  readonly #agent = new Agent({ keepAlive: true });
  #closed = false;
  /** Ends the requests under way, which then fail with the reason. */
  readonly #cancels = new Set<(why: string) => void>();
  readonly #pause = new Pause();
  #checking: Promise<void> | undefined;
  #checkTimer: NodeJS.Timeout | undefined;

  /** `onChange` is called after every change of `view`. */
  constructor(http: string, options: FollowerOptions, onChange: () => void) {
    this.http = http;
    this.#options = options;
    this.#onChange = onChange;
    void this.#run();
  }

  /** What a question and its answer take; undefined: not measured yet. */
  get roundTripMs(): number | undefined {
    return this.#roundTripsMs.length > 0 ? Math.min(...this.#roundTripsMs) : undefined;
  }

  /** Asks for its view now. Never fails: `view` tells. */
  check(): Promise<void> {
    this.#checking ??= this.#check().finally(() => {
      this.#checking = undefined;
    });
    return this.#checking;
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#checkTimer);
    this.#pause.wake();
    this.#cancelAll('closed');
    this.#agent.destroy();
  }

  async #run(): Promise<void> {
    let waitMs = 0;
    while (!this.#closed) {
      const version = this.view?.version;
      const began = performance.now();
      try {
        const after = version === undefined ? '' : `?after=${encodeURIComponent(version)}`;
        const view = await this.#get(`/cluster${after}`, after === '' ? this.#options.silentMs : pollMs);
        const isNew = view.version !== version;
        this.#take(view, began);
        this.#scheduleCheck();
        waitMs = !isNew && performance.now() - began < idleMs ? idleMs : 0;
      } catch (error) {
        this.#lose((error as Error).message);
        waitMs = Math.min(Math.max(2 * waitMs, backOffMs.min), backOffMs.max);
      }
      if (waitMs > 0 && !this.#closed) await this.#pause.wait(waitMs);
    }
  }

  #scheduleCheck(): void {
    clearTimeout(this.#checkTimer);
    if (!this.#closed) this.#checkTimer = setTimeout(() => void this.check(), this.#options.checkMs);
  }

  async #check(): Promise<void> {
    if (this.#closed) return;
    clearTimeout(this.#checkTimer);
    if (this.view === undefined) {
      this.#pause.wake();
      return;
    }
    try {
      const began = performance.now();
      const view = await this.#get('/cluster', this.#options.silentMs);
      const took = performance.now() - began;
      this.#roundTripsMs.push(took);
      if (this.#roundTripsMs.length > roundTripsMax) this.#roundTripsMs.shift();
      this.#take(view, began);
      this.#scheduleCheck();
    } catch (error) {
      // The long poll may go on waiting for it for long.
      this.#cancelAll((error as Error).message);
    }
  }

  #take(view: NodeView, askedAt: number): void {
    if (this.#closed) return;
    this.view = view;
    this.askedAt = askedAt;
    this.#onChange();
  }

  #lose(why: string): void {
    this.problem = why;
    clearTimeout(this.#checkTimer);
    if (this.view === undefined || this.#closed) return;
    this.view = undefined;
    this.#onChange();
  }

  #cancelAll(why: string): void {
    for (const cancel of [...this.#cancels]) cancel(why);
  }

  #get(path: string, timeoutMs: number): Promise<NodeView> {
    return new Promise((resolve, reject) => {
      const fail = (why: string) => {
        clearTimeout(timer);
        this.#cancels.delete(fail);
        reject(new Error(why));
        asked.destroy();
      };
      const asked = request(`${this.http}${path}`, { agent: this.#agent }, (response) => {
        const parts: Buffer[] = [];
        let bytes = 0;
        response.on('data', (part: Buffer) => {
          parts.push(part);
          bytes += part.length;
          if (bytes > answerBytesMax) fail('its answer is too long');
        });
        response.on('close', () => fail('the connection broke'));
        response.on('end', () => {
          if (response.statusCode !== 200) return fail(`answers HTTP ${response.statusCode}`);
          clearTimeout(timer);
          this.#cancels.delete(fail);
          try {
            resolve(parse(Buffer.concat(parts).toString()));
          } catch (error) {
            reject(error);
          }
        });
      });
      const timer = setTimeout(() => fail(`no answer within ${timeoutMs} ms`), timeoutMs);
      asked.on('error', (error) => fail(error.message || 'the connection broke'));
      this.#cancels.add(fail);
      asked.end();
    });
  }
}

function parse(text: string): NodeView {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    throw new Error('answers without JSON: is it a walship node?');
  }
  const parsed = nodeViewSchema.safeParse(json);
  if (parsed.success) return parsed.data;
  throw new Error(`answers what no walship node answers: ${problemsOf(parsed.error).join('; ')}`);
}

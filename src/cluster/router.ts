import { EventEmitter } from 'node:events';
import { z } from 'zod';
import { WalshipError } from '../engine/errors.js';
import { problemsOf } from '../engine/options.js';
import {
  baseUrl,
  choosePrimary,
  chooseReplica,
  type LiveNode,
  lostBy,
  memberAddresses,
  type Near,
  primaryEpoch,
  type Target,
  unaskedMembers,
} from './choose.js';
import { NodeFollower } from './follower.js';
import { outcomeOf } from './outcome.js';
import { decodeToken, nothingSeen, Session } from './session.js';

export interface RouterOptions {
  /** `http://host:port` of nodes: one that answers is enough, because it names the others. */
  readonly nodes: readonly string[];
  /** How often a node is asked that has told nothing new. Default 1000. */
  readonly checkMs?: number;
  /** A node that has not answered for so long is taken for dead. Default 500. */
  readonly silentMs?: number;
  /** Also ask the nodes that the others name, at the addresses that they are registered with. Default true. */
  readonly discover?: boolean;
}

export interface WaitOptions {
  /** Default 10,000. */
  readonly timeoutMs?: number;
}

export interface ReplicaOptions extends WaitOptions {
  /**
   * What the reader must see: an LSN of the log as it is now. Of one that an older primary gave nobody knows whether it is
   * still the same; a session knows. Default 0: anything.
   */
  readonly minLsn?: bigint;
  /**
   * How old what the reader sees may be: a node qualifies that has applied everything the primary had made so long ago.
   * Measured without comparing clocks, and never too little; a healthy standby is seldom below two heartbeats (40 ms). Under
   * that the primary's word for itself, as old as its answer, is all there is. Default: any age.
   */
  readonly maxLagMs?: number;
  /**
   * Which of those that qualify: names of nodes, the nearest first (others only if none of these qualifies), or `rtt`: those
   * whose answers take the least time, within half as long again. Default: all alike.
   */
  readonly near?: Near;
  /** The reader sees all that this session has written and read. */
  readonly session?: Session;
}

/** For {@link Router.withReplica}. */
export interface ReadOptions extends ReplicaOptions {
  /** Pause before another node is tried. Default 5. */
  readonly retryMs?: number;
}

export interface WithPrimaryOptions extends WaitOptions {
  /** Pause before it is tried again; a new primary ends it. Default 20. */
  readonly retryMs?: number;
  /** Doing it twice does no harm: it is tried again also when it may have been done. Default false. */
  readonly idempotent?: boolean;
}

const url = z.string().regex(/^https?:\/\/[^/?#]+\/?$|^[^/?#]+:\d{1,5}$/, 'must be http://host:port');
const optionsSchema = z.strictObject({
  nodes: z.array(url).min(1),
  checkMs: z.number().int().min(20).max(3_600_000).optional(),
  silentMs: z.number().int().min(10).max(3_600_000).optional(),
  discover: z.boolean().optional(),
});

const defaultTimeoutMs = 10_000;
/** Positions are no news that nodes tell by themselves: whoever waits for one asks this often. */
const positionMs = { min: 2, max: 50 };

/**
 * Knows who is primary and which standbys have what, by asking the nodes themselves.
 *
 * `change` is emitted with the new primary, and with undefined when there is none any more.
 *
 * @example
 * const router = new Router({ nodes: ['http://10.0.0.1:8008', 'http://10.0.0.2:8008'] });
 * router.on('change', (primary) => console.log(primary?.node ?? 'none'));
 * await router.withPrimary(async (primary, signal) => { … });
 */
export class Router extends EventEmitter<{ change: [primary: Target | undefined] }> {
  readonly #options: { readonly checkMs: number; readonly silentMs: number };
  readonly #discover: boolean;
  readonly #given: ReadonlySet<string>;
  readonly #followers = new Map<string, NodeFollower>();
  /** Called after every change of what is known. */
  readonly #waiting = new Set<() => void>();
  #primary: Target | undefined;
  /** By address: reads under way, and when it was chosen last. */
  readonly #reads = new Map<string, number>();
  readonly #chosenAt = new Map<string, number>();
  #choices = 0;
  #closed = false;

  /** @throws {WalshipError} `WALSHIP_ERR_CONFIG` */
  constructor(options: RouterOptions) {
    super();
    const parsed = optionsSchema.safeParse(options);
    if (!parsed.success) {
      const problems = problemsOf(parsed.error);
      throw new WalshipError('WALSHIP_ERR_CONFIG', `router: ${problems.join('; ')}`, {
        details: { problems },
      });
    }
    this.#options = { checkMs: options.checkMs ?? 1000, silentMs: options.silentMs ?? 500 };
    this.#discover = options.discover ?? true;
    this.#given = new Set(options.nodes.map(baseUrl));
    for (const http of this.#given) this.#follow(http);
  }

  /**
   * The primary: the node that says so itself, of the newest epoch that anybody knows of. Waits while there is none.
   *
   * @throws {WalshipError} `WALSHIP_ERR_NO_PRIMARY` after `timeoutMs`, with what each node said; `WALSHIP_ERR_CLOSED`
   */
  async primary({ timeoutMs = defaultTimeoutMs }: WaitOptions = {}): Promise<Target> {
    const deadline = performance.now() + timeoutMs;
    for (;;) {
      this.#open();
      if (this.#primary) return this.#primary;
      const left = deadline - performance.now();
      if (left <= 0)
        throw this.#nobody('WALSHIP_ERR_NO_PRIMARY', `no node was primary within ${timeoutMs} ms`);
      await this.#changed(left);
    }
  }

  /**
   * A standby that has what is asked for, and that neither itself nor the primary's monitor distrusts (stalled, drifting,
   * damaged, disk full); the primary if there is no such standby. Of several the nearest, then the one with the fewest reads
   * of {@link withReplica} under way, then each in its turn. Waits while nobody has it.
   *
   * @throws {WalshipError} `WALSHIP_ERR_NO_REPLICA` after `timeoutMs`, with what each node said; `WALSHIP_ERR_SESSION_LOST`:
   * see {@link Session}; `WALSHIP_ERR_CLOSED`
   */
  async replica(options: ReplicaOptions = {}): Promise<Target> {
    const { minLsn = 0n, timeoutMs = defaultTimeoutMs, maxLagMs, near, session } = options;
    const deadline = performance.now() + timeoutMs;
    for (let waitMs = positionMs.min; ; waitMs = Math.min(2 * waitMs, positionMs.max)) {
      this.#open();
      const live = this.#live();
      const chosen = chooseReplica(live, { minLsn, maxLagMs, near, token: session?.token });
      if (chosen) {
        this.#chosenAt.set(chosen.http, ++this.#choices);
        session?.checked(chosen.epoch);
        return chosen;
      }
      if (session) checkSession(session, live);
      const left = deadline - performance.now();
      if (left <= 0) {
        throw this.#nobody('WALSHIP_ERR_NO_REPLICA', `${wanted(options)} within ${timeoutMs} ms`);
      }
      // Whoever answers first may be the one.
      for (const follower of this.#followers.values()) if (follower.view) void follower.check();
      await this.#changed(Math.min(left, waitMs));
    }
  }

  /**
   * What a client has written and read, for {@link replica}: a new one, or the one that `token` was made of.
   *
   * @throws {WalshipError} `WALSHIP_ERR_ARGUMENT`: that is no token
   */
  session(token?: string): Session {
    const seen = token === undefined ? nothingSeen : decodeToken(token);
    return new Session(seen, () => this.#primary?.epoch ?? primaryEpoch(this.#live()));
  }

  /**
   * Runs `read` with a {@link replica}, and with another one if that could not be connected to, if the error was marked with
   * `notApplied()`, or if it is the `WALSHIP_ERR_STALE_READ` of a session. Any other error is thrown as it is. Nodes with
   * fewer reads under way are preferred.
   *
   * @throws {WalshipError} as {@link replica}; after `timeoutMs` what the last node said is the `cause`
   */
  async withReplica<Result>(
    options: ReadOptions,
    read: (replica: Target) => Promise<Result>,
  ): Promise<Result> {
    const { timeoutMs = defaultTimeoutMs, retryMs = 5 } = options;
    const deadline = performance.now() + timeoutMs;
    for (;;) {
      const target = await this.replica({ ...options, timeoutMs: Math.max(0, deadline - performance.now()) });
      this.#reads.set(target.http, (this.#reads.get(target.http) ?? 0) + 1);
      let error: unknown;
      try {
        return await read(target);
      } catch (thrown) {
        error = thrown;
      } finally {
        this.#reads.set(target.http, (this.#reads.get(target.http) ?? 1) - 1);
      }
      const isStale = error instanceof WalshipError && error.code === 'WALSHIP_ERR_STALE_READ';
      if (!isStale && outcomeOf(error) !== 'not-applied') throw error;
      const left = deadline - performance.now();
      if (left <= 0)
        throw this.#nobody('WALSHIP_ERR_NO_REPLICA', `no node answered within ${timeoutMs} ms`, error);
      // What is known of it is wrong: before it is chosen again it has to say something.
      await Promise.race([this.#followers.get(target.http)?.check(), this.#changed(left)]);
      await this.#changed(Math.min(retryMs, left));
    }
  }

  /**
   * Runs `write` with the primary, and again with the next one when it is sure that nothing was done: the primary could
   * not be connected to; the error is a `WalshipError` `WALSHIP_ERR_NOT_PRIMARY` with `details.appended` false; or it was
   * marked with `notApplied()`. An error marked with `known()` is the primary's answer and is thrown as it is.
   *
   * @param write its signal is aborted when the time is over, and when another primary has taken over meanwhile
   * @throws {WalshipError} `WALSHIP_ERR_UNKNOWN_OUTCOME`: it may have been done, or may still be (`cause` says what
   * happened; with `idempotent` only after `timeoutMs`); `WALSHIP_ERR_NO_PRIMARY`: it was not done within `timeoutMs`;
   * `WALSHIP_ERR_CLOSED`
   */
  async withPrimary<Result>(
    write: (primary: Target, signal: AbortSignal) => Promise<Result>,
    options: WithPrimaryOptions = {},
  ): Promise<Result> {
    const { timeoutMs = defaultTimeoutMs, retryMs = 20, idempotent = false } = options;
    const deadline = performance.now() + timeoutMs;
    /** Of an earlier attempt that may have been carried out. */
    let doubt: unknown;
    for (;;) {
      const primary = await this.primary({ timeoutMs: Math.max(0, deadline - performance.now()) }).catch(
        (error) => {
          throw doubt === undefined
            ? error
            : unknownOutcome(`no primary answered within ${timeoutMs} ms`, doubt);
        },
      );
      let error: unknown;
      try {
        return await this.#attempt(write, primary, deadline, idempotent);
      } catch (thrown) {
        error = thrown;
      }
      const outcome = outcomeOf(error);
      if (outcome === 'known') throw error;
      if (outcome === 'unknown') {
        if (!idempotent) throw unknownOutcome(`node ${primary.node} may or may not have done it`, error);
        doubt = error;
      }
      const left = deadline - performance.now();
      if (left <= 0) {
        if (doubt !== undefined) throw unknownOutcome(`it was not confirmed within ${timeoutMs} ms`, doubt);
        throw this.#nobody('WALSHIP_ERR_NO_PRIMARY', `no primary took it within ${timeoutMs} ms`, error);
      }
      // It may know already what nobody has told yet.
      void this.#followers.get(primary.http)?.check();
      await this.#pauseAtMost(Math.min(retryMs, left), primary);
    }
  }

  /** What every node said last; undefined: it does not answer. For display. */
  nodes(): { http: string; view: LiveNode['view'] | undefined; problem: string | undefined }[] {
    return [...this.#followers.values()].map(({ http, view, problem }) => ({
      http,
      view,
      problem: view === undefined ? problem : undefined,
    }));
  }

  /** Ends all connections; who waits is told `WALSHIP_ERR_CLOSED`. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const follower of this.#followers.values()) follower.close();
    this.#wakeAll();
  }

  async #attempt<Result>(
    write: (primary: Target, signal: AbortSignal) => Promise<Result>,
    primary: Target,
    deadline: number,
    idempotent: boolean,
  ): Promise<Result> {
    const abort = new AbortController();
    let giveUp = (_: Error) => {};
    const givenUp = new Promise<never>((_, reject) => {
      giveUp = reject;
    });
    const timer = setTimeout(() => {
      const why = new Error(`no answer of node ${primary.node} in time`);
      abort.abort(why);
      giveUp(why);
    }, deadline - performance.now());
    const onChange = () => {
      if (!this.#closed && primaryEpoch(this.#live()) <= primary.epoch) return;
      const why = this.#closed
        ? new Error('the router was closed')
        : new Error(`node ${primary.node} is not the primary any more`);
      abort.abort(why);
      // The old primary may still answer that it was done, and then it was. Without that it is not waited for.
      if (idempotent || this.#closed) giveUp(why);
    };
    this.#waiting.add(onChange);
    try {
      return await Promise.race([Promise.resolve(write(primary, abort.signal)), givenUp]);
    } finally {
      clearTimeout(timer);
      this.#waiting.delete(onChange);
    }
  }

  #follow(http: string): void {
    if (this.#followers.has(http) || this.#closed) return;
    this.#followers.set(http, new NodeFollower(http, this.#options, () => this.#update()));
  }

  #live(): LiveNode[] {
    const live: LiveNode[] = [];
    const now = performance.now();
    for (const { http, view, askedAt, roundTripMs } of this.#followers.values()) {
      if (view === undefined) continue;
      const outstanding = this.#reads.get(http) ?? 0;
      const chosenAt = this.#chosenAt.get(http) ?? 0;
      live.push({ http, view, ageMs: now - askedAt, roundTripMs, outstanding, chosenAt });
    }
    return live;
  }

  #update(): void {
    const live = this.#live();
    if (this.#discover) this.#followMembers(live);
    const next = choosePrimary(live);
    const before = this.#primary;
    this.#primary = next;
    this.#wakeAll();
    if (next?.node === before?.node && next?.epoch === before?.epoch) return;
    // A listener's own failure is not the node's that is being read here.
    queueMicrotask(() => this.emit('change', next));
  }

  /** Those that were not given, for as long as they answer or are named. */
  #followMembers(live: readonly LiveNode[]): void {
    for (const http of unaskedMembers(live)) this.#follow(http);
    if (live.length === 0) return;
    const named = memberAddresses(live);
    for (const [http, follower] of this.#followers) {
      if (follower.view !== undefined || this.#given.has(http) || named.has(http)) continue;
      follower.close();
      this.#followers.delete(http);
      this.#chosenAt.delete(http);
    }
  }

  #wakeAll(): void {
    for (const wake of [...this.#waiting]) wake();
  }

  /** Until something has changed, or so long. */
  #changed(milliseconds: number): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        this.#waiting.delete(done);
        resolve();
      };
      const timer = setTimeout(done, milliseconds);
      this.#waiting.add(done);
    });
  }

  async #pauseAtMost(milliseconds: number, last: Target): Promise<void> {
    const deadline = performance.now() + milliseconds;
    for (let left = milliseconds; left > 0 && !this.#closed; left = deadline - performance.now()) {
      await this.#changed(left);
      if (this.#primary && (this.#primary.node !== last.node || this.#primary.epoch !== last.epoch)) return;
    }
  }

  #open(): void {
    if (this.#closed) throw new WalshipError('WALSHIP_ERR_CLOSED', 'the router was closed');
  }

  #nobody(code: string, what: string, cause?: unknown): WalshipError {
    const said = this.nodes().map(({ http, view, problem }) =>
      view === undefined
        ? `${http}: ${problem}`
        : `${http}: ${view.node}, ${view.role}, epoch ${view.epoch}, applied ${view.positions.applied}` +
          (view.lagMs === undefined ? '' : `, ${Math.round(view.lagMs)} ms old`) +
          (view.distrusted ?? []).map(({ node, why }) => `, ${why.join(' and ')} of ${node}`).join('') +
          (view.health.ok ? '' : ', not healthy'),
    );
    return new WalshipError(code, `${what} (${said.join('; ')})`, cause === undefined ? {} : { cause });
  }
}

/** @throws {WalshipError} `WALSHIP_ERR_SESSION_LOST` */
function checkSession({ token }: Session, live: readonly LiveNode[]): void {
  const lost = lostBy(live, token);
  if (lost === undefined) return;
  throw new WalshipError(
    'WALSHIP_ERR_SESSION_LOST',
    `the session has seen LSN ${token.lsn} of epoch ${token.epoch}, and the log of epoch ${lost.epoch} has no more of that ` +
      `than LSN ${lost.keptLsn}: no node has what it saw; call forget() on it, and look what became of its writes`,
    {
      details: {
        token: `${token.epoch}/${token.lsn}`,
        epoch: String(lost.epoch),
        keptLsn: String(lost.keptLsn),
      },
    },
  );
}

function wanted({ minLsn = 0n, maxLagMs, session }: ReplicaOptions): string {
  const lsn = session && session.token.lsn > minLsn ? session.token.lsn : minLsn;
  const age = maxLagMs === undefined ? '' : ` and was at most ${maxLagMs} ms behind`;
  return `no trusted node had applied LSN ${lsn}${age}`;
}

function unknownOutcome(what: string, cause: unknown): WalshipError {
  return new WalshipError(
    'WALSHIP_ERR_UNKNOWN_OUTCOME',
    `${what}: ${(cause as Error)?.message ?? cause}; look whether it was done before it is tried again`,
    { cause },
  );
}

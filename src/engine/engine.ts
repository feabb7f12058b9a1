import { EventEmitter } from 'node:events';
import { isIP } from 'node:net';
import { type CacheStatus, Keeper } from '../cache/keeper.js';
import { type EngineRails, type RailChoice, RailKeeper } from '../cluster/rail-keeper.js';
import { railEnds, thisHost } from '../cluster/rails.js';
import { capabilities } from './capabilities.js';
import { counter } from './counters.js';
import { WalshipError } from './errors.js';
import type { Lsn } from './lsn.js';
import {
  arenaPort,
  type DriveResult,
  type DriveSettings,
  direct,
  fromNative,
  type NativeChunk,
  type NativeEngine,
  type NativeEvent,
  type NativeSettings,
  type NativeStatus,
  native,
  settled,
  type TracedAccess,
} from './native.js';
import {
  type CommitRule,
  dispatchSettings,
  type EngineOptions,
  nativeCommitRule,
  nativeSettings,
  nativeTarget,
  type Upstream,
} from './options.js';
import { Waiters } from './waiters.js';

/** Something changed that an operator would want to know of. */
export interface EngineEvent {
  readonly type: EngineEventType;
  /** The node concerned: the peer of a link, the standby that stalls, or this node. */
  readonly node: string;
  /** `WALSHIP_ERR_…`, or empty for good news. */
  readonly code: string;
  /** One sentence; empty for good news. */
  readonly message: string;
  /** Where the log stood. */
  readonly lsn: Lsn;
}

export type EngineEventType =
  | 'upstream-up'
  | 'upstream-down'
  | 'upstream-unreachable'
  | 'downstream-up'
  | 'downstream-down'
  | 'connection-refused'
  | 'rail-up'
  | 'rail-down'
  | 'rail-changed'
  | 'stalled'
  | 'moving'
  | 'rule-failing'
  | 'rule-met'
  | 'promoted'
  | 'demoted'
  | 'epoch'
  | 'lease-expired'
  | 'lease-renewed'
  | 'log-cut'
  | 'writable'
  | 'storage-problem'
  | 'storage-ok'
  | 'failed'
  | 'sqlite-snapshot'
  | 'sqlite-problem'
  | 'sqlite-capture-failed'
  | 'sqlite-commit-timeout'
  | 'postgres-connected'
  | 'postgres-disconnected'
  | 'postgres-server';

/** Positions of this node. */
export interface Positions {
  /** Verified in memory. */
  readonly received: Lsn;
  /** Durable on disk. */
  readonly flushed: Lsn;
  /** Visible in the database. */
  readonly applied: Lsn;
  /** Committed by the primary's rule, as far as this node knows. */
  readonly committed: Lsn;
}

export interface EngineStatus extends NativeStatus {
  readonly nodeId: string;
  readonly cluster: string;
  readonly role: 'primary' | 'standby';
  readonly epoch: bigint;
  readonly positions: Positions;
  readonly cache: CacheStatus;
  readonly counters: Readonly<
    Record<'appends' | 'appendBytes' | 'batches' | 'syncs' | 'jsWakes' | 'pumpRounds' | 'pumpSleeps', number>
  >;
}

/** Payload bytes of the log, in order. Boundaries of chunks are not those of appends. */
export interface LogChunk {
  /** Of the first byte. */
  readonly lsn: Lsn;
  readonly bytes: Buffer;
  /** True if the last append in it goes on in the next chunk. */
  readonly continues: boolean;
}

export interface ReadOptions {
  /** How far a reader that follows the tail may see. Default `flushed`. */
  readonly upTo?: 'received' | 'flushed' | 'committed';
  /** Ends there (exclusive) instead of following the tail. */
  readonly end?: Lsn;
  readonly signal?: AbortSignal;
}

/**
 * One node's log: appends and ships it as primary, receives and passes it on as standby.
 *
 * A new engine is a standby. `promote()` makes it primary; `follow()` makes it the standby of an upstream.
 * Every error is a {@link WalshipError} with a stable `code`.
 */
export class Engine extends EventEmitter<{ event: [EngineEvent] }> {
  readonly nodeId: string;
  readonly cluster: string;
  readonly #native: NativeEngine;
  readonly #counters: BigUint64Array;
  readonly #keeper: Keeper;
  readonly #rails: RailKeeper;
  readonly #commits = new Waiters();
  readonly #moves = new Set<() => void>();
  readonly #writable = new Set<() => void>();
  #failure: WalshipError | undefined;
  #closing: Promise<void> | undefined;

  /**
   * Opens the log (recovering it if need be) and starts the data plane.
   *
   * @throws {WalshipError} `WALSHIP_ERR_CONFIG` (lists every problem), `WALSHIP_ERR_LOG_LOCKED`,
   * `WALSHIP_ERR_LOG_CORRUPT`, `WALSHIP_ERR_LOG_FOREIGN`, `WALSHIP_ERR_LOG_SEGMENT_MISSING`, `WALSHIP_ERR_LOG_IO`,
   * `WALSHIP_ERR_DISK_FULL`, `WALSHIP_ERR_DISK_READONLY`, `WALSHIP_ERR_LISTEN`, `WALSHIP_ERR_ARENA_MEMORY`,
   * `WALSHIP_ERR_RDMA_UNAVAILABLE` (transport `verbs` only).
   */
  static async open(options: EngineOptions): Promise<Engine> {
    const settings = withRailEnds(nativeSettings(options));
    let engine: Engine | undefined;
    const core = await settled(
      native.openEngine(settings, () => {
        if (engine) engine.#wake();
      }),
    );
    try {
      engine = new Engine(options, core);
    } catch (error) {
      await core.close();
      throw error;
    }
    engine.#wake();
    return engine;
  }

  private constructor(options: EngineOptions, core: NativeEngine) {
    super();
    this.nodeId = options.nodeId;
    this.cluster = options.cluster.id;
    this.#native = core;
    this.#counters = core.counters();
    this.#keeper = new Keeper(arenaPort(core), options.cache);
    this.#keeper.start();
    const { transports, listen } = nativeSettings(options);
    this.#rails = new RailKeeper(
      {
        status: () => (this.role === 'primary' || this.#closing ? undefined : direct(() => core.rails())),
        setRails: (rails, upstream) => settled(core.setRails(rails, upstream)),
        steer: (order, carry, why) => direct(() => core.steer(order, carry, why)),
      },
      dispatchSettings(options.rails),
      {
        devices: core.devices,
        addresses: listen.map(({ host }) => host).filter((host) => isIP(host)),
        transports,
      },
    );
    if (options.rails?.dispatch !== false) this.#rails.start();
  }

  /** The port it listens on, 0 if it does not. */
  get listenPort(): number {
    return this.#native.listenPort;
  }

  /** What recovery found at opening; empty after a clean close. */
  get recoveryNote(): string {
    return this.#native.recoveryNote;
  }

  /** Why RDMA is not used although it might have been; empty otherwise. */
  get verbsProblem(): string {
    return this.#native.verbsProblem;
  }

  /** The most bytes one append may have. */
  get appendBytesMax(): number {
    return this.#native.appendBytesMax;
  }

  get role(): 'primary' | 'standby' {
    return this.#counters[counter.isPrimary] === 1n ? 'primary' : 'standby';
  }

  /** The newest epoch that this node knows to have begun: of the primary it follows, or its own. */
  get epoch(): bigint {
    return this.#at(counter.epoch);
  }

  /**
   * The newest epoch with whose primary's log this node's is known to agree, up to where that epoch began or further.
   * Of two logs the one with the newer log epoch is ahead, and in the same one the one that has received more.
   */
  get logEpoch(): bigint {
    return this.#at(counter.logEpoch);
  }

  /** Behind everything appended here, whether it is in the log's tail yet or not; of a primary. */
  get endLsn(): bigint {
    return this.#at(counter.endLsn);
  }

  /** The newest epoch promised, by {@link promise} or by joining it: nothing of an older one is accepted any more. */
  get promisedEpoch(): bigint {
    return this.#at(counter.promisedEpoch);
  }

  /** How long ago the upstream was last heard, in ms; `Infinity` if never since {@link follow}. */
  get upstreamHeardMsAgo(): number {
    const heardNs = this.#at(counter.upstreamHeardNs);
    if (heardNs === 0n) return Number.POSITIVE_INFINITY;
    return Math.max(0, Number(process.hrtime.bigint() - heardNs) / 1e6);
  }

  /**
   * How old what is known to be received here may be, in ms: everything that the primary had made so long ago is. 0 on the
   * primary, `Infinity` on a standby that has heard nothing of a primary yet.
   *
   * No clocks are compared: a standby counts from when it sent the acknowledgement that the newest heartbeat echoes, so the
   * time that bytes and heartbeats are on their way is in it, and it grows while the upstream is silent. Up to a round trip
   * and two heartbeats more than the truth.
   */
  get receivedAgeMs(): number {
    return this.#ageMs(counter.receivedAsOfNs);
  }

  /** The same of what is applied: how old a read here may be. */
  get appliedAgeMs(): number {
    return this.#ageMs(counter.appliedAsOfNs);
  }

  #ageMs(at: number): number {
    if (this.role === 'primary') return 0;
    const asOfNs = this.#at(at);
    if (asOfNs === 0n) return Number.POSITIVE_INFINITY;
    return Math.max(0, Number(process.hrtime.bigint() - asOfNs) / 1e6);
  }

  get positions(): Positions {
    return {
      received: this.#at(counter.receivedLsn),
      flushed: this.#at(counter.flushedLsn),
      applied: this.#at(counter.appliedLsn),
      committed: this.#at(counter.committedLsn),
    };
  }

  /**
   * Appends to the log; primary only. The bytes are copied before it returns; all or nothing is taken, committed, and
   * kept by a new primary.
   *
   * @returns the LSN behind them: give it to {@link committed}.
   * @throws {WalshipError} `WALSHIP_ERR_BACKPRESSURE` (the arena is full, or the primary is held: await {@link writable}
   * and try again),
   * `WALSHIP_ERR_NOT_PRIMARY`, `WALSHIP_ERR_APPEND_TOO_LARGE`, `WALSHIP_ERR_CLOSED`, or why the storage has failed.
   */
  append(bytes: Uint8Array): Lsn {
    return direct(() => this.#native.append(bytes));
  }

  /**
   * Resolves when an append may succeed again after `WALSHIP_ERR_BACKPRESSURE`, or when this node is no primary any more:
   * the next append says so.
   */
  writable(): Promise<void> {
    if (this.#closing) return Promise.reject(closedError());
    if (this.#at(counter.starved) === 0n) return done;
    return new Promise((resolve) => this.#writable.add(resolve));
  }

  /** {@link append}, waiting while there is back-pressure. */
  async appendWhenWritable(bytes: Uint8Array): Promise<Lsn> {
    while (true) {
      try {
        return this.append(bytes);
      } catch (error) {
        if (!(error instanceof WalshipError) || error.code !== 'WALSHIP_ERR_BACKPRESSURE') throw error;
        await this.writable();
      }
    }
  }

  /**
   * Resolves when everything below `lsn` is committed by the commit rule. It never gives up by itself: when too few
   * standbys are there it waits, and `rule-failing` says why.
   *
   * @throws {WalshipError} `WALSHIP_ERR_CLOSED`, `WALSHIP_ERR_NOT_PRIMARY` if this node is demoted meanwhile (the fate
   * of the append is then unknown), or why the storage has failed.
   */
  committed(lsn: Lsn): Promise<void> {
    if (this.#failure) return Promise.reject(this.#failure);
    if (this.#closing) return Promise.reject(closedError());
    if (this.#at(counter.committedLsn) >= lsn) return done;
    const reached = this.#commits.add(lsn);
    if (this.#beWoken()) this.#commits.release(this.#at(counter.committedLsn));
    return reached;
  }

  /**
   * Resolves when a position of this node is at `lsn` or behind it.
   *
   * @throws {WalshipError} `WALSHIP_ERR_TIMEOUT` after `timeoutMs`, `WALSHIP_ERR_CLOSED`, or why the storage has failed.
   */
  async reached(position: keyof Positions, lsn: Lsn, timeoutMs: number): Promise<void> {
    const until = performance.now() + timeoutMs;
    while (this.positions[position] < lsn) {
      if (this.#failure) throw this.#failure;
      if (this.#closing) throw closedError();
      if (performance.now() >= until) {
        throw new WalshipError(
          'WALSHIP_ERR_TIMEOUT',
          `'${position}' of node '${this.nodeId}' is at LSN ${this.positions[position]} after ${timeoutMs} ms, not at ${lsn}`,
        );
      }
      await this.#moved(undefined);
    }
  }

  /**
   * The log's payload from `fromLsn` on, following the tail until the engine closes, `end` is reached or `signal`
   * aborts. Pages no longer in memory are read from disk.
   *
   * @throws {WalshipError} `WALSHIP_ERR_LOG_TRIMMED` below the oldest LSN kept, `WALSHIP_ERR_LOG_CORRUPT`.
   */
  async *read(fromLsn: Lsn, options: ReadOptions = {}): AsyncGenerator<LogChunk, void, undefined> {
    const position = {
      received: counter.receivedLsn,
      flushed: counter.flushedLsn,
      committed: counter.committedLsn,
    };
    const limitAt = position[options.upTo ?? 'flushed'];
    const end = options.end ?? 2n ** 64n - 1n;
    let lsn = fromLsn;
    while (lsn < end && !this.#closing && options.signal?.aborted !== true) {
      const limit = this.#at(limitAt);
      const chunk = lsn < limit ? await this.#readChunk(lsn, limit < end ? limit : end) : undefined;
      if (chunk === undefined) {
        await this.#moved(options.signal);
        continue;
      }
      yield chunk;
      lsn = chunk.lsn + BigInt(chunk.bytes.length);
    }
  }

  async #readChunk(lsn: Lsn, limit: Lsn): Promise<NativeChunk | undefined> {
    try {
      const chunk = this.#native.tryRead(lsn, limit);
      return chunk === null ? await this.#native.read(lsn, limit) : chunk;
    } catch (error) {
      const known = fromNative(error);
      // Every page of the arena is in use at this instant: try again when something has moved.
      if (known instanceof WalshipError && known.code === 'WALSHIP_ERR_ARENA_BUSY') return undefined;
      if (known instanceof WalshipError && known.code === 'WALSHIP_ERR_CLOSED') return undefined;
      throw known;
    }
  }

  #moved(signal: AbortSignal | undefined): Promise<void> {
    return new Promise((resolve) => {
      const wake = () => {
        clearTimeout(timer);
        this.#moves.delete(wake);
        signal?.removeEventListener('abort', wake);
        resolve();
      };
      const timer = setTimeout(wake, 100);
      this.#moves.add(wake);
      signal?.addEventListener('abort', wake);
      if (this.#beWoken()) wake();
    });
  }

  /** From now on the data plane tells of positions. true: it did not before, and one may have moved untold. */
  #beWoken(): boolean {
    return Atomics.exchange(this.#counters, counter.awaited, 1n) === 0n;
  }

  /** For `applied: 'manual'`: everything below `lsn` is visible in this node's database. */
  applied(lsn: Lsn): void {
    direct(() => this.#native.setApplied(lsn));
  }

  /** Changes the commit rule at once. @throws {WalshipError} `WALSHIP_ERR_CONFIG` */
  setCommitRule(rule: CommitRule): void {
    direct(() => this.#native.setCommitRule(nativeCommitRule(rule)));
  }

  /**
   * Becomes a standby of `upstream` (a primary, or a standby that passes on), and stays so through broken links.
   * Without an upstream: a standby on its own. An upstream followed already keeps its link.
   */
  async follow(upstream?: Upstream): Promise<void> {
    await settled(this.#native.follow(upstream && nativeTarget(upstream)));
    this.#commits.rejectAll(
      new WalshipError(
        'WALSHIP_ERR_NOT_PRIMARY',
        'this node is a standby now; whether the append survives is not known',
      ),
    );
  }

  /**
   * Becomes the primary in a new epoch: the next one, or the one given. Whether that is safe is the caller's to know:
   * it must be the most advanced node, and the old primary must not be able to commit any more.
   *
   * @param leaseUntilNs as in {@link setLease}, from the first instant on. A lease set before is not that of the new
   * reign: without this one nothing is committed until {@link setLease} is called anew.
   * @returns the epoch
   * @throws {WalshipError} `WALSHIP_ERR_EPOCH` (not newer than one known), `WALSHIP_ERR_IS_PRIMARY`.
   */
  promote(epoch = 0n, leaseUntilNs?: bigint): Promise<bigint> {
    return settled(this.#native.promote(epoch, leaseUntilNs));
  }

  /**
   * Until when this node may commit as primary: a time of `process.hrtime.bigint()`. Behind it nothing is committed,
   * whatever the rule, and whether JavaScript runs or not, until the lease is renewed by another call; `lease-expired` and
   * `lease-renewed` say so. A suspended host wakes up without a lease. `undefined` (the default): no lease is asked for.
   *
   * Renewals are to follow one another: each is sent after the call for the one before.
   */
  setLease(untilNs: bigint | undefined): void {
    direct(() => this.#native.setLease(untilNs));
  }

  /**
   * For a planned switchover. While held, the primary takes no appends: {@link append} throws
   * `WALSHIP_ERR_BACKPRESSURE`, {@link writable} waits; what it has taken goes on to be shipped and committed. Ends by
   * `hold(false)`, and when the node is demoted.
   *
   * @returns the LSN behind everything appended
   * @throws {WalshipError} `WALSHIP_ERR_NOT_PRIMARY`
   */
  hold(on: boolean): Lsn {
    return direct(() => this.#native.hold(on));
  }

  /**
   * Promises, durably, to accept and acknowledge nothing of an epoch older than `epoch` any more; a primary of an older
   * epoch steps down. The link to an upstream of an older epoch is torn down before the answer: what that upstream still
   * sends cannot land. Promising the same epoch again gives the same answer.
   *
   * @returns how far this node's log is: what it has received, and {@link logEpoch}
   * @throws {WalshipError} `WALSHIP_ERR_EPOCH` if a newer epoch has been promised already.
   */
  promise(epoch: bigint): Promise<{ readonly lsn: Lsn; readonly logEpoch: bigint }> {
    return settled(this.#native.promise(epoch));
  }

  /**
   * Forgets a standby that is gone for good: the log is no longer kept for it. (Every standby that has once been a
   * direct downstream is remembered, across restarts, within `log.retainBytesMax`.)
   */
  forgetReader(node: string): Promise<void> {
    return settled(this.#native.forgetReader(node));
  }

  /** A snapshot, at most half a heartbeat old; costs the data plane nothing. */
  status(): EngineStatus {
    const number = (at: number) => Number(this.#at(at));
    return {
      nodeId: this.nodeId,
      cluster: this.cluster,
      role: this.role,
      epoch: this.epoch,
      positions: this.positions,
      ...direct(() => this.#native.status()),
      cache: this.#keeper.status(),
      counters: {
        appends: number(counter.appends),
        appendBytes: number(counter.appendBytes),
        batches: number(counter.batches),
        syncs: number(counter.syncs),
        jsWakes: number(counter.jsWakes),
        pumpRounds: number(counter.pumpRounds),
        pumpSleeps: number(counter.pumpSleeps),
      },
    };
  }

  /** The rails to the upstream: which is used, and why; of none on a primary. */
  rails(): EngineRails {
    return this.#rails.status();
  }

  /**
   * Pins rails, or excludes them, by hand, or leaves it to the options (`auto`): until the next call, or the end of the
   * process. As `pin` and `exclude` in {@link RailOptions}.
   */
  chooseRails(choice: RailChoice | 'auto'): Promise<void> {
    return this.#rails.choose(choice);
  }

  /** Ends every link, flushes what was received, closes the log. Further calls reject with `WALSHIP_ERR_CLOSED`. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #close(): Promise<void> {
    this.#keeper.stop();
    this.#rails.stop();
    try {
      await settled(this.#native.close());
    } finally {
      this.#commits.rejectAll(closedError());
      for (const release of [...this.#writable, ...this.#moves]) release();
      this.#writable.clear();
    }
  }

  /** What database adapters attach to. @internal */
  get core(): NativeEngine {
    return this.#native;
  }

  /** Drives the engine from a native thread, for benchmarks. @internal */
  drive(settings: DriveSettings): Promise<DriveResult> {
    return settled(this.#native.drive(settings));
  }

  /** Records every access to a page of the cache, for benchmarks of its policy. @internal */
  traceAccesses(on: boolean): void {
    this.#native.traceAccesses(on);
  }

  /** @internal */
  drainTrace(): TracedAccess[] {
    return this.#native.drainTrace();
  }

  #at(index: number): bigint {
    return this.#counters[index] as bigint;
  }

  /** Called once per wake-up of the data plane, however much has happened. */
  #wake(): void {
    if (this.#commits.size === 0 && this.#moves.size === 0)
      Atomics.exchange(this.#counters, counter.awaited, 0n);
    if (this.#commits.size > 0) this.#commits.release(this.#at(counter.committedLsn));
    for (const release of this.#moves) release();
    for (const event of this.#native.drainEvents()) this.#take(event);
  }

  #take(event: NativeEvent): void {
    if (event.type === 'failed') {
      this.#failure = new WalshipError(event.code, event.message);
      this.#commits.rejectAll(this.#failure);
    }
    if (event.type === 'demoted') {
      this.#commits.rejectAll(
        new WalshipError(
          'WALSHIP_ERR_NOT_PRIMARY',
          'this node was demoted; whether the append survives is not known',
        ),
      );
    }
    if (event.type === 'writable' || event.type === 'demoted' || event.type === 'failed') {
      for (const release of this.#writable) release();
      this.#writable.clear();
    }
    try {
      this.emit('event', event as EngineEvent);
    } catch (error) {
      // The listener's own failure: it must not keep the events behind this one from being taken.
      queueMicrotask(() => {
        throw error;
      });
    }
  }
}

/** What this node tells its downstreams of the ways to it. */
function withRailEnds(settings: NativeSettings): NativeSettings {
  const { listen, transports, verbs } = settings;
  if (listen.length === 0) return settings;
  const mine = (device: string, address: string) =>
    (verbs.device === '' || verbs.device === device) &&
    (verbs.addresses.length === 0 || verbs.addresses.includes(address));
  const devices = (transports & 2) === 0 ? undefined : capabilities().verbs;
  return { ...settings, railEnds: railEnds(listen, devices, mine, thisHost) };
}

const done = Promise.resolve();

function closedError(): WalshipError {
  return new WalshipError('WALSHIP_ERR_CLOSED', 'the engine is closed');
}

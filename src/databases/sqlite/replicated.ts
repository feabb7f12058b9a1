import { EventEmitter } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import type Database from 'better-sqlite3';
import { Engine, type EngineEvent, type EngineEventType, type EngineStatus } from '../../engine/engine.js';
import { WalshipError } from '../../engine/errors.js';
import type { Lsn } from '../../engine/lsn.js';
import {
  direct,
  type NativeReplica,
  type NativeReplicaStatus,
  native,
  settled,
} from '../../engine/native.js';
import { defaultRetainBytes, type EngineOptions, type Upstream } from '../../engine/options.js';
import type { Agent } from '../../failover/agent.js';
import { Membership, type MembershipSettings } from '../../failover/membership.js';
import { loadSqlite } from './extension.js';
import { keepWalMode, refuseWrites } from './guard.js';
import { type ReplicatedOptions, split } from './options.js';
import { setLogAside, snapshotDue } from './snapshots.js';

const snapshotLookMs = 1000;
const holdMsMax = 2000;
const stepBackMsMax = 2000;

/** What a replicated database tells of itself: the engine's status, and the replica's. */
export interface ReplicatedStatus extends EngineStatus {
  readonly sqlite: NativeReplicaStatus & {
    readonly path: string;
    /** `wait`, or `async`: see {@link ReplicatedOptions.commitMode}. */
    readonly commitMode: 'async' | 'wait';
  };
}

/**
 * Opens a SQLite database that is replicated over walship: as the primary, or, with `upstream`, as a standby.
 *
 * ```ts
 * const node = await openReplicated({ path: 'app.db', nodeId: 'a', cluster, commitRule: { level: 'flushed', any: 1 } });
 * node.db.prepare('insert …').run(…);
 * await node.committed();
 * ```
 *
 * The database is in WAL mode and stays an ordinary one: other connections and processes may open it and, on the primary,
 * write to it. Checkpoints are walship's, and nobody can change `journal_mode` while the node is open: {@link Replicated.db} says so at
 * once (`WALSHIP_ERR_SQLITE_JOURNAL_MODE`), other connections get `SQLITE_BUSY`. Only
 * this file is replicated: a database that a connection has attached is not, unless it is a node's own, too.
 *
 * @throws {WalshipError} as {@link Engine.open}; `WALSHIP_ERR_SQLITE_MISSING` (better-sqlite3 is not installed),
 * `WALSHIP_ERR_SQLITE` (SQLite's own words).
 */
export async function openReplicated(options: ReplicatedOptions): Promise<Replicated> {
  const { engine: engineOptions, replica: settings } = split(options);
  const Sqlite = loadSqlite();
  const logSetAside = options.reseed === true ? await reseed(engineOptions) : undefined;
  const engine = await Engine.open(engineOptions);
  try {
    const early: EngineEvent[] = [];
    let node: Replicated | undefined;
    const replica = await settled(
      (native.openReplica as NonNullable<typeof native.openReplica>)(engine.core, settings, (event) => {
        if (node) node.emit('event', event as EngineEvent);
        else early.push(event as EngineEvent);
      }),
    );
    const { path, commitMode } = settings;
    const retainBytes = engineOptions.log?.retainBytes ?? defaultRetainBytes;
    node = new Replicated(engine, replica, Sqlite, { path, commitMode, retainBytes, logSetAside });
    for (const event of early) node.emit('event', event);
    if (options.failover) await node.join(options.failover, options, engineOptions);
    else if (options.upstream) await node.follow(options.upstream);
    else await node.promote(options.epoch);
    return node;
  } catch (error) {
    await engine.close();
    throw error;
  }
}

/** Only a log that no engine has open is set aside. */
async function reseed(options: EngineOptions): Promise<string | undefined> {
  const { listen: _, ...alone } = options;
  try {
    await (await Engine.open(alone)).close();
  } catch (error) {
    if (!(error instanceof WalshipError) || !error.code.startsWith('WALSHIP_ERR_LOG_')) throw error;
    if (error.code === 'WALSHIP_ERR_LOG_LOCKED') throw error;
  }
  return setLogAside(options.dir, new Date());
}

interface Facts {
  readonly path: string;
  readonly commitMode: 'async' | 'wait';
  readonly retainBytes: number;
  readonly logSetAside: string | undefined;
}

/**
 * One node's copy of a replicated SQLite database. Made by {@link openReplicated}.
 *
 * Events: `event`, of the engine and of the replica; `role`, when {@link db} is another object than before.
 */
export class Replicated extends EventEmitter<{ event: [EngineEvent]; role: ['primary' | 'standby'] }> {
  /** The engine under it: links, positions, commit rule. */
  readonly engine: Engine;
  readonly path: string;
  /** Where the log of before is, if this node was opened with `reseed`. */
  readonly logSetAside: string | undefined;
  readonly #retainBytes: number;
  readonly #replica: NativeReplica;
  readonly #sqlite: typeof Database;
  #commitMode: 'async' | 'wait';
  #db: Database.Database | undefined;
  #upstream: Upstream | undefined;
  /** Changes of role, one behind the other. */
  #changing: Promise<unknown> = Promise.resolve();
  #closing: Promise<void> | undefined;
  #ending: Promise<void> | undefined;
  #snapshotTimer: NodeJS.Timeout | undefined;
  #snapshotTold = false;
  /** The database is captured: what is written reaches the log. The engine's role may change before, or after. */
  #writable = false;
  /** Has SQLite's write lock while the primary is held. */
  #held: Database.Database | undefined;
  #member: Membership | undefined;

  /** @internal */
  constructor(engine: Engine, replica: NativeReplica, Sqlite: typeof Database, facts: Facts) {
    super();
    this.engine = engine;
    this.path = facts.path;
    this.logSetAside = facts.logSetAside;
    this.#retainBytes = facts.retainBytes;
    this.#replica = replica;
    this.#sqlite = Sqlite;
    this.#commitMode = facts.commitMode;
    engine.on('event', (event) => this.emit('event', event));
  }

  get role(): 'primary' | 'standby' {
    return this.engine.role;
  }

  /**
   * The database: an ordinary better-sqlite3 `Database`. On a standby it is read-only, and every read sees a state that
   * was committed on the primary; a write throws `WALSHIP_ERR_SQLITE_STANDBY`. A change of role closes it and opens
   * another one: do not keep it, or listen for `role`.
   *
   * @throws {WalshipError} `WALSHIP_ERR_CLOSED`; `WALSHIP_ERR_SQLITE_EMPTY` on a standby that has nothing yet.
   */
  get db(): Database.Database {
    if (this.#closing) throw closed();
    this.#db ??= this.#open();
    return this.#db;
  }

  /**
   * Resolves when everything committed in the database by now, by whatever process, is committed by the commit rule.
   *
   * @returns the LSN behind it: give it to {@link readAt} on a standby.
   * @throws {WalshipError} as {@link Engine.committed}: `WALSHIP_ERR_NOT_PRIMARY` also if this node is no primary any more
   * when it is called: what was written before may be in no log.
   */
  async committed(): Promise<Lsn> {
    if (this.#closing) throw closed();
    const { epoch } = this.engine;
    // Positions of another reign say nothing of what was written in this one.
    const deposed = () => this.role !== 'primary' || this.engine.epoch !== epoch;
    if (deposed()) throw this.#inDoubt();
    let lsn: Lsn;
    try {
      lsn = await settled(this.#replica.capture());
    } catch (cause) {
      throw deposed() ? this.#inDoubt(cause) : cause;
    }
    if (deposed()) throw this.#inDoubt();
    await this.engine.committed(lsn);
    return lsn;
  }

  /** The LSN behind everything committed in the database by now; on a standby, behind everything applied. */
  async lsn(): Promise<Lsn> {
    if (this.#closing) throw closed();
    return this.role === 'primary' ? settled(this.#replica.capture()) : this.engine.positions.applied;
  }

  /**
   * The database, once it has everything below `lsn`: what another node wrote and told the LSN of is there.
   *
   * @throws {WalshipError} `WALSHIP_ERR_TIMEOUT` after `timeoutMs` (default 10,000), `WALSHIP_ERR_CLOSED`
   */
  async readAt(lsn: Lsn, timeoutMs = 10_000): Promise<Database.Database> {
    await this.engine.reached('applied', lsn, timeoutMs);
    return this.db;
  }

  /** Whether commits of this process wait for the commit rule; from the next commit on. */
  setCommitMode(mode: 'async' | 'wait'): void {
    direct(() => this.#replica.setCommitMode(mode));
    this.#commitMode = mode;
  }

  /**
   * Becomes the primary: whether that is safe is the caller's to know, as with {@link Engine.promote}. What the log here
   * holds is in the database before it is opened for writing.
   *
   * @returns the epoch
   */
  promote(epoch?: bigint, leaseUntilNs?: bigint): Promise<bigint> {
    return this.#change(async () => {
      const reached = await this.engine.promote(epoch, leaseUntilNs);
      this.#shut();
      await settled(this.#replica.startPrimary());
      // Whoever has looked meanwhile has one that is read-only.
      this.#shut();
      this.#writable = true;
      this.#upstream = undefined;
      this.#snapshotTimer = setInterval(() => this.#keepSnapshot(), snapshotLookMs).unref();
      return reached;
    });
  }

  /**
   * Becomes a standby of `upstream`. What an old primary had committed and its successor has not is taken back, page by
   * page; its WAL is kept aside, and a `log-cut` event says where.
   */
  follow(upstream: Upstream): Promise<void> {
    return this.#change(async () => {
      await this.#stopWriting();
      await this.engine.follow(upstream);
      this.#upstream = upstream;
      await settled(this.#replica.startStandby());
    });
  }

  /**
   * For a planned change of the primary: while held, nobody writes. Other processes wait for SQLite's lock; in this one
   * writes are refused with `WALSHIP_ERR_NOT_PRIMARY`, because to wait would keep the change itself from going on.
   *
   * @throws {WalshipError} `WALSHIP_ERR_SQLITE`: somebody has been writing for too long
   */
  hold(on: boolean): Promise<void> {
    return this.#change(async () => {
      if (!on) return this.#release();
      this.#shut();
      const lock = new this.#sqlite(this.path, { timeout: 0 });
      this.#held = lock;
      try {
        await this.#lockWriters(lock);
        await settled(this.#replica.capture());
        this.engine.hold(true);
      } catch (error) {
        this.#release();
        throw error;
      }
    });
  }

  /** The engine has promised a newer epoch: what is committed from here on would be in no log. */
  stepDown(): Promise<void> {
    return this.#change(() => this.#stopWriting());
  }

  /** The controller of this node; undefined without `failover`. */
  get agent(): Agent | undefined {
    return this.#member?.agent;
  }

  /** @internal */
  async join(failover: MembershipSettings, options: ReplicatedOptions, watch: EngineOptions): Promise<void> {
    this.#member = await Membership.join({
      subject: {
        engine: this.engine,
        promote: (epoch, leaseUntilNs) => this.promote(epoch, leaseUntilNs),
        follow: (upstream) => this.follow(upstream),
        hold: (on) => this.hold(on),
        stepDown: () => this.stepDown(),
      },
      cluster: options.cluster,
      listen: options.listen as string,
      commitRule: options.commitRule ?? { level: 'async' },
      failover,
      watch,
    });
  }

  /**
   * Puts a copy of the whole database into the log, between the transactions that come meanwhile: a node that has none of
   * it begins there. The primary does so by itself whenever the log no longer holds the last one. Nobody's commit waits for
   * it. How far it is, here and on a node that takes it: `snapshotPagesDone` of `snapshotPages` in {@link status}.
   *
   * @returns the LSN behind it
   * @throws {WalshipError} `WALSHIP_ERR_NOT_PRIMARY`, also when the node ceases to be the primary; `WALSHIP_ERR_CLOSED`
   */
  snapshot(): Promise<Lsn> {
    return settled(this.#replica.snapshot());
  }

  status(): ReplicatedStatus {
    const replica = direct(() => this.#replica.status());
    return {
      ...this.engine.status(),
      sqlite: { ...replica, path: this.path, commitMode: this.#commitMode },
    };
  }

  /**
   * Closes the database, captures and flushes what was committed, ends every link and the log. A primary with `failover`
   * hands over first, if a standby is there.
   */
  close(): Promise<void> {
    this.#ending ??= this.#end();
    return this.#ending;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #end(): Promise<void> {
    // While it can still change its role.
    await this.#member?.stepBack(stepBackMsMax);
    this.#closing = this.#close();
    await this.#closing;
  }

  async #close(): Promise<void> {
    await this.#member?.leave();
    await this.#changing.catch(() => {});
    try {
      await this.#stopWriting();
    } finally {
      await this.engine.close();
    }
  }

  #change<T>(work: () => Promise<T>): Promise<T> {
    if (this.#closing) return Promise.reject(closed());
    const done = this.#changing.then(async () => {
      const outcome = await work();
      this.emit('role', this.role);
      return outcome;
    });
    this.#changing = done.catch(() => {});
    return done;
  }

  #keepSnapshot(): void {
    if (this.#closing) return;
    const { log, sqlite } = this.status();
    if (sqlite.role !== 'primary' || sqlite.snapshotPages > 0) return;
    const { snapshotLsn } = sqlite;
    const size = (what: string) => this.db.pragma(what, { simple: true }) as number;
    const databaseBytes = size('page_count') * size('page_size');
    const due = snapshotDue({
      firstLsn: log.firstLsn,
      snapshotLsn,
      databaseBytes,
      retainBytes: this.#retainBytes,
    });
    if (due === 'yes')
      this.snapshot().catch((error: WalshipError) =>
        this.#tell('sqlite-snapshot', error.code, error.message),
      );
    if (due === 'too-large' && !this.#snapshotTold) {
      this.#snapshotTold = true;
      this.#tell(
        'sqlite-snapshot',
        'WALSHIP_ERR_SQLITE_RETENTION',
        `a new standby cannot begin: the log keeps ${this.#retainBytes} bytes, the database has ${databaseBytes}; ` +
          'set log.retainBytes to at least twice that',
      );
    }
  }

  #tell(type: EngineEventType, code: string, message: string): void {
    const { nodeId, positions } = this.engine;
    this.emit('event', { type, node: nodeId, code, message, lsn: positions.received });
  }

  #shut(): void {
    this.#db?.close();
    this.#db = undefined;
  }

  /** Another process's transaction is waited for, without holding up the event loop. */
  async #lockWriters(lock: Database.Database): Promise<void> {
    const until = performance.now() + holdMsMax;
    while (true) {
      try {
        lock.exec('begin immediate');
        return;
      } catch (cause) {
        if (performance.now() >= until) {
          const message = `${this.path}: another process has been writing for ${holdMsMax} ms: ${(cause as Error).message}`;
          throw new WalshipError('WALSHIP_ERR_SQLITE', message, { cause });
        }
        await sleep(2);
      }
    }
  }

  #release(): void {
    this.#shut();
    this.#held?.close();
    this.#held = undefined;
    if (this.engine.role === 'primary' && !this.#closing) this.engine.hold(false);
  }

  /** A primary that was deposed in the middle may have commits that its log cannot take: they are taken back later. */
  async #stopWriting(): Promise<void> {
    clearInterval(this.#snapshotTimer);
    this.#writable = false;
    this.#shut();
    this.#held?.close();
    this.#held = undefined;
    try {
      await settled(this.#replica.stop());
    } catch (error) {
      const { code, message } = error as WalshipError;
      if (code !== 'WALSHIP_ERR_NOT_PRIMARY') throw error;
      this.#tell('sqlite-problem', code, `commits that never reached the log are taken back: ${message}`);
    }
  }

  #open(): Database.Database {
    if (this.role === 'primary' && this.#writable && !this.#held) {
      const database = new this.#sqlite(this.path);
      database.pragma('wal_autocheckpoint = 0');
      return keepWalMode(database, journalModeRefusal);
    }
    try {
      const database = new this.#sqlite(this.path, { readonly: true, fileMustExist: true });
      return refuseWrites(keepWalMode(database, journalModeRefusal), () => this.#refusal());
    } catch (cause) {
      throw new WalshipError(
        'WALSHIP_ERR_SQLITE_EMPTY',
        `${this.path} cannot be read yet: this standby has applied nothing so far; await readAt(lsn)`,
        { cause },
      );
    }
  }

  #inDoubt(cause?: unknown): WalshipError {
    return new WalshipError(
      'WALSHIP_ERR_NOT_PRIMARY',
      `node '${this.engine.nodeId}' is not the primary any more; whether what was written survives is not known`,
      cause === undefined ? {} : { cause },
    );
  }

  #refusal(): WalshipError {
    if (this.role === 'primary' || this.#held) {
      const message = this.#held
        ? `node '${this.engine.nodeId}' is handing over to another primary: try again there`
        : `node '${this.engine.nodeId}' is about to be primary, and not yet ready for it: try again`;
      return new WalshipError('WALSHIP_ERR_NOT_PRIMARY', message, { details: { appended: false } });
    }
    const address = this.#upstream?.address;
    return new WalshipError(
      'WALSHIP_ERR_SQLITE_STANDBY',
      `node '${this.engine.nodeId}' is a standby: write on the primary` +
        (address === undefined ? '' : `, which it follows by way of ${address}`),
      { details: { ...(address !== undefined && { upstream: address }) } },
    );
  }
}

function journalModeRefusal(): WalshipError {
  return new WalshipError(
    'WALSHIP_ERR_SQLITE_JOURNAL_MODE',
    'a replicated database stays in WAL mode: its write-ahead log is what is shipped; close the node to change journal_mode',
  );
}

function closed(): WalshipError {
  return new WalshipError('WALSHIP_ERR_CLOSED', 'the replicated database is closed');
}

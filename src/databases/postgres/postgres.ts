import { EventEmitter } from 'node:events';
import { Engine, type EngineEvent, type EngineStatus } from '../../engine/engine.js';
import type { Upstream } from '../../engine/options.js';
import type { Agent } from '../../failover/agent.js';
import { Membership } from '../../failover/membership.js';
import { PostgresAdapter, type PostgresAdapterStatus } from './adapter.js';
import { type PostgresOptions, split } from './options.js';

/** What a node beside a PostgreSQL server tells of itself: the engine's status, and that of the two ends. */
export interface PostgresStatus extends EngineStatus {
  readonly postgres: PostgresAdapterStatus;
}

/**
 * Opens a node that ships the WAL of an unmodified PostgreSQL server: as the primary, which is that server's standby, or,
 * with `upstream`, as a standby, which is the walsender of the standby servers of its host. `walship node` with
 * `[postgres.server]` and `[postgres.serve]` in its configuration is the same as a process of its own.
 *
 * ```ts
 * const node = await openPostgres({
 *   dir: '/var/lib/walship', nodeId: 'a', cluster, listen: '0.0.0.0:7000',
 *   commitRule: { level: 'flushed', any: 1 },
 *   server: { conninfo: 'host=/run/postgresql user=walship' },
 * });
 * ```
 *
 * With `synchronous_standby_names = 'walship'` the server's commits wait for the commit rule: held to `received` with
 * `synchronous_commit = remote_write`, to `flushed` with `on`, to `applied` with `remote_apply`, whatever the rule's own
 * level is.
 *
 * @throws {WalshipError} as {@link Engine.open}; `WALSHIP_ERR_POSTGRES_LIBPQ` (no libpq on this host),
 * `WALSHIP_ERR_POSTGRES_CONNECT` and `WALSHIP_ERR_POSTGRES_SERVER` (the server's own words), `WALSHIP_ERR_POSTGRES_FOREIGN`
 * (another database cluster than the log's), `WALSHIP_ERR_LISTEN`.
 */
export async function openPostgres(options: PostgresOptions): Promise<PostgresNode> {
  const settings = split(options);
  const engine = await Engine.open(settings.engine);
  try {
    const node = new PostgresNode(
      engine,
      await PostgresAdapter.open(engine, settings, options.commitRule?.level ?? 'async'),
    );
    if (options.failover) await node.join(options);
    else if (options.upstream) await node.follow(options.upstream);
    else await node.promote(options.epoch);
    return node;
  } catch (error) {
    await engine.close();
    throw error;
  }
}

/** One node beside a PostgreSQL server. Made by {@link openPostgres}. Event: `event`, of the engine and of both ends. */
export class PostgresNode extends EventEmitter<{ event: [EngineEvent] }> {
  /** The engine under it: links, positions, commit rule. */
  readonly engine: Engine;
  readonly #adapter: PostgresAdapter;
  #member: Membership | undefined;
  #closing: Promise<void> | undefined;

  /** @internal */
  constructor(engine: Engine, adapter: PostgresAdapter) {
    super();
    this.engine = engine;
    this.#adapter = adapter;
    engine.on('event', (event) => this.emit('event', event));
  }

  get role(): 'primary' | 'standby' {
    return this.engine.role;
  }

  /**
   * Becomes the primary, and streams the WAL of its server from then on. The server must be the primary server, or be
   * promoted soon: whether that is safe is the caller's to know, as with {@link Engine.promote}.
   *
   * @returns the epoch
   * @throws {WalshipError} `WALSHIP_ERR_CONFIG` (the node has no `server`), `WALSHIP_ERR_POSTGRES…`
   */
  promote(epoch?: bigint): Promise<bigint> {
    return this.#adapter.promote(epoch);
  }

  /** Becomes a standby of `upstream`; its own server gets no further WAL from here unless it follows the walsender. */
  follow(upstream: Upstream): Promise<void> {
    return this.#adapter.follow(upstream);
  }

  /** The controller of this node; undefined without `failover`. */
  get agent(): Agent | undefined {
    return this.#member?.agent;
  }

  /** @internal */
  async join(options: PostgresOptions): Promise<void> {
    const { failover, cluster, listen, commitRule } = options as Required<PostgresOptions>;
    const { advertised: database } = this.#adapter;
    this.#member = await Membership.join({
      subject: this.#adapter.subject(() => this.agent),
      cluster,
      listen,
      commitRule: commitRule ?? { level: 'async' },
      failover,
      watch: options,
      ...(database !== undefined && { database }),
    });
  }

  status(): PostgresStatus {
    return { ...this.engine.status(), postgres: this.#adapter.status() };
  }

  /**
   * Ends both ends, every link, and closes the log. The server beside it is left as it is: its commits wait. Only one that
   * walship manages is stopped, if it is the primary: what it commits without waiting would be protected by nobody.
   */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    await this.#adapter.retire();
    await this.#member?.leave();
    await this.#adapter.close();
    await this.engine.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

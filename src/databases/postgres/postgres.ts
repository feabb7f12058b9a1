import { EventEmitter } from 'node:events';
import { Engine, type EngineEvent, type EngineStatus } from '../../engine/engine.js';
import { WalshipError } from '../../engine/errors.js';
import { direct, settled } from '../../engine/native.js';
import type { Upstream } from '../../engine/options.js';
import type { Agent } from '../../failover/agent.js';
import { Membership, type MembershipSettings } from '../../failover/membership.js';
import { ServerKeeper } from './keeper.js';
import { PostgresServerControl } from './managed.js';
import {
  type NativeReceiver,
  type NativeSender,
  nativePostgres,
  type PostgresReceiverStatus,
  type PostgresSenderStatus,
} from './native.js';
import { type PostgresOptions, split } from './options.js';

/** What a node beside a PostgreSQL server tells of itself: the engine's status, and that of the two ends. */
export interface PostgresStatus extends EngineStatus {
  readonly postgres: {
    /** Present if the node has a `server`. */
    readonly receiver?: PostgresReceiverStatus;
    /** Present if the node serves standby servers. */
    readonly sender?: PostgresSenderStatus;
  };
}

/**
 * Opens a node that ships the WAL of an unmodified PostgreSQL server: as the primary, which is that server's standby, or,
 * with `upstream`, as a standby, which is the walsender of the standby servers of its host.
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
    const receiver =
      settings.receiver &&
      (await settled(nativePostgres.openPostgresReceiver(engine.core, settings.receiver)));
    const sender =
      settings.sender && (await settled(nativePostgres.openPostgresSender(engine.core, settings.sender)));
    const node = new PostgresNode(engine, receiver, sender);
    if (options.failover) await node.join(options.failover, options);
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
  readonly #receiver: NativeReceiver | undefined;
  readonly #sender: NativeSender | undefined;
  #keeper: ServerKeeper | undefined;
  #member: Membership | undefined;
  /** Changes of role, one behind the other. */
  #changing: Promise<unknown> = Promise.resolve();
  #closing: Promise<void> | undefined;

  /** @internal */
  constructor(engine: Engine, receiver: NativeReceiver | undefined, sender: NativeSender | undefined) {
    super();
    this.engine = engine;
    this.#receiver = receiver;
    this.#sender = sender;
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
    return this.#change(async () => {
      const receiver = this.#receiver;
      if (!receiver) {
        throw new WalshipError(
          'WALSHIP_ERR_CONFIG',
          'a primary needs the server whose WAL it ships: set server',
        );
      }
      await settled(receiver.prepare());
      const reached = await this.engine.promote(epoch);
      await settled(receiver.start());
      return reached;
    });
  }

  /** Becomes a standby of `upstream`; its own server gets no further WAL from here unless it follows the walsender. */
  follow(upstream: Upstream): Promise<void> {
    return this.#change(async () => {
      if (this.#receiver) await settled(this.#receiver.stop());
      await this.engine.follow(upstream);
    });
  }

  /** The controller of this node; undefined without `failover`. */
  get agent(): Agent | undefined {
    return this.#member?.agent;
  }

  /** @internal */
  async join(failover: MembershipSettings, options: PostgresOptions): Promise<void> {
    // What `split` has made sure of.
    const { server, manage, serve } = options as Required<PostgresOptions>;
    const [receiver, sender] = [this.#receiver as NativeReceiver, this.#sender as NativeSender];
    const { engine } = this;
    const { directory, port = 5432 } = serve;
    const control = new PostgresServerControl(
      { ...manage, conninfo: server.conninfo },
      {
        synchronous_standby_names: server.applicationName ?? 'walship',
        primary_conninfo: `host=${directory} port=${port} user=postgres application_name=${engine.nodeId}`,
        wal_retrieve_retry_interval: '100ms',
      },
    );
    const keeper = new ServerKeeper(engine, control, { receiver, sender }, (level, message) => {
      const code = level === 'warn' ? 'WALSHIP_ERR_POSTGRES_CONTROL' : '';
      const lsn = engine.positions.received;
      this.emit('event', { type: 'postgres-server', node: engine.nodeId, code, message, lsn });
    });
    this.#keeper = keeper;
    const primaryServer = () => {
      const { agent } = this;
      const member = agent?.members.find(({ node }) => node === agent.primary?.node);
      return member?.node === engine.nodeId ? undefined : member?.database;
    };
    // Whatever commits without waiting for walship must not go on either when the lease is over.
    engine.on('event', ({ type }) => {
      if (type === 'lease-expired') keeper.pursue({ role: 'stopped', mode: 'immediate' });
      if (type === 'lease-renewed') keeper.pursue({ role: 'primary' });
    });
    this.#member = await Membership.join({
      subject: {
        engine,
        promote: async (epoch, leaseUntilNs) => {
          if (engine.positions.received === 0n) {
            if (!control.isRunning) await control.start();
            await settled(receiver.prepare());
          }
          const reached = await engine.promote(epoch, leaseUntilNs);
          keeper.pursue({ role: 'primary' });
          return reached;
        },
        follow: async (upstream) => {
          keeper.pursue({ role: 'standby', from: primaryServer });
          await engine.follow(upstream);
        },
        hold: async (on) => {
          // What the server has is in the log before this is handed over.
          if (on) await keeper.reach({ role: 'stopped', mode: 'fast' });
          await engine.hold(on);
          if (!on) keeper.pursue({ role: 'primary' });
        },
        stepDown: async () => keeper.pursue({ role: 'stopped', mode: 'immediate' }),
      },
      cluster: options.cluster,
      listen: options.listen as string,
      commitRule: options.commitRule ?? { level: 'async' },
      failover,
      database: control.advertised,
    });
  }

  status(): PostgresStatus {
    return direct(() => ({
      ...this.engine.status(),
      postgres: {
        ...(this.#receiver && { receiver: this.#receiver.status() }),
        ...(this.#sender && { sender: this.#sender.status() }),
      },
    }));
  }

  /** Ends both ends, every link, and closes the log. The server beside it is left as it is: its commits wait. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    await this.#member?.leave();
    await this.#keeper?.close();
    await this.#changing.catch(() => {});
    await this.engine.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #change<T>(work: () => Promise<T>): Promise<T> {
    if (this.#closing) {
      return Promise.reject(new WalshipError('WALSHIP_ERR_CLOSED', 'the node is closed'));
    }
    const changed = this.#changing.then(work);
    this.#changing = changed.catch(() => {});
    return changed;
  }
}

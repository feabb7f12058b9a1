import type { Engine } from '../../engine/engine.js';
import { WalshipError } from '../../engine/errors.js';
import { direct, settled } from '../../engine/native.js';
import type { CommitRule, Upstream } from '../../engine/options.js';
import type { Agent, Subject } from '../../failover/agent.js';
import { type Finding, findings, lookAt, type ServerFacts } from './checks.js';
import { ServerKeeper } from './keeper.js';
import { PostgresServerControl } from './managed.js';
import {
  type NativeReceiver,
  type NativeSender,
  nativePostgres,
  type PostgresReceiverStatus,
  type PostgresSenderStatus,
} from './native.js';
import { type PostgresSettings, primaryConninfo } from './options.js';
import { nativeSender } from './serve.js';

/** What a node tells of the PostgreSQL servers that it serves and is served by. */
export interface PostgresAdapterStatus {
  /** Present if the node has a `server`. */
  readonly receiver?: PostgresReceiverStatus;
  /** Present if the node serves standby servers. */
  readonly sender?: PostgresSenderStatus;
  /** What is wrong with the settings of the server beside this node, as far as it has been looked at. */
  readonly findings: readonly Finding[];
  /** With `manage`: why the server beside this node is not yet what it should be; empty: it is. */
  readonly problem: string;
}

const lookTimeoutMs = 5000;
/** A server that shuts down for a switchover waits so long for the standbys to have everything. */
const holdMs = 3000;

/** What stands between an engine and PostgreSQL: both ends of the stream and, with `manage`, the server itself. */
export class PostgresAdapter {
  readonly #engine: Engine;
  readonly #settings: PostgresSettings;
  readonly #commitLevel: CommitRule['level'];
  readonly #receiver: NativeReceiver | undefined;
  readonly #sender: NativeSender | undefined;
  readonly #tell: (code: string, message: string) => void;
  #keeper: ServerKeeper | undefined;
  #findings: readonly Finding[] = [];
  /** Changes of role, one behind the other. */
  #changing: Promise<unknown> = Promise.resolve();
  #closed = false;

  /**
   * @param engine with `applied: 'manual'`. It outlives the adapter; it stops the ends itself when it is closed first.
   * @throws {WalshipError} `WALSHIP_ERR_POSTGRES_LIBPQ`, `WALSHIP_ERR_LISTEN`
   */
  static async open(
    engine: Engine,
    settings: PostgresSettings,
    commitLevel: CommitRule['level'],
  ): Promise<PostgresAdapter> {
    const { receiver, sender } = settings;
    const { core } = engine;
    return new PostgresAdapter(
      engine,
      settings,
      commitLevel,
      receiver && (await settled(nativePostgres.openPostgresReceiver(core, receiver))),
      sender && (await settled(nativePostgres.openPostgresSender(core, nativeSender(sender)))),
    );
  }

  private constructor(
    engine: Engine,
    settings: PostgresSettings,
    commitLevel: CommitRule['level'],
    receiver: NativeReceiver | undefined,
    sender: NativeSender | undefined,
  ) {
    this.#engine = engine;
    this.#settings = settings;
    this.#commitLevel = commitLevel;
    this.#receiver = receiver;
    this.#sender = sender;
    this.#tell = (code, message) =>
      engine.emit('event', {
        type: 'postgres-server',
        node: engine.nodeId,
        code,
        message,
        lsn: engine.positions.received,
      });
    engine.on('event', ({ type }) => {
      if (type === 'postgres-connected') void this.#look();
    });
  }

  /**
   * Becomes the primary, and streams the WAL of its server from then on. The server must be the primary server, or be
   * promoted soon.
   *
   * @returns the epoch
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
      const reached = await this.#engine.promote(epoch);
      await settled(receiver.start());
      return reached;
    });
  }

  /** Becomes a standby; its own server gets no further WAL from here unless it follows the walsender. */
  follow(upstream: Upstream | undefined): Promise<void> {
    return this.#change(async () => {
      if (this.#receiver) await settled(this.#receiver.stop());
      await this.#engine.follow(upstream);
    });
  }

  /** How the other nodes reach the server beside this one. */
  get advertised(): string | undefined {
    const { manage, receiver } = this.#settings;
    return manage && (manage.advertise ?? receiver?.conninfo);
  }

  /**
   * For the controller, with `manage`: from now on the server becomes what its node is.
   *
   * @param agent the node's own, as soon as there is one
   */
  subject(agent: () => Agent | undefined): Subject {
    const engine = this.#engine;
    const { manage, receiver: server, sender: serve } = this.#settings;
    const [receiver, sender] = [this.#receiver, this.#sender];
    if (!manage || !server || !serve || !receiver || !sender)
      throw new WalshipError('WALSHIP_ERR_CONFIG', 'failover: needs server, serve and manage');
    const control = new PostgresServerControl(
      { ...manage, conninfo: server.conninfo },
      {
        synchronous_standby_names: server.applicationName,
        primary_conninfo: primaryConninfo(serve, engine.nodeId),
        wal_retrieve_retry_interval: '100ms',
      },
    );
    const keeper = new ServerKeeper(
      engine,
      control,
      { receiver, sender },
      {
        tell: (level, message) => this.#tell(level === 'warn' ? 'WALSHIP_ERR_POSTGRES_CONTROL' : '', message),
        running: () => void this.#look(),
        handOver: async () => {
          await agent()?.switchover();
        },
      },
    );
    this.#keeper = keeper;
    const primaryServer = () => {
      const node = agent()?.primary?.node;
      if (node === engine.nodeId) return undefined;
      return agent()?.members.find((member) => member.node === node)?.database;
    };
    // A log that is empty begins with what the server has.
    const prepare = async () => {
      if (engine.positions.received > 0n) return;
      if (!control.exists) {
        throw new WalshipError(
          'WALSHIP_ERR_POSTGRES_CONTROL',
          `the first primary needs a database, and there is none in ${manage.dataDir}: walship postgres init makes one`,
        );
      }
      if (!control.isRunning) await control.start();
      await settled(receiver.prepare());
    };
    // Whatever commits without waiting for walship must not go on either when the lease is over.
    engine.on('event', ({ type }) => {
      if (type === 'lease-expired') keeper.pursue({ role: 'stopped', mode: 'immediate' });
      if (type === 'lease-renewed') keeper.pursue({ role: 'primary' });
    });
    return {
      engine,
      prepare,
      promote: async (epoch, leaseUntilNs) => {
        // Who is elected then gives it up, and another one stands.
        if (control.isRewinding) {
          throw new WalshipError(
            'WALSHIP_ERR_POSTGRES_CONTROL',
            'the server beside it is being rewound: until that is done there is no database here',
          );
        }
        await prepare();
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
        if (on && !(await keeper.reach({ role: 'stopped', mode: 'fast', patienceMs: holdMs }))) {
          throw new WalshipError(
            'WALSHIP_ERR_POSTGRES_CONTROL',
            'the server could not shut down in time with all of its WAL on the standbys',
          );
        }
        await engine.hold(on);
        if (!on) keeper.pursue({ role: 'primary' });
      },
      stepDown: async () => keeper.pursue({ role: 'stopped', mode: 'immediate' }),
    };
  }

  status(): PostgresAdapterStatus {
    return direct(() => ({
      ...(this.#receiver && { receiver: this.#receiver.status() }),
      ...(this.#sender && { sender: this.#sender.status() }),
      findings: this.#findings,
      problem: this.#keeper?.problem ?? '',
    }));
  }

  /**
   * For a planned stop, when nobody has taken over: a managed server that is the primary is stopped, because nobody protects
   * its commits from now on. A standby server is left running, and its readers go on.
   */
  async retire(): Promise<void> {
    await this.#keeper?.retire();
  }

  /** No further change, and nothing is done to the server any more. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#keeper?.close();
    await this.#changing.catch(() => {});
  }

  /** The server's settings, each time that it can be reached anew. */
  async #look(): Promise<void> {
    const { receiver, manage, sender } = this.#settings;
    if (!receiver) return;
    let facts: ServerFacts;
    try {
      facts = await lookAt(receiver.conninfo, lookTimeoutMs);
    } catch {
      return; // Why it cannot be reached is told by whoever needs it for more than a look.
    }
    if (this.#closed) return;
    const known = new Set(this.#findings.map(({ message }) => message));
    this.#findings = findings(facts, {
      applicationName: receiver.applicationName,
      managed: manage !== undefined,
      commitLevel: this.#commitLevel,
      ...(sender && { conninfo: primaryConninfo(sender, this.#engine.nodeId) }),
    });
    for (const { message, remedy } of this.#findings)
      if (!known.has(message)) this.#tell('WALSHIP_ERR_POSTGRES_SETTING', `${message}; ${remedy}`);
  }

  #change<T>(work: () => Promise<T>): Promise<T> {
    if (this.#closed) return Promise.reject(new WalshipError('WALSHIP_ERR_CLOSED', 'the node is closed'));
    const changed = this.#changing.then(work);
    this.#changing = changed.catch(() => {});
    return changed;
  }
}

import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { EngineRails, RailChoice } from '../cluster/rail-keeper.js';
import { Journal, type JournalContents, type JournalRange, readJournal } from '../consistency/journal.js';
import type { MonitorReport } from '../consistency/monitor.js';
import { Pages } from '../consistency/pages.js';
import { ReplicaMonitor } from '../consistency/replica-monitor.js';
import { Scrubber, type ScrubStatus } from '../consistency/scrubber.js';
import { PostgresAdapter, type PostgresAdapterStatus } from '../databases/postgres/adapter.js';
import { type PostgresParts, partsProblems, withDefaults } from '../databases/postgres/options.js';
import { Engine, type EngineStatus } from '../engine/engine.js';
import { WalshipError } from '../engine/errors.js';
import { formatLsn } from '../engine/lsn.js';
import { native } from '../engine/native.js';
import { type CommitRule, parseAddress, type Upstream } from '../engine/options.js';
import type { AgentStatus, Subject } from '../failover/agent.js';
import { HybridClock } from '../failover/clock.js';
import { ClusterEndpoints, type Health } from '../failover/endpoints.js';
import { Membership } from '../failover/membership.js';
import { AdminServer } from './admin.js';
import { defaultAdminSocket, type NodeConfig, type NodeFailover } from './config.js';
import { failoverProblems } from './failover.js';
import { RoleHook } from './hook.js';
import { describeEvent, describeFinding, type LogEntry, Repetitions } from './report.js';

/** What a node says about itself and the standbys below it: `GET /status`. */
export interface NodeStatus extends EngineStatus {
  readonly version: string;
  readonly pid: number;
  /** ISO 8601. */
  readonly startedAt: string;
  /** `host:port` with the port in use; absent if no standby can connect. */
  readonly listen?: string;
  readonly adminListen?: string;
  readonly commitRule: CommitRule;
  /** Whom this node was told to follow; absent on a primary, and on a standby on its own. */
  readonly upstream?: Upstream;
  readonly health: NodeHealth;
  /** Files in the log directory with what was cut off a log that had diverged; `walship log` reads them. */
  readonly setAside: readonly string[];
  /** What the controller knows of the cluster; absent without failover. */
  readonly failover?: AgentStatus;
  /** What the monitor says of the replicas, the disk and the log. */
  readonly monitor: MonitorReport;
  /** How this node looks after its copies of the log's pages. */
  readonly scrub: ScrubStatus;
  /** Of the PostgreSQL servers; absent without. */
  readonly postgres?: PostgresAdapterStatus;
}

/** Whether a node does what its role asks of it. */
export type NodeHealth = Health;

const defaultOnRoleTimeoutMs = 10_000;
/** A node that has just started has better things to do. */
const scrubAfterMs = 10_000;
/** A clean stop waits so long for a standby to take over. */
const stepBackMsMax = 2000;
/** … and so long for the program that is told of the role. */
const hookStopMsMax = 3000;

export interface NodeStartOptions {
  /** Gets a line for everything that happens. Default: nobody. */
  readonly log?: (entry: LogEntry) => void;
}

/**
 * A running node: an engine with the role its configuration gives it, and the administration interface. What the
 * `walship node` command runs; programs that append use {@link engine}.
 */
export class Node {
  readonly engine: Engine;
  /** Resolves when the node has stopped; rejects with why if its storage failed and it stopped because of that. */
  readonly done: Promise<void>;
  readonly #config: NodeConfig;
  readonly #log: (entry: LogEntry) => void;
  readonly #clock = new HybridClock();
  readonly #journal: Journal;
  readonly #scrubber: Scrubber;
  readonly #startedAt = new Date();
  readonly #repetitions = new Repetitions();
  readonly #endpoints = new ClusterEndpoints();
  readonly #monitor: ReplicaMonitor;
  #admin: AdminServer | undefined;
  #membership: Membership | undefined;
  #postgres: PostgresAdapter | undefined;
  #hook: RoleHook | undefined;
  #upstream: Upstream | undefined;
  #whyNoUpstream = '';
  #whyRuleFails = '';
  #failure: WalshipError | undefined;
  #stopping: Promise<void> | undefined;
  #finish!: () => void;
  #fail!: (error: Error) => void;

  /**
   * Opens the log, listens, takes the configured role; with failover, lets the controller decide on it.
   *
   * @throws {WalshipError} as {@link Engine.open}; also `WALSHIP_ERR_ADMIN` if the administration interface cannot listen,
   * and as {@link Membership.join}.
   */
  static async start(config: NodeConfig, options: NodeStartOptions = {}): Promise<Node> {
    const log = options.log ?? (() => {});
    const applied = config.postgres && { applied: 'manual' as const };
    const node = new Node(config, await Engine.open({ ...config.engine, ...applied }), log);
    try {
      await node.#begin();
    } catch (error) {
      await node.stop();
      throw error;
    }
    return node;
  }

  private constructor(config: NodeConfig, engine: Engine, log: (entry: LogEntry) => void) {
    this.#config = config;
    this.engine = engine;
    this.#journal = Journal.open(journalDir(config.engine.dir), {
      node: engine.nodeId,
      bytesMax: config.journalBytes,
      onProblem: (message) => log(entry('error', 'journal', message)),
    });
    this.#log = (told) => {
      log(told);
      const { level, event, message, code, facts } = told;
      const { epoch, positions } = engine;
      const clock = this.#clock.stamp();
      this.#journal.append({ clock, epoch, lsn: positions.received, level, event, message, code, facts });
    };
    this.#scrubber = new Scrubber(new Pages(engine), {
      dir: scrubDir(config.engine.dir),
      settings: config.scrub,
      onEvent: ({ level, event, message, facts }) => this.#tell(level, event, message, facts),
    });
    this.#monitor = new ReplicaMonitor(engine, {
      engine: config.engine,
      settings: config.monitor,
      damagedPages: () => this.#scrubber.damagedPages,
    });
    this.#monitor.on('finding', (change) => this.#log(describeFinding(change)));
    this.done = new Promise((resolve, reject) => {
      this.#finish = resolve;
      this.#fail = reject;
    });
    // Whoever awaits it gets the rejection; that nobody does is no crash.
    this.done.catch(() => {});
    engine.on('event', (event) => {
      if (event.type === 'upstream-unreachable' || event.type === 'upstream-down')
        this.#whyNoUpstream = event.message;
      if (event.type === 'rule-failing') this.#whyRuleFails = event.message;
      const described = describeEvent(event);
      if (described && this.#repetitions.isNews(described)) this.#log(described);
      if (event.type === 'failed') {
        this.#failure = new WalshipError(event.code, event.message);
        void this.stop();
      }
    });
  }

  async #begin(): Promise<void> {
    const { engine } = this;
    for (const warning of this.#config.warnings ?? []) this.#tell('warn', 'configuration', warning);
    this.#tell(
      'info',
      'starting',
      `walship ${native.version}, node ${engine.nodeId} of cluster ${engine.cluster}, log in ${this.#config.engine.dir}`,
      { pid: process.pid },
    );
    if (this.#journal.torn) this.#tell('info', 'journal', 'cut off the unfinished last line of the journal');
    if (engine.recoveryNote !== '') this.#tell('warn', 'recovered', `recovery: ${engine.recoveryNote}`);
    if (engine.verbsProblem !== '') this.#tell('info', 'tcp-only', `over TCP only: ${engine.verbsProblem}`);
    const listen = this.#listen();
    if (listen)
      this.#tell('info', 'listening', `listening on ${listen}`, { address: listen, port: engine.listenPort });
    if (this.#config.postgres) await this.#openPostgres(this.#config.postgres);
    this.#serve();
    this.#admin = await AdminServer.open(this, this.#endpoints, {
      socket: this.#config.adminSocket ?? defaultAdminSocket(this.#config.engine.dir),
      listen: this.#config.adminListen,
    });
    for (const address of this.#admin.addresses)
      this.#tell('info', 'admin', `administration at ${address}`, { address });
    if (this.#config.failover) await this.#join(this.#config.failover);
    else if (this.#config.role === 'primary') await this.promote();
    else await this.follow(this.#config.upstream);
    this.#scrubber.start(scrubAfterMs);
  }

  async #openPostgres(parts: PostgresParts): Promise<void> {
    const problems = partsProblems(parts, this.#config.failover !== undefined);
    if (problems.length > 0)
      throw new WalshipError('WALSHIP_ERR_CONFIG', problems.join('\n'), { details: { problems } });
    const adapter = await PostgresAdapter.open(
      this.engine,
      withDefaults(parts),
      this.#config.engine.commitRule?.level ?? 'async',
    );
    this.#postgres = adapter;
    const { sender } = adapter.status();
    if (sender)
      this.#tell('info', 'postgres-serves', `standby servers get their WAL at ${sender.socketPath}`, {
        path: sender.socketPath,
      });
  }

  async #join({ coordinator, onRole, onRoleTimeoutMs, ...settings }: NodeFailover): Promise<void> {
    const { engine } = this;
    const { cluster, commitRule, links } = this.#config.engine;
    if (onRole !== undefined) {
      this.#hook = new RoleHook(onRole, onRoleTimeoutMs ?? defaultOnRoleTimeoutMs, (message) =>
        this.#tell('warn', 'on-role', message),
      );
    }
    const [listen, http] = [this.#listen(), this.#admin?.listen];
    const problems = failoverProblems(settings, { listen, http, links });
    if (problems.length > 0) {
      throw new WalshipError('WALSHIP_ERR_CONFIG', problems.join('\n'), { details: { problems } });
    }
    const { advertiseLog = listen, advertiseHttp = http } = settings;
    const database = this.#postgres?.advertised;
    this.#membership = await Membership.join({
      subject: this.#subject(),
      cluster,
      clock: this.#clock,
      ...(database !== undefined && { database }),
      listen: listen as string,
      commitRule: commitRule ?? { level: 'async' },
      failover: { ...settings, coordinator, advertiseLog, advertiseHttp },
    });
    const { agent } = this.#membership;
    agent.on('event', ({ level, event, message, facts }) => {
      const told = entry(level, event, message, facts);
      // The role is told once, when it is taken.
      if (event !== 'primary' && this.#repetitions.isNews(told)) this.#log(told);
    });
    agent.on('role', (role, epoch) => this.#took(role, epoch));
    this.#serve();
    this.#tell('info', 'controller', `controller at ${agent.member.control}`, {
      address: agent.member.control,
    });
    // A role of before a crash may have left something behind, such as an address.
    this.#took('standby', engine.promisedEpoch);
  }

  #took(role: 'primary' | 'standby', epoch: bigint): void {
    const at = formatLsn(this.engine.positions.received);
    const message =
      role === 'primary'
        ? `primary in epoch ${epoch} from LSN ${at} on`
        : `standby at LSN ${at}; the controller decides whom it follows`;
    this.#tell('info', 'role', message, { role, epoch: String(epoch) });
    this.#runHook(role, epoch);
  }

  #runHook(role: 'primary' | 'standby', epoch: bigint): void {
    const { nodeId: node, cluster } = this.engine;
    this.#hook?.run({ role, epoch, node, cluster });
  }

  /** What the controller promotes and has follow: the engine, or the database over it. */
  #subject(): Subject {
    const { engine } = this;
    const database: Subject = this.#postgres?.subject(() => this.#membership?.agent) ?? {
      engine,
      promote: (epoch, leaseUntilNs) => engine.promote(epoch, leaseUntilNs),
      follow: (upstream) => engine.follow(upstream),
    };
    return {
      ...database,
      follow: async (upstream) => {
        await database.follow(upstream);
        this.#follows(upstream);
      },
    };
  }

  #follows(upstream: Upstream): void {
    this.#upstream = upstream;
    this.#whyNoUpstream = '';
    this.#tell('info', 'follow', `follows ${upstream.node} at ${upstream.address}`, {
      upstream: upstream.address,
      ...(upstream.node !== undefined && { node: upstream.node }),
    });
  }

  /** What the endpoints answer for. */
  #serve(): void {
    this.#endpoints.serve({
      engine: this.engine,
      agent: this.#membership?.agent,
      monitor: this.#monitor,
      health: () => this.health(),
      status: () => this.status(),
    });
  }

  #refuseByHand(instead: string): void {
    if (this.#config.failover === undefined) return;
    throw new WalshipError(
      'WALSHIP_ERR_FAILOVER',
      `the controller of this node decides on its role: use ${instead}`,
    );
  }

  /**
   * Becomes the primary in a new epoch, the next one if none is given.
   *
   * @throws {WalshipError} as {@link Engine.promote}; `WALSHIP_ERR_FAILOVER` with failover: its controller decides
   */
  async promote(epoch?: bigint): Promise<bigint> {
    this.#refuseByHand('walship switchover or walship failover');
    const reached = await (this.#postgres ?? this.engine).promote(epoch);
    this.#upstream = undefined;
    const at = formatLsn(this.engine.positions.received);
    this.#tell('info', 'role', `primary in epoch ${reached} from LSN ${at} on`, {
      role: 'primary',
      epoch: String(reached),
    });
    return reached;
  }

  /**
   * Becomes a standby of `upstream`, or one on its own.
   *
   * @throws {WalshipError} as {@link Engine.follow}; `WALSHIP_ERR_FAILOVER` with failover: its controller decides
   */
  async follow(upstream?: Upstream): Promise<void> {
    this.#refuseByHand('walship switchover to change the primary; whom the others follow is planned');
    await (this.#postgres ?? this.engine).follow(upstream);
    this.#upstream = upstream;
    this.#whyNoUpstream = '';
    const message = upstream
      ? `standby, follows ${upstream.address}${upstream.node ? ` (${upstream.node})` : ''}`
      : 'standby that follows nobody: `walship follow HOST:PORT` or `walship promote` changes that';
    this.#tell('info', 'role', message, { role: 'standby', ...(upstream && { upstream: upstream.address }) });
  }

  status(): NodeStatus {
    const status = this.engine.status();
    const listen = this.#listen();
    return {
      version: native.version,
      pid: process.pid,
      startedAt: this.#startedAt.toISOString(),
      ...(listen && { listen }),
      ...(this.#admin?.listen && { adminListen: this.#admin.listen }),
      commitRule: this.#config.engine.commitRule ?? { level: 'async' },
      ...(this.#upstream && status.role === 'standby' && { upstream: this.#upstream }),
      health: this.#health(status),
      setAside: readdirSync(this.#config.engine.dir).filter((name) => name.startsWith('diverged-')),
      ...(this.#membership && { failover: this.#membership.agent.status() }),
      monitor: this.#monitor.report(),
      scrub: this.#scrubber.status(),
      ...(this.#postgres && { postgres: this.#postgres.status() }),
      ...status,
    };
  }

  /** The network paths to the upstream: which are used, and why. */
  rails(): EngineRails {
    return this.engine.rails();
  }

  /** As {@link Engine.chooseRails}. */
  async chooseRails(choice: RailChoice | 'auto'): Promise<void> {
    await this.engine.chooseRails(choice);
    const text = (patterns: readonly string[] | undefined) =>
      patterns?.length ? patterns.join(' ') : 'none';
    this.#tell(
      'info',
      'rails-chosen',
      choice === 'auto'
        ? 'rails by the configuration again'
        : `rails chosen by hand: pinned ${text(choice.pin)}, excluded ${text(choice.exclude)}`,
    );
  }

  /** What this node wrote down of what it saw and did. */
  journal(range?: JournalRange): JournalContents {
    return readJournal(journalDir(this.#config.engine.dir), range);
  }

  /**
   * Begins to look at every page of the log now; {@link NodeStatus.scrub} says how far it is.
   *
   * @param options `bytesPerSecond` 0: as fast as it goes
   * @returns the number of this pass in `scrub.verify`
   * @throws {WalshipError} `WALSHIP_ERR_BUSY` if that is being done already
   */
  verify(options: { readonly repair: boolean; readonly bytesPerSecond: number }): number {
    return this.#scrubber.verify(options).number;
  }

  /** Whether it does what its role asks of it. */
  health(): NodeHealth {
    return this.#health(this.engine.status());
  }

  #health(status: EngineStatus): NodeHealth {
    const problems: string[] = [];
    if (this.#failure) problems.push(`the storage has failed: ${this.#failure.message}`);
    else if (status.storageProblem !== '')
      problems.push(`the log cannot be written: ${status.storageProblem}`);
    const waiting = this.#membership?.agent.status().waiting ?? '';
    if (waiting !== '') problems.push(waiting);
    else if (status.ruleFailing)
      problems.push(this.#whyRuleFails || 'commits wait: the commit rule is not met');
    const connected = status.links.some((link) => link.direction === 'upstream' && link.streaming);
    if (status.role === 'standby' && !connected) {
      const why = this.#whyNoUpstream === '' ? '' : `: ${this.#whyNoUpstream}`;
      problems.push(
        this.#upstream
          ? `not connected to the upstream ${this.#upstream.address}${why}`
          : this.#config.failover
            ? 'this standby follows nobody yet: no primary is known'
            : 'this standby follows nobody: `walship follow HOST:PORT` or `walship promote` changes that',
      );
    }
    if (this.#postgres) problems.push(...this.#serverProblems(this.#postgres.status(), status.role));
    return { ok: problems.length === 0, problems };
  }

  #serverProblems({ receiver, problem }: PostgresAdapterStatus, role: EngineStatus['role']): string[] {
    const problems = problem === '' ? [] : [problem];
    if (role === 'primary' && receiver && receiver.state !== 'streaming') {
      const why = receiver.problem ? `: ${receiver.problem.message}` : '';
      problems.push(`no WAL comes from the PostgreSQL server, which is ${receiver.state}${why}`);
    }
    return problems;
  }

  /** What has to be changed for the role of now to be the one after a restart; undefined if nothing. */
  roleAtRestart(): string | undefined {
    const role = this.#config.role ?? 'standby';
    if (this.engine.role === role && this.#upstream?.address === this.#config.upstream?.address)
      return undefined;
    const wanted =
      this.engine.role === 'primary'
        ? 'role = "primary"'
        : `role = "standby" and upstream = "${this.#upstream?.address ?? ''}"`;
    return `the configuration still gives this node another role; set ${wanted} there before it is started again`;
  }

  /**
   * Ends the administration interface, every link and the log, in this order. A primary with failover first hands over to
   * a standby, if one is there: a planned restart is no outage.
   */
  stop(): Promise<void> {
    this.#stopping ??= this.#stop();
    return this.#stopping;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  async #stop(): Promise<void> {
    this.#tell('info', 'stopping', 'stopping');
    try {
      await this.#stepBack();
      await this.#postgres?.retire();
      this.#monitor.close();
      await this.#scrubber.stop();
      this.#endpoints.close();
      await this.#admin?.close();
      await this.#membership?.leave();
      await this.#postgres?.close();
      await this.engine.close();
      const at = formatLsn(this.engine.positions.flushed);
      if (!this.#failure) this.#tell('info', 'stopped', `stopped, flushed up to LSN ${at}`);
    } catch (error) {
      this.#failure ??= error as WalshipError;
    }
    this.#journal.close();
    if (this.#failure) this.#fail(this.#failure);
    else this.#finish();
  }

  async #stepBack(): Promise<void> {
    if (!this.#membership) return;
    const outcome = this.#failure ? undefined : await this.#membership.stepBack(stepBackMsMax);
    if (outcome !== undefined) this.#tell('info', 'step-back', `before it stops: ${outcome}`);
    if (!this.#hook) return;
    if (this.#hook.last === 'primary') this.#runHook('standby', this.engine.promisedEpoch);
    await Promise.race([this.#hook.idle(), sleep(hookStopMsMax, undefined, { ref: false })]);
  }

  #listen(): string | undefined {
    const { listen } = this.#config.engine;
    if (listen === undefined) return undefined;
    const { host } = parseAddress(listen);
    return `${host.includes(':') ? `[${host}]` : host || '0.0.0.0'}:${this.engine.listenPort}`;
  }

  #tell(level: LogEntry['level'], event: string, message: string, facts?: LogEntry['facts']): void {
    this.#log(entry(level, event, message, facts));
  }
}

/** Where a node keeps its journal. */
export function journalDir(dir: string): string {
  return join(dir, 'journal');
}

/** Where a node's scrubber keeps its position, and what it sets aside. */
function scrubDir(dir: string): string {
  return join(dir, 'scrub');
}

function entry(
  level: LogEntry['level'],
  event: string,
  message: string,
  facts?: LogEntry['facts'],
): LogEntry {
  return { time: new Date(), level, event, message, ...(facts && { facts }) };
}

import { EventEmitter } from 'node:events';
import type { Engine, EngineEvent } from '../engine/engine.js';
import { WalshipError } from '../engine/errors.js';
import type { Upstream } from '../engine/options.js';
import { HybridClock } from './clock.js';
import { Controller } from './controller.js';
import type { ClusterView, Coordinator, Member } from './coordinator/coordinator.js';
import { EngineFacts } from './facts.js';
import { Mesh } from './mesh.js';
import type { Action, Command, ControllerSettings, Event, TellFacts } from './protocol.js';
import { registeredStandbysOf } from './quorum.js';
import { lastPrimary } from './state.js';

/** What is made primary or standby: an engine, or a database on one. */
export interface Subject {
  readonly engine: Engine;
  /** Before this node begins the cluster as its first primary: what must be there for that. Throws what is missing. */
  prepare?(): Promise<void>;
  /** As {@link Engine.promote}. */
  promote(epoch: bigint, leaseUntilNs: bigint): Promise<unknown>;
  /** As {@link Engine.follow}. */
  follow(upstream: Upstream): Promise<void>;
  /** Begins and ends a time in which nothing is appended; as {@link Engine.hold}, which it calls. */
  hold?(on: boolean): Promise<void>;
  /** Ends the writing: the engine has promised a newer epoch, and is primary no more. */
  stepDown?(): Promise<void>;
}

export interface AgentOptions {
  readonly subject: Subject;
  readonly coordinator: Coordinator;
  readonly cluster: { readonly id: string; readonly secret: string };
  readonly settings: ControllerSettings;
  /** `host:port` to hear the other controllers on. */
  readonly listen: string;
  /** For whoever keeps a journal: shared with the other nodes' by what the controllers say to each other. Default: its own. */
  readonly clock?: HybridClock;
  /** This node for the others. An absent `control` is made of `listen` and the port in use. */
  readonly member: Omit<Member, 'control' | 'priority' | 'nofailover'> & { readonly control?: string };
}

/** Something that the controller did or found, for people. */
export interface AgentEvent {
  readonly level: 'info' | 'warn';
  readonly event: string;
  readonly message: string;
  readonly facts?: TellFacts | undefined;
}

/** What a controller knows, for status displays and for clients. */
export interface AgentStatus {
  readonly coordinator: { readonly kind: 'etcd' | 'embedded'; readonly up: boolean; readonly caveat: string };
  readonly paused: boolean;
  readonly primary?: { readonly node: string; readonly epoch: bigint };
  /** Why there is no primary, or what keeps this node from being what it should be; empty if all is well. */
  readonly waiting: string;
  readonly standing: boolean;
  readonly members: readonly (Member & {
    readonly connected: boolean;
    readonly role?: 'primary' | 'standby';
    readonly upstream?: string;
  })[];
  /** The standbys whose word counts for commits; of the record. */
  readonly counting: readonly string[];
  /** Of a primary: for how long it may commit if nothing renews its lease. */
  readonly leaseMs?: number;
}

const tickMsMin = 10;
const registerAgainMs = 500;

/**
 * A node's controller at work: gives the state machine its clock, sockets and data plane, and does what it decides.
 *
 * Events: `event`, for people; `role`, with the epoch, when this node has become primary or standby; `change`, when
 * anything that clients look at may be another.
 */
export class Agent extends EventEmitter<{
  event: [AgentEvent];
  role: ['primary' | 'standby', bigint];
  change: [];
}> {
  readonly member: Member;
  readonly #options: AgentOptions;
  readonly #controller: Controller;
  readonly #facts: EngineFacts;
  readonly #mesh: Mesh;
  readonly #answers = new Map<string, (outcome: { ok: boolean; message: string }) => void>();
  readonly #onEngine = (event: EngineEvent) => this.#take(event);
  #tick: NodeJS.Timeout | undefined;
  #registerTimer: NodeJS.Timeout | undefined;
  #stopWatch = () => {};
  /** Changes of the subject's role, one behind the other; promises do not wait in it. */
  #changing: Promise<unknown> = Promise.resolve();
  /** Of the cluster, as known last. */
  #members: ReadonlySet<string> = new Set();
  /** The same with their addresses: what clients find the nodes by. */
  #known = '';
  #paused = false;
  #nextCommand = 1;
  #stepping = false;
  #steppedAt = nowMs();
  readonly #due: Event[] = [];
  #closed = false;
  #seen = '';

  /** @throws {WalshipError} `WALSHIP_ERR_LISTEN`; what {@link Subject.prepare} throws */
  static async start(options: AgentOptions): Promise<Agent> {
    const { coordinator, settings, subject } = options;
    if (settings.bootstrap && subject.prepare) {
      // Begun in vain, a cluster would wait for what its first primary has committed. A coordinator that comes later
      // cannot be asked.
      const view = await coordinator.read().catch(() => undefined);
      if (view && !view.primary) await subject.prepare();
    }
    let agent: Agent | undefined;
    const mesh = await Mesh.open({
      nodeId: options.settings.node,
      cluster: options.cluster,
      listen: options.listen,
      clock: options.clock ?? new HybridClock(),
      silentMsMax: Math.max(1000, 4 * options.settings.suspectMs),
      onMessage: (from, message) => agent?.step({ type: 'message', from, message }),
      onPeer: (node, up, refused) => agent?.step({ type: 'peer', node, up, refused }),
    });
    agent = new Agent(options, mesh);
    agent.#begin();
    return agent;
  }

  private constructor(options: AgentOptions, mesh: Mesh) {
    super();
    this.#options = options;
    this.#mesh = mesh;
    const { settings, subject } = options;
    const host = options.listen.replace(/:\d+$/, '');
    this.member = {
      ...options.member,
      control: options.member.control ?? `${host}:${mesh.port}`,
      priority: settings.priority,
      nofailover: settings.nofailover,
    };
    this.#controller = new Controller(settings, nowMs());
    this.#facts = new EngineFacts(subject.engine);
    // Nothing is committed before the coordinator has given a lease.
    subject.engine.setLease(1n);
  }

  #begin(): void {
    const { coordinator, subject } = this.#options;
    subject.engine.on('event', this.#onEngine);
    this.#stopWatch = coordinator.watch((view) => {
      this.#meet(view);
      this.step({ type: 'view', view });
    });
    const tickMs = Math.max(tickMsMin, this.#options.settings.gossipMs / 5);
    this.#tick = setInterval(() => this.step({ type: 'tick' }), tickMs);
    void this.#register();
  }

  /** Until it is done: the coordinator may come later than the node. */
  async #register(): Promise<void> {
    try {
      await this.#options.coordinator.register(this.member);
    } catch {
      if (!this.#closed) this.#registerTimer = setTimeout(() => void this.#register(), registerAgainMs);
    }
  }

  #meet(view: ClusterView | undefined): void {
    if (!view || this.#closed) return;
    if (view.paused !== this.#paused) {
      this.#paused = view.paused;
      const [event, message] = view.paused
        ? (['paused', 'automatic failover is paused: nobody is promoted by itself'] as const)
        : (['resumed', 'automatic failover goes on'] as const);
      this.emit('event', { level: 'info', event, message });
    }
    this.#mesh.setPeers(view.members);
    const names = new Set(view.members.map(({ node }) => node));
    for (const node of this.#members) {
      // Of a node that has never been its downstream the engine keeps nothing.
      if (!names.has(node)) this.#options.subject.engine.forgetReader(node).catch(() => {});
    }
    this.#members = names;
    this.#known = view.members.map(({ node, log, http }) => `${node}@${log}@${http}`).join();
  }

  status(): AgentStatus {
    const { state } = this.#controller;
    const { coordinator } = this.#options;
    const primary = lastPrimary(state);
    const rule = state.view?.primary?.rule;
    return {
      coordinator: { kind: coordinator.kind, up: state.coordinatorUp, caveat: coordinator.caveat },
      paused: state.view?.paused === true,
      ...(primary && { primary: { node: primary.node, epoch: primary.epoch } }),
      waiting: state.waiting,
      standing: state.election !== undefined,
      members: (state.view?.members ?? []).map((member) => {
        const peer = state.peers.get(member.node);
        const self = member.node === this.member.node;
        const role = self ? this.#role() : peer?.up ? peer.state?.role : undefined;
        const upstream = self ? state.upstream : peer?.up ? peer.state?.upstream : undefined;
        return {
          ...member,
          connected: self || peer?.up === true,
          ...(role && { role }),
          ...(upstream && { upstream }),
        };
      }),
      counting: rule ? registeredStandbysOf(rule) : [],
      ...(state.reign && { leaseMs: Math.max(0, state.reign.leaseUntil - nowMs()) }),
    };
  }

  /** Whom this node takes for the primary: by that node's own word, if it is reachable. */
  get primary(): { node: string; epoch: bigint } | undefined {
    const { state } = this.#controller;
    if (state.reign) return { node: this.member.node, epoch: state.reign.record.epoch };
    const { announced } = state;
    const peer = announced && state.peers.get(announced.node);
    return announced && peer?.up === true && peer.state?.role === 'primary' ? announced : undefined;
  }

  get members(): readonly Member[] {
    return this.#controller.state.view?.members ?? [];
  }

  #role(): 'primary' | 'standby' {
    return this.#controller.state.reign ? 'primary' : 'standby';
  }

  /**
   * Hands the primary's role to another node, without a lost commit; on whatever node it is asked.
   *
   * @throws {WalshipError} `WALSHIP_ERR_FAILOVER`: nothing has changed, or another node than `to` is the primary now
   */
  switchover(to?: string): Promise<string> {
    return this.#command({ type: 'switchover', to });
  }

  /**
   * Promotes a standby without the primary's help. With `acceptDataLoss` also where it cannot be proved that it has all
   * that was committed.
   *
   * @throws {WalshipError} `WALSHIP_ERR_FAILOVER`
   */
  failover(to: string | undefined, acceptDataLoss: boolean): Promise<string> {
    return this.#command({ type: 'failover', to, acceptDataLoss });
  }

  /** @throws {WalshipError} `WALSHIP_ERR_COORDINATOR` */
  async setPaused(paused: boolean): Promise<void> {
    await this.#options.coordinator.setPaused(paused);
  }

  /**
   * Takes a node that is gone for good out of the cluster: nobody keeps the log for it any more. If it is started again, it
   * registers again.
   *
   * @throws {WalshipError} `WALSHIP_ERR_FAILOVER`: it is connected, or no member; `WALSHIP_ERR_COORDINATOR`
   */
  async forget(node: string): Promise<void> {
    const member = this.status().members.find((each) => each.node === node);
    const refuse = (message: string) => new WalshipError('WALSHIP_ERR_FAILOVER', message);
    if (!member) throw refuse(`'${node}' is no member of the cluster`);
    if (member.connected) throw refuse(`'${node}' is running: stop it first`);
    await this.#options.coordinator.forget(node);
  }

  /**
   * Takes back, on this node, what was committed here and is not part of the cluster's log any more (after a failover with
   * accepted loss): it is set aside in a file, and the node follows again.
   */
  async rejoin(): Promise<void> {
    const { upstream: node, upstreamAt: address } = this.#controller.state;
    if (node === undefined) {
      throw new WalshipError(
        'WALSHIP_ERR_FAILOVER',
        'this node has nobody to follow: it is the primary, or there is none',
      );
    }
    await this.#change(() => this.#options.subject.follow({ node, address, discardCommitted: true }));
  }

  async #command(command: Command): Promise<string> {
    const id = `${this.member.node}.${this.#nextCommand++}`;
    const timeoutMs = this.#options.settings.switchoverMs + 4 * this.#options.settings.leaseMs;
    const outcome = await new Promise<{ ok: boolean; message: string }>((resolve) => {
      const timer = setTimeout(
        () => resolve({ ok: false, message: `no answer within ${timeoutMs} ms; see walship status` }),
        timeoutMs,
      );
      this.#answers.set(id, (given) => {
        clearTimeout(timer);
        resolve(given);
      });
      this.step({ type: 'command', id, command });
    });
    this.#answers.delete(id);
    if (!outcome.ok) throw new WalshipError('WALSHIP_ERR_FAILOVER', outcome.message);
    return outcome.message;
  }

  /** Ends the part of this node in the cluster's decisions; the engine stays as it is. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    clearInterval(this.#tick);
    clearTimeout(this.#registerTimer);
    this.#stopWatch();
    this.#options.subject.engine.off('event', this.#onEngine);
    await this.#mesh.close();
    await this.#changing.catch(() => {});
    for (const answer of this.#answers.values()) answer({ ok: false, message: 'the node is closing' });
  }

  // ---- what happens ----

  #take(event: EngineEvent): void {
    this.#facts.take(event);
    if (relevant.has(event.type)) this.step({ type: 'tick' });
  }

  /** @internal */
  step(event: Event): void {
    if (this.#closed) return;
    this.#noticeStandstill();
    this.#due.push(event);
    // An action that is carried out at once may have consequences at once.
    if (this.#stepping) return;
    this.#stepping = true;
    try {
      for (let next = this.#due.shift(); next; next = this.#due.shift()) {
        const actions = this.#controller.step(next, this.#facts, nowMs());
        // Here before anywhere else: a journal tells of a role before what others do about it.
        this.#tellChange();
        for (const action of actions) this.#carryOut(action);
      }
    } finally {
      this.#stepping = false;
    }
  }

  /** Whoever stood still may find that the others have gone on without it: that is why. */
  #noticeStandstill(): void {
    const now = nowMs();
    const ms = Math.round(now - this.#steppedAt);
    this.#steppedAt = now;
    if (ms <= this.#options.settings.suspectMs) return;
    const message = `this process stood still for ${ms} ms: it was stopped, or got no processor`;
    this.emit('event', { level: 'warn', event: 'stood-still', message, facts: { ms } });
  }

  #tellChange(): void {
    const { state } = this.#controller;
    const primary = this.primary;
    const role = this.#role();
    const key = `${role} ${primary?.node} ${primary?.epoch} ${state.waiting} ${state.view?.paused} ${state.coordinatorUp} ${state.upstream} ${this.#known}`;
    if (key === this.#seen) return;
    const before = this.#seen.split(' ')[0] || 'standby';
    this.#seen = key;
    if (role !== before) this.emit('role', role, primary?.epoch ?? this.#facts.promisedEpoch);
    this.emit('change');
  }

  // ---- what is done ----

  #carryOut(action: Action): void {
    const { coordinator, subject } = this.#options;
    const { engine } = subject;
    switch (action.type) {
      case 'send':
        this.#mesh.send(action.to, action.message);
        return;
      case 'read':
        void coordinator.read().then(
          (view) => {
            this.#meet(view);
            this.step({ type: 'read', view });
          },
          () => this.step({ type: 'read', view: undefined }),
        );
        return;
      case 'swap':
        void coordinator.swap(action.expected, action.next).then(
          (revision) =>
            this.step({
              type: 'swapped',
              id: action.id,
              outcome: revision === undefined ? 'conflict' : { revision },
            }),
          () => this.step({ type: 'swapped', id: action.id, outcome: 'unknown' }),
        );
        return;
      case 'promise':
        void this.#promise(action.epoch);
        return;
      case 'promote':
        void this.#promote(action);
        return;
      case 'follow':
        void this.#follow(action.upstream);
        return;
      case 'lease':
        engine.setLease(toNs(action.untilMs));
        return;
      case 'rule':
        engine.setCommitRule(action.rule);
        return;
      case 'hold':
        void this.#hold(action.on);
        return;
      case 'answer':
        this.#answers.get(action.id)?.(action);
        return;
      case 'tell':
        this.emit('event', action);
        return;
    }
  }

  async #promise(epoch: bigint): Promise<void> {
    const { subject } = this.#options;
    const reigned = subject.engine.role === 'primary';
    try {
      const place = await subject.engine.promise(epoch);
      if (reigned && subject.engine.role !== 'primary') void this.#stepDown();
      this.step({ type: 'promised', epoch, place, problem: '' });
    } catch (error) {
      const place = { logEpoch: this.#facts.logEpoch, lsn: this.#facts.lsn };
      this.step({ type: 'promised', epoch, place, problem: (error as Error).message });
    }
  }

  async #stepDown(): Promise<void> {
    try {
      await this.#change(async () => this.#options.subject.stepDown?.());
    } catch (error) {
      this.emit('event', { level: 'warn', event: 'step-down-failed', message: (error as Error).message });
    }
  }

  async #hold(on: boolean): Promise<void> {
    const { subject } = this.#options;
    let problem = '';
    try {
      if (subject.hold) await subject.hold(on);
      else subject.engine.hold(on);
    } catch (error) {
      problem = (error as Error).message;
    }
    if (on) this.step({ type: 'held', problem });
  }

  async #promote(action: Action & { type: 'promote' }): Promise<void> {
    const { subject } = this.#options;
    try {
      await this.#change(async () => {
        subject.engine.setCommitRule(action.rule);
        await subject.promote(action.epoch, toNs(action.leaseUntilMs));
      });
      this.step({ type: 'promoted', epoch: action.epoch, problem: '' });
    } catch (error) {
      this.step({ type: 'promoted', epoch: action.epoch, problem: (error as Error).message });
    }
  }

  async #follow(upstream: { node: string; address: string }): Promise<void> {
    this.#facts.follow(upstream.node);
    try {
      await this.#change(() => this.#options.subject.follow(upstream));
    } catch (error) {
      this.emit('event', { level: 'warn', event: 'follow-failed', message: (error as Error).message });
    }
    this.step({ type: 'tick' });
  }

  #change<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#changing.then(work);
    this.#changing = done.catch(() => {});
    return done;
  }
}

/** Engine events that a controller may have to act on. */
const relevant: ReadonlySet<string> = new Set([
  'upstream-up',
  'upstream-down',
  'downstream-up',
  'downstream-down',
  'failed',
  'promoted',
  'demoted',
  'lease-expired',
]);

/** The clock of `process.hrtime`, which the data plane's lease is held against, in ms. */
function nowMs(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}

function toNs(ms: number): bigint {
  return BigInt(Math.max(1, Math.round(ms * 1e6)));
}

import type { CommitRule } from '../../src/engine/options.js';
import { Controller } from '../../src/failover/controller.js';
import type { ClusterView } from '../../src/failover/coordinator/coordinator.js';
import type { Action, ControllerSettings, Event, Facts } from '../../src/failover/protocol.js';
import { standbysNeeded, standbysOf } from '../../src/failover/quorum.js';
import type { Entry } from './checker.js';
import { Session } from './session.js';
import type { World } from './world.js';

/** What a standby has said of itself, or what was passed on of it. */
export interface Vouched {
  readonly node: string;
  /** The epoch that it vouches for its positions in; 0 while it does not. */
  readonly epoch: number;
  readonly received: number;
  readonly flushed: number;
}

const tickMs = 20;
const linkTimeoutMs = 1000;

/** One host: a disk, a data plane after the model of native/replication, and the real controller. */
export class SimNode {
  readonly id: string;
  readonly world: World;
  readonly settings: ControllerSettings;
  /** Where it began and how fast it runs. */
  readonly clock: { readonly offset: number; readonly rate: number };
  // ---- what survives a crash ----
  history: { epoch: number; first: number }[] = [];
  promisedEpoch = 0;
  protectedLsn = 0;
  /** So much of the log is durable. */
  flushed = 0;
  // ---- the process ----
  log: Entry[] = [];
  alive = false;
  /** Counts its lives: what was meant for an earlier one does not reach this one. */
  life = 0;
  pausedUntil = 0;
  /** The event loop alone stands still. */
  jsPausedUntil = 0;
  failed = false;
  diskMs = 2;
  controller: Controller | undefined;
  isPrimary = false;
  epoch = 0;
  heardEpoch = 0;
  committed = 0;
  rule: CommitRule = { level: 'async' };
  leaseUntil = 0;
  held = false;
  target: string | undefined;
  upstream: Session | undefined;
  readonly downstreams = new Set<Session>();
  readonly tree = new Map<string, Vouched & { via: Session }>();
  readonly facts: Facts = new SimFacts(this);
  #flushing = false;
  #retryAt = 0;
  #stopWatch = () => {};
  #cuts = 0;
  /** Some are busier than others: so that an old primary's tail may be longer than its successor's. */
  readonly #appendsPerTick: number;

  constructor(id: string, world: World, settings: ControllerSettings, clock: SimNode['clock']) {
    this.#appendsPerTick = world.random.pick([2, 3, 10]);
    this.id = id;
    this.world = world;
    this.settings = settings;
    this.clock = clock;
  }

  get hostNow(): number {
    return this.clock.offset + this.world.agenda.now * this.clock.rate;
  }

  get logEpoch(): number {
    return this.history.at(-1)?.epoch ?? 0;
  }

  // ---- life ----

  start(): void {
    this.alive = true;
    this.life += 1;
    this.failed = false;
    this.isPrimary = false;
    this.held = false;
    this.epoch = this.heardEpoch = this.logEpoch;
    this.committed = this.protectedLsn;
    this.target = undefined;
    this.#flushing = false;
    this.controller = new Controller(this.settings, this.hostNow);
    const { life, world } = this;
    this.#stopWatch = world.store.watch(() => world.tellView(this));
    world.tellView(this);
    for (const other of world.nodes.values()) {
      if (other === this || !other.alive || world.isCut(this.id, other.id)) continue;
      this.step({ type: 'peer', node: other.id, up: true });
      other.step({ type: 'peer', node: this.id, up: true });
    }
    this.#tick(life);
  }

  /** @param silently the host is gone: nobody is told that its connections are */
  crash(silently: boolean, keepUnflushed: number): void {
    if (!this.alive) return;
    this.alive = false;
    this.controller = undefined;
    this.#stopWatch();
    const kept = this.flushed + Math.floor((this.log.length - this.flushed) * keepUnflushed);
    this.log.length = kept;
    this.flushed = kept;
    if (this.world.mutations.has('promise-in-memory')) this.promisedEpoch = this.logEpoch;
    while (this.history.length > 0 && (this.history.at(-1) as { first: number }).first > kept)
      this.history.pop();
    for (const session of [...this.downstreams, ...(this.upstream ? [this.upstream] : [])]) {
      session.abandonedBy(this, silently);
    }
    this.upstream = undefined;
    this.downstreams.clear();
    this.tree.clear();
    if (silently) return;
    for (const other of this.world.nodes.values()) {
      if (other.alive && !this.world.isCut(this.id, other.id))
        other.step({ type: 'peer', node: this.id, up: false, refused: true });
    }
  }

  // ---- the controller ----

  step(event: Event): void {
    const { world, life } = this;
    const until = Math.max(this.pausedUntil, this.jsPausedUntil);
    if (until > world.agenda.now) {
      if (event.type === 'tick') return;
      world.agenda.at(until, () => life === this.life && this.step(event));
      return;
    }
    if (!this.controller) return;
    for (const action of this.controller.step(event, this.facts, this.hostNow)) this.#carryOut(action);
  }

  #carryOut(action: Action): void {
    const { world, life } = this;
    const later = (ms: number, run: () => void) =>
      world.agenda.in(ms, () => {
        if (life === this.life && this.alive) run();
      });
    switch (action.type) {
      case 'send':
        return world.send(this, action.to, action.message);
      case 'read':
        return world.ask(
          this,
          () => world.store.view(),
          (view) => this.step({ type: 'read', view }),
        );
      case 'swap':
        return world.ask(
          this,
          () => world.store.swap(action.expected, action.next, world.mutations.has('no-compare')),
          (revision, answered) =>
            this.step({
              type: 'swapped',
              id: action.id,
              outcome: !answered ? 'unknown' : revision === undefined ? 'conflict' : { revision },
            }),
        );
      case 'promise': {
        const epoch = Number(action.epoch);
        const problem = this.#promise(epoch);
        return later(this.diskMs, () => this.#promised(epoch, problem));
      }
      case 'promote': {
        const problem = this.#promote(Number(action.epoch), action.rule, action.leaseUntilMs);
        return later(this.diskMs, () => this.step({ type: 'promoted', epoch: action.epoch, problem }));
      }
      case 'follow':
        this.follow(action.upstream.node);
        return;
      case 'lease':
        this.leaseUntil = action.untilMs;
        return;
      case 'rule':
        this.rule = action.rule;
        return;
      case 'hold':
        this.held = action.on;
        if (action.on) later(1, () => this.step({ type: 'held', problem: '' }));
        return;
      case 'answer':
        world.answered(action.id, action.ok, action.message);
        return;
      case 'tell':
        world.told(this, action);
        return;
    }
  }

  // ---- roles ----

  #promise(epoch: number): string {
    if (epoch < this.promisedEpoch || this.failed)
      return this.failed ? 'its storage has failed' : 'has promised a newer epoch';
    if (this.isPrimary && epoch > this.epoch) this.demote();
    if (this.upstream && this.upstream.epoch < epoch && !this.world.mutations.has('skip-promise'))
      this.upstream.end();
    return '';
  }

  #promised(epoch: number, failed: string): void {
    const { world } = this;
    let problem = failed;
    if (problem === '' && epoch < this.promisedEpoch) problem = 'has promised a newer epoch';
    if (problem === '') {
      world.checker.promised(this.id, this.promisedEpoch, epoch);
      if (!world.mutations.has('skip-promise')) this.promisedEpoch = epoch;
    }
    const { logEpoch, lsn } = this.facts;
    const place = { logEpoch, lsn };
    this.step({ type: 'promised', epoch: BigInt(epoch), place, problem });
  }

  #promote(epoch: number, rule: CommitRule, leaseUntil: number): string {
    if (this.failed) return 'its storage has failed';
    if (this.isPrimary) return 'is primary already';
    if (epoch < this.promisedEpoch || epoch < this.heardEpoch || epoch <= this.logEpoch)
      return `knows epoch ${this.heardEpoch}`;
    this.upstream?.end();
    this.target = undefined;
    this.history.push({ epoch, first: this.log.length });
    this.promisedEpoch = this.epoch = this.heardEpoch = epoch;
    this.isPrimary = true;
    this.held = false;
    this.rule = rule;
    this.leaseUntil = leaseUntil;
    this.world.checker.promoted(this.id, epoch, this.log);
    return '';
  }

  demote(): void {
    this.isPrimary = false;
    this.held = false;
  }

  follow(target: string | undefined): void {
    this.upstream?.end();
    if (this.isPrimary) this.demote();
    this.target = target;
    this.#retryAt = 0;
    this.#connect();
  }

  // ---- the data plane ----

  #tick(life: number): void {
    const { world } = this;
    if (life !== this.life || !this.alive) return;
    const until = this.pausedUntil;
    if (until > world.agenda.now) return world.agenda.at(until, () => this.#tick(life));
    if (this.isPrimary && !this.held && !this.failed && world.appending) {
      const count = world.random.below(this.#appendsPerTick);
      for (let i = 0; i < count; i++) this.log.push({ id: world.nextAppend++, epoch: this.epoch });
    }
    this.flush();
    if (this.upstream && world.agenda.now - this.upstream.heardDown > linkTimeoutMs) this.upstream.end();
    for (const session of [...this.downstreams]) {
      if (world.agenda.now - session.heardUp > linkTimeoutMs) session.end();
      else session.heartbeat();
    }
    if (!this.upstream) this.#connect();
    else this.upstream.acknowledge();
    this.evaluate();
    this.step({ type: 'tick' });
    world.agenda.in(tickMs, () => this.#tick(life));
  }

  #connect(): void {
    const { world, target } = this;
    if (target === undefined || this.failed || world.agenda.now < this.#retryAt) return;
    this.#retryAt = world.agenda.now + 50;
    const up = world.nodes.get(target);
    if (up) Session.connect(world, this, up);
  }

  flush(): void {
    const { world, life } = this;
    if (this.#flushing || this.flushed >= this.log.length || this.failed) return;
    this.#flushing = true;
    const goal = this.log.length;
    const cuts = this.#cuts;
    world.agenda.in(this.diskMs, () => {
      if (life !== this.life || !this.alive) return;
      this.#flushing = false;
      if (cuts === this.#cuts && !this.failed) this.flushed = Math.max(this.flushed, goal);
      this.upstream?.acknowledge();
      this.evaluate();
      this.flush();
    });
  }

  /** New bytes: on to the disk and to those below. */
  grown(): void {
    this.flush();
    for (const session of this.downstreams) session.ship();
    this.upstream?.acknowledge();
  }

  cut(to: number): void {
    for (const session of [...this.downstreams]) session.end();
    this.log.length = to;
    this.flushed = Math.min(this.flushed, to);
    this.committed = Math.min(this.committed, to);
    this.#cuts += 1;
    while (this.history.length > 0 && (this.history.at(-1) as { first: number }).first > to)
      this.history.pop();
  }

  evaluate(): void {
    const { world } = this;
    if (!this.isPrimary || this.pausedUntil > world.agenda.now) return;
    if (this.leaseNow() >= this.leaseUntil && !world.mutations.has('no-lease')) return;
    const committed = this.#committedBy(this.rule);
    if (committed <= this.committed) return;
    this.committed = committed;
    if (this.rule.level !== 'async') this.protectedLsn = committed;
    world.checker.committed(this.id, this.epoch, this.log, committed);
  }

  /** The clock that the lease is held against. */
  leaseNow(): number {
    return this.hostNow - (this.world.mutations.has('wall-clock') ? this.world.wallJump(this.id) : 0);
  }

  #committedBy(rule: CommitRule): number {
    if (rule.level === 'async') return this.flushed;
    const own = rule.level === 'received' || rule.ownDisk === false ? this.log.length : this.flushed;
    const anybody = this.world.mutations.has('count-before-recorded');
    const names = standbysOf(rule);
    const positions: number[] = [];
    for (const standby of this.tree.values()) {
      if (standby.epoch !== this.epoch) continue;
      if (!anybody && !names.includes(standby.node)) continue;
      positions.push(rule.level === 'received' ? standby.received : standby.flushed);
    }
    positions.sort((a, b) => b - a);
    return Math.min(own, positions[standbysNeeded(rule) - 1] ?? 0);
  }

  /** @param view undefined: the coordinator cannot be reached */
  seeView(view: ClusterView | undefined): void {
    this.step({ type: 'view', view });
  }
}

/** As the real one, looked up at the moment it is asked. */
class SimFacts implements Facts {
  readonly #node: SimNode;

  constructor(node: SimNode) {
    this.#node = node;
  }

  get logEpoch(): bigint {
    const { world, controller, logEpoch } = this.#node;
    const newest = controller?.state.view?.primary?.epoch;
    return world.mutations.has('compare-length-only') && newest !== undefined ? newest : BigInt(logEpoch);
  }

  get lsn(): bigint {
    return BigInt(this.#node.log.length);
  }

  get promisedEpoch(): bigint {
    return BigInt(this.#node.promisedEpoch);
  }

  get committed(): bigint {
    return BigInt(this.#node.committed);
  }

  get primary(): boolean {
    return this.#node.isPrimary;
  }

  get failed(): boolean {
    return this.#node.failed;
  }

  get upstream(): Facts['upstream'] {
    const { upstream, target, world, clock } = this.#node;
    if (target === undefined) return undefined;
    const heardMsAgo = upstream ? (world.agenda.now - upstream.heardDown) * clock.rate : 0;
    return { node: target, up: upstream?.streaming === true, heardMsAgo };
  }

  get standbys(): Facts['standbys'] {
    const { tree, epoch: mine, isPrimary } = this.#node;
    const there = [];
    if (!isPrimary) return [];
    for (const { node, epoch, received, flushed } of tree.values()) {
      if (epoch !== mine) continue;
      there.push({ node, received: BigInt(received), flushed: BigInt(flushed), applied: BigInt(flushed) });
    }
    return there;
  }

  get rails(): readonly string[] {
    return rails;
  }
}

const rails = ['tcp'];

import type { Entry } from './checker.js';
import type { SimNode, Vouched } from './node.js';
import type { World } from './world.js';

/**
 * A link between two nodes: hand-shake, shipping, acknowledgements, as native/replication does it. Each direction is
 * ordered; one that has lost something delivers nothing more.
 */
export class Session {
  readonly world: World;
  readonly down: SimNode;
  readonly up: SimNode;
  streaming = false;
  ended = false;
  /** The newest epoch that the upstream has said it is in. */
  epoch = 0;
  heardDown: number;
  heardUp: number;
  #cursor = 0;
  #said = '';
  #saidAt = 0;
  #accepted = false;
  readonly #last = { up: 0, down: 0 };
  readonly #broken = { up: false, down: false };
  readonly #lives: { readonly up: number; readonly down: number };

  static connect(world: World, down: SimNode, up: SimNode): void {
    if (world.isCut(down.id, up.id) || world.isCut(up.id, down.id) || !up.alive) return;
    const session = new Session(world, down, up);
    down.upstream = session;
    session.#offer();
  }

  private constructor(world: World, down: SimNode, up: SimNode) {
    this.world = world;
    this.down = down;
    this.up = up;
    this.heardDown = this.heardUp = world.agenda.now;
    this.#lives = { up: up.life, down: down.life };
  }

  /** Both ends learn of it, each when it can. */
  end(): void {
    if (this.ended) return;
    this.ended = true;
    this.streaming = false;
    if (this.down.upstream === this) {
      this.down.upstream = undefined;
      this.down.step({ type: 'tick' });
    }
    if (this.up.downstreams.delete(this)) this.#forget();
  }

  abandonedBy(node: SimNode, silently: boolean): void {
    if (!silently) return this.end();
    if (node === this.up) this.#broken.down = true;
    else this.#broken.up = true;
  }

  #forget(): void {
    for (const [name, entry] of this.up.tree) if (entry.via === this) this.up.tree.delete(name);
  }

  #send(to: 'up' | 'down', run: () => void): void {
    const { world } = this;
    if (this.ended) return;
    const [from, goal] = to === 'up' ? [this.down, this.up] : [this.up, this.down];
    if (world.isCut(from.id, goal.id)) this.#broken[to] = true;
    if (this.#broken[to]) return;
    this.#last[to] = Math.max(this.#last[to], world.agenda.now + world.linkDelay());
    const deliver = () => {
      if (this.ended || !goal.alive || goal.life !== this.#lives[to]) return;
      if (goal.pausedUntil > world.agenda.now) return world.agenda.at(goal.pausedUntil, deliver);
      if (to === 'up') this.heardUp = world.agenda.now;
      else this.heardDown = world.agenda.now;
      run();
    };
    world.agenda.at(this.#last[to], deliver);
  }

  // ---- the hand-shake ----

  #offer(): void {
    const { down } = this;
    const log = down.log.slice();
    const { promisedEpoch } = down;
    this.#send('up', () => this.#answer(log, promisedEpoch));
  }

  #answer(log: readonly Entry[], promised: number): void {
    const { up } = this;
    const epoch = up.isPrimary ? up.epoch : up.heardEpoch;
    if (promised > epoch || up.failed) return this.end();
    for (const other of [...up.downstreams]) if (other !== this && other.down === this.down) other.end();
    let common = Math.min(log.length, up.log.length);
    while (common > 0 && log[common - 1] !== up.log[common - 1]) common -= 1;
    const history = up.history.slice();
    if (common < log.length) {
      if (!up.isPrimary && common === up.log.length) return this.end();
      return this.#send('down', () => this.#cut(common, epoch));
    }
    up.downstreams.add(this);
    this.#cursor = common;
    this.#accepted = true;
    this.#send('down', () => this.#take(common, epoch, history));
    this.ship();
  }

  #cut(to: number, epoch: number): void {
    const { down } = this;
    if (!this.#knows(epoch)) return;
    if (to < down.protectedLsn) {
      this.world.refusedCut(down, to);
      return this.end();
    }
    this.#join(epoch);
    down.cut(to);
    this.#offer();
  }

  /** Joining an epoch promises it: no older primary is followed ever after. */
  #join(epoch: number): void {
    const { down } = this;
    if (epoch <= down.promisedEpoch) return;
    this.world.checker.promised(down.id, down.promisedEpoch, epoch);
    down.promisedEpoch = epoch;
  }

  #take(start: number, epoch: number, history: readonly { epoch: number; first: number }[]): void {
    const { down } = this;
    if (!this.#knows(epoch)) return;
    if (start !== down.log.length) return this.end();
    down.history = history.filter(({ first }) => first <= start);
    this.#join(epoch);
    down.heardEpoch = Math.max(down.heardEpoch, epoch);
    this.streaming = true;
    this.acknowledge();
    down.step({ type: 'tick' });
  }

  /** A promise, a newer epoch heard in this session, or one that the log here agrees with, keeps what is older out. */
  #knows(epoch: number): boolean {
    if (epoch < this.down.promisedEpoch || epoch < this.epoch || epoch < this.down.logEpoch) {
      this.end();
      return false;
    }
    this.epoch = epoch;
    return true;
  }

  // ---- downwards ----

  ship(): void {
    const { up } = this;
    if (!this.#accepted || this.#cursor >= up.log.length) return;
    const from = this.#cursor;
    const entries = up.log.slice(from, from + 50);
    this.#cursor += entries.length;
    const starts = up.history;
    this.#send('down', () => this.#landed(from, entries, starts));
  }

  heartbeat(): void {
    const { up } = this;
    if (!this.#accepted) return;
    const epoch = up.isPrimary ? up.epoch : up.heardEpoch;
    const start = up.history.at(-1);
    const { committed, protectedLsn } = up;
    this.#send('down', () => {
      const { down } = this;
      if (!this.streaming || !this.#knows(epoch)) return;
      this.#join(epoch);
      down.heardEpoch = Math.max(down.heardEpoch, epoch);
      if (start && start.epoch <= epoch) this.#note(start.epoch, start.first);
      down.committed = Math.max(down.committed, Math.min(committed, down.log.length));
      down.protectedLsn = Math.max(down.protectedLsn, Math.min(protectedLsn, down.log.length));
    });
    this.ship();
  }

  #landed(
    from: number,
    entries: readonly Entry[],
    starts: readonly { epoch: number; first: number }[],
  ): void {
    const { down } = this;
    if (!this.streaming) return;
    if (from !== down.log.length) return this.end();
    if (this.epoch < down.promisedEpoch) return this.end();
    for (const entry of entries) {
      if (entry.epoch > this.epoch) return this.end();
      down.log.push(entry);
    }
    for (const { epoch, first } of starts) this.#note(epoch, first);
    if (this.world.mutations.has('flushed-before-sync')) down.diskMs = Math.max(down.diskMs, 30);
    down.grown();
  }

  /** Where an epoch began is known durably as soon as the log reaches there, before anything is acknowledged in it. */
  #note(epoch: number, first: number): void {
    const { down } = this;
    if (epoch <= down.logEpoch || down.log.length < first || epoch > this.epoch) return;
    down.history.push({ epoch, first });
  }

  // ---- upwards ----

  acknowledge(): void {
    const { down, world } = this;
    if (!this.streaming) return;
    // What is the same as before is said once a heartbeat.
    const key = `${down.log.length} ${down.flushed} ${down.logEpoch} ${this.epoch}`;
    if (key === this.#said && down.tree.size === 0 && world.agenda.now - this.#saidAt < 20) return;
    this.#said = key;
    this.#saidAt = world.agenda.now;
    const early = world.mutations.has('flushed-before-sync');
    const noted = down.logEpoch === this.epoch;
    const own: Vouched = {
      node: down.id,
      epoch: noted ? this.epoch : 0,
      received: down.log.length,
      flushed: early ? down.log.length : down.flushed,
    };
    const below = [...down.tree.values()].map(({ node, epoch, received, flushed }) => ({
      node,
      epoch,
      received,
      flushed,
    }));
    this.#send('up', () => {
      const { up } = this;
      if (!up.downstreams.has(this)) return;
      this.#forget();
      for (const entry of [own, ...below]) {
        if (entry.node !== up.id) up.tree.set(entry.node, { ...entry, via: this });
      }
      up.evaluate();
      if (below.length > 0 || up.upstream) up.upstream?.acknowledge();
    });
  }
}

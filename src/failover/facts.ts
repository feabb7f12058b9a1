import type { Engine, EngineEvent } from '../engine/engine.js';
import type { StandbyStatus } from '../engine/native.js';
import type { Facts } from './protocol.js';

/** The data plane renews its status every half heartbeat; to ask more often is of no use. */
const freshMs = 5;

/** What an engine is like at the moment it is asked. */
export class EngineFacts implements Facts {
  readonly #engine: Engine;
  #target: string | undefined;
  #up = false;
  #failed = false;
  #standbys: readonly StandbyStatus[] = [];
  #standbysAt = Number.NEGATIVE_INFINITY;

  constructor(engine: Engine) {
    this.#engine = engine;
  }

  take(event: EngineEvent): void {
    if (event.type === 'upstream-up') this.#up = event.node === this.#target;
    if (event.type === 'upstream-down' || event.type === 'promoted') this.#up = false;
    if (event.type === 'failed') this.#failed = true;
  }

  /** The engine is being told to follow this node. */
  follow(node: string | undefined): void {
    if (node === this.#target) return;
    this.#target = node;
    this.#up = false;
  }

  get logEpoch(): bigint {
    return this.#engine.logEpoch;
  }

  /** Of a primary: behind everything appended, sealed or not. */
  get lsn(): bigint {
    return this.#engine.role === 'primary' ? this.#engine.endLsn : this.#engine.positions.received;
  }

  get promisedEpoch(): bigint {
    return this.#engine.promisedEpoch;
  }

  get committed(): bigint {
    return this.#engine.positions.committed;
  }

  get primary(): boolean {
    return this.#engine.role === 'primary';
  }

  get failed(): boolean {
    return this.#failed;
  }

  get upstream(): Facts['upstream'] {
    const node = this.#target;
    if (node === undefined || this.primary) return undefined;
    return { node, up: this.#up, heardMsAgo: this.#engine.upstreamHeardMsAgo };
  }

  get standbys(): Facts['standbys'] {
    if (!this.primary) return [];
    const now = performance.now();
    if (now - this.#standbysAt > freshMs) {
      this.#standbysAt = now;
      this.#standbys = this.#engine.core.status().nodes;
    }
    const { epoch } = this.#engine;
    return this.#standbys.filter((node) => node.epoch === epoch);
  }

  get rails(): readonly string[] {
    return this.#engine.verbsProblem === '' ? ['tcp', 'verbs'] : ['tcp'];
  }
}

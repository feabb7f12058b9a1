import type { CommitRule } from '../../src/engine/options.js';
import type { ClusterView } from '../../src/failover/coordinator/coordinator.js';
import type { Action, Command, ControllerSettings, Message } from '../../src/failover/protocol.js';
import { defaultControllerSettings } from '../../src/failover/settings.js';
import { Checker, Violation } from './checker.js';
import { Agenda } from './clock.js';
import { SimNode } from './node.js';
import { Random } from './random.js';
import { Store } from './store.js';

/** Ways in which the protocol is broken on purpose, to see that the checker notices. */
export type Mutation =
  | 'skip-promise'
  | 'wall-clock'
  | 'flushed-before-sync'
  | 'compare-length-only'
  | 'no-compare'
  | 'count-before-recorded'
  | 'promise-in-memory'
  | 'no-lease'
  | 'too-few-promises';

export interface WorldOptions {
  readonly seed: number;
  readonly nodes: number;
  readonly rule: CommitRule;
  readonly fanOut?: number;
  readonly settings?: Partial<ControllerSettings>;
  readonly mutations?: ReadonlySet<Mutation>;
  /** Every action that is told of, for a look at one run. */
  readonly trace?: (line: string) => void;
}

/** Nodes, the network between them, and the coordinator, in simulated time. */
export class World {
  readonly agenda = new Agenda();
  readonly random: Random;
  readonly store = new Store();
  readonly checker: Checker;
  readonly nodes = new Map<string, SimNode>();
  readonly mutations: ReadonlySet<Mutation>;
  nextAppend = 1;
  /** Whether the primary has something to append. */
  appending = true;
  /** Of controllers' messages. */
  loss = 0;
  doubling = 0;
  delayMs = 0.5;
  /** What a request to the coordinator takes beyond the network's delay. */
  storeMs = 0;
  readonly elections: string[] = [];
  readonly answers = new Map<string, { ok: boolean; message: string }>();
  /** `from>to` that nothing passes. */
  readonly #cuts = new Set<string>();
  readonly #noCoordinator = new Set<string>();
  readonly #wallJumps = new Map<string, number>();
  readonly #trace: ((line: string) => void) | undefined;

  constructor(options: WorldOptions) {
    this.random = new Random(options.seed);
    this.checker = new Checker(options.rule.level !== 'async');
    this.mutations = options.mutations ?? new Set();
    this.#trace = options.trace;
    const names = 'abcdefgh'.slice(0, options.nodes).split('');
    for (const node of names) {
      this.store.members.push({
        node,
        log: `${node}:1`,
        control: `${node}:2`,
        priority: 0,
        nofailover: false,
      });
      const settings: ControllerSettings = {
        ...defaultControllerSettings,
        ...options.settings,
        node,
        rule: options.rule,
        bootstrap: node === 'a',
        fanOut: options.fanOut ?? defaultControllerSettings.fanOut,
      };
      const clock = { offset: this.random.between(1000, 9000), rate: this.random.between(0.995, 1.005) };
      this.nodes.set(node, new SimNode(node, this, settings, clock));
    }
    for (const node of this.nodes.values()) node.start();
  }

  node(id: string): SimNode {
    return this.nodes.get(id) as SimNode;
  }

  run(ms: number): void {
    this.agenda.runUntil(this.agenda.now + ms);
  }

  // ---- the network ----

  isCut(from: string, to: string): boolean {
    return this.#cuts.has(`${from}>${to}`);
  }

  cut(from: string, to: string): void {
    this.#cuts.add(`${from}>${to}`);
  }

  heal(): void {
    this.#cuts.clear();
    this.#noCoordinator.clear();
    this.store.down = false;
    for (const node of this.nodes.values()) {
      if (!node.alive) continue;
      this.tellView(node);
      // Connections are tried again and again until there is one.
      for (const other of this.nodes.values()) {
        if (other !== node && other.alive) node.step({ type: 'peer', node: other.id, up: true });
      }
    }
  }

  linkDelay(): number {
    return this.delayMs * this.random.between(0.2, 1.5);
  }

  send(from: SimNode, to: string, message: Message): void {
    const { random, agenda } = this;
    const goal = this.nodes.get(to);
    if (!goal?.alive || this.isCut(from.id, to) || random.chance(this.loss)) return;
    const { life } = goal;
    const times = random.chance(this.doubling) ? 2 : 1;
    for (let i = 0; i < times; i++) {
      agenda.in(this.linkDelay() + (i > 0 ? random.between(0, 100) : 0), () => {
        if (goal.life === life && goal.alive) goal.step({ type: 'message', from: from.id, message });
      });
    }
  }

  // ---- the coordinator ----

  isolateFromCoordinator(node: string): void {
    this.#noCoordinator.add(node);
    this.tellView(this.node(node));
  }

  stopCoordinator(): void {
    this.store.down = true;
    for (const node of this.nodes.values()) if (node.alive) this.tellView(node);
  }

  #reaches(node: SimNode): boolean {
    return !this.store.down && !this.#noCoordinator.has(node.id);
  }

  tellView(node: SimNode): void {
    const { life } = node;
    const reaches = this.#reaches(node);
    const view = reaches ? this.#viewFor() : undefined;
    this.agenda.in(reaches ? this.linkDelay() + 1 : 50, () => {
      if (node.alive && node.life === life) node.seeView(view);
    });
  }

  #viewFor(): ClusterView {
    const view = this.store.view();
    const rule = view.primary?.rule;
    if (!this.mutations.has('too-few-promises') || !view.primary || !rule || !('any' in rule)) return view;
    // As if one more had to acknowledge: then one promise less is needed.
    return { ...view, primary: { ...view.primary, rule: { ...rule, any: rule.any + 1 } } };
  }

  /** A request to the coordinator: it may get there and its answer not come back. */
  ask<T>(node: SimNode, act: () => T, answer: (outcome: T | undefined, answered: boolean) => void): void {
    const { agenda, random } = this;
    const { life } = node;
    const failed = () => {
      if (node.alive && node.life === life) answer(undefined, false);
    };
    if (!this.#reaches(node)) return agenda.in(100, failed);
    agenda.in(this.linkDelay() + this.storeMs + random.between(0.5, 2), () => {
      if (this.store.down) return agenda.in(100, failed);
      let outcome: T = act();
      if (this.mutations.has('too-few-promises') && outcome && typeof outcome === 'object')
        outcome = this.#viewFor() as T;
      if (!this.#reaches(node)) return agenda.in(100, failed);
      agenda.in(this.linkDelay(), () => {
        if (node.alive && node.life === life) answer(outcome, true);
      });
    });
  }

  // ---- people ----

  command(node: string, command: Command): string {
    const id = `command-${this.answers.size}-${this.agenda.now}`;
    this.node(node).step({ type: 'command', id, command });
    return id;
  }

  answered(id: string, ok: boolean, message: string): void {
    this.answers.set(id, { ok, message });
    this.#trace?.(`${this.agenda.now.toFixed(1)} answer ${ok ? 'ok' : 'no'}: ${message}`);
  }

  told(node: SimNode, told: Action & { type: 'tell' }): void {
    if (told.event === 'election') this.elections.push(node.id);
    this.#trace?.(`${this.agenda.now.toFixed(1)} ${node.id} ${told.event}: ${told.message}`);
  }

  refusedCut(node: SimNode, lsn: number): void {
    throw new Violation(
      `${node.id} is asked to cut its log at LSN ${lsn}, below what was committed at ${node.protectedLsn}`,
    );
  }

  wallJump(node: string): number {
    return this.#wallJumps.get(node) ?? 0;
  }

  jumpWallClock(node: string, ms: number): void {
    this.#wallJumps.set(node, ms);
  }

  // ---- how it is ----

  get primary(): SimNode | undefined {
    return [...this.nodes.values()].find(
      (node) => node.alive && node.isPrimary && node.controller?.state.reign,
    );
  }

  /** Why the cluster is not as it should be when nothing disturbs it. */
  unwell(): string | undefined {
    const primaries = [...this.nodes.values()].filter(({ isPrimary }) => isPrimary);
    const [primary] = primaries;
    if (!primary || primaries.length > 1) return `${primaries.length} primaries`;
    const end = primary.log.length;
    for (const node of this.nodes.values()) {
      if (node === primary) continue;
      if (!node.upstream?.streaming)
        return `${node.id} is not connected (waits: ${node.controller?.state.waiting})`;
      const lag = end - node.log.length;
      if (lag > 60) return `${node.id} lacks ${lag} appends`;
      for (let at = 0; at < node.log.length; at++) {
        if (node.log[at] !== primary.log[at]) return `${node.id} and ${primary.id} differ at LSN ${at}`;
      }
    }
    if (end - primary.committed > 60) return `${primary.id} commits nothing`;
    return undefined;
  }
}

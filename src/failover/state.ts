import type { ClusterView, Member, PrimaryRecord } from './coordinator/coordinator.js';
import type { Election } from './election.js';
import type { Action, ControllerSettings, Facts, Message, StateMessage, TellFacts } from './protocol.js';
import type { Reign } from './reign.js';

/** Another node's controller. */
export interface Peer {
  up: boolean;
  /** As people were told. Of a way that is open in one direction alone every message says that the peer is up. */
  toldUp: boolean;
  /** There is no process at the other end. */
  refused: boolean;
  /** Since when it is up or not. */
  since: number;
  heardAt: number;
  state?: StateMessage;
}

/** Everything a controller remembers. Times are those of the steps, in ms. */
export interface State {
  view: ClusterView | undefined;
  /** When this revision of the record was first seen: its lease was begun before that. */
  revisionSince: number;
  coordinatorUp: boolean;
  readonly peers: Map<string, Peer>;
  /** The newest primary that has said itself that it is one. */
  announced: { node: string; epoch: bigint; plan?: ReadonlyMap<string, string> } | undefined;
  reign: Reign | undefined;
  election: Election | undefined;
  /** As in {@link Promised}. */
  whole: boolean;
  /** Since when the primary is taken for dead. */
  lostSince: number | undefined;
  /** Not to stand before. */
  standAfter: number;
  stoodAt: number;
  attempts: number;
  /** Since when it has promised an epoch that nobody reigns in yet. */
  promisedSince: number | undefined;
  /** Told the primary that its lease is good until then, coordinator or not. */
  grantedUntil: number;
  /** Who asked for a promise that the data plane is still making. */
  readonly asked: Map<bigint, Set<string>>;
  /** Whom the data plane was told to follow. */
  upstream: string | undefined;
  /** Where it was said to be when it was last followed. */
  upstreamAt: string;
  upstreamSince: number;
  upstreamLostSince: number | undefined;
  /** The primary's log ended here when it was last heard of. */
  primaryTail: bigint;
  swap:
    | {
        id: number;
        purpose: 'elect' | 'renew' | 'rule';
        next: PrimaryRecord;
        expected: bigint;
        sentAt: number;
      }
    | undefined;
  reading: boolean;
  nextId: number;
  saidAt: number;
  said: string;
  /** Why there is no primary, or why this node is not what it should be; empty if all is well. */
  waiting: string;
  /** The switchover that this node has handed the reign over in. */
  handedOver:
    | {
        readonly id: string;
        readonly to: string;
        readonly given: Message & { readonly type: 'handover' };
        readonly since: number;
        sentAt: number;
      }
    | undefined;
}

export function newState(now: number): State {
  return {
    view: undefined,
    revisionSince: now,
    coordinatorUp: true,
    peers: new Map(),
    announced: undefined,
    reign: undefined,
    election: undefined,
    whole: false,
    lostSince: undefined,
    standAfter: now,
    stoodAt: Number.NEGATIVE_INFINITY,
    attempts: 0,
    promisedSince: undefined,
    grantedUntil: Number.NEGATIVE_INFINITY,
    asked: new Map(),
    upstream: undefined,
    upstreamAt: '',
    upstreamSince: now,
    upstreamLostSince: undefined,
    primaryTail: 0n,
    swap: undefined,
    reading: false,
    nextId: 1,
    saidAt: Number.NEGATIVE_INFINITY,
    said: '',
    waiting: '',
    handedOver: undefined,
  };
}

/** One step: what it may look at, and what it wants done. */
export interface Turn {
  readonly state: State;
  readonly settings: ControllerSettings;
  readonly facts: Facts;
  readonly now: number;
  readonly actions: Action[];
}

export function send(turn: Turn, to: string, message: Message): void {
  turn.actions.push({ type: 'send', to, message });
}

export function broadcast(turn: Turn, message: Message): void {
  for (const [node, peer] of turn.state.peers) if (peer.up) send(turn, node, message);
}

export function tell(
  turn: Turn,
  level: 'info' | 'warn',
  event: string,
  message: string,
  facts?: TellFacts,
): void {
  turn.actions.push({ type: 'tell', level, event, message, facts });
}

/** Says why it waits, once. */
export function waitBecause(turn: Turn, why: string): void {
  if (turn.state.waiting === why) return;
  turn.state.waiting = why;
  if (why !== '') tell(turn, 'warn', 'waiting', why);
}

export function read(turn: Turn): void {
  if (turn.state.reading) return;
  turn.state.reading = true;
  turn.actions.push({ type: 'read' });
}

/** One at a time: the outcome of the one before tells which revision to expect. */
export function swap(
  turn: Turn,
  purpose: 'elect' | 'renew' | 'rule',
  expected: bigint,
  next: PrimaryRecord,
): void {
  const { state } = turn;
  const id = state.nextId++;
  state.swap = { id, purpose, next, expected, sentAt: turn.now };
  turn.actions.push({ type: 'swap', id, expected, next });
}

export function memberOf(state: State, node: string): Member | undefined {
  return state.view?.members.find((member) => member.node === node);
}

/** Members that can be promoted, without `primary`. */
export function eligibleBut(view: ClusterView | undefined, primary: string): string[] {
  return (view?.members ?? [])
    .filter(({ node, nofailover }) => node !== primary && !nofailover)
    .map(({ node }) => node);
}

/** Who is, or was last, primary, as far as this node knows: by the coordinator's word or the primary's own. */
export function lastPrimary(state: State): { node: string; epoch: bigint } | undefined {
  const record = state.view?.primary;
  const { announced } = state;
  return record && (!announced || record.epoch > announced.epoch) ? record : announced;
}

/** When the lease of the primary in the record has surely run out, if nothing renews it. */
export function leaseEnd({ state, settings }: Turn): number {
  const leaseMs = state.view?.primary?.leaseMs ?? 0;
  return Math.max(state.revisionSince + leaseMs + settings.leaseMarginMs, state.grantedUntil);
}

import { type PlannedNode, planTree } from '../cluster/planner.js';
import type { CommitRule } from '../engine/options.js';
import type { PrimaryRecord } from './coordinator/coordinator.js';
import { keepRule } from './counting.js';
import { stand } from './election.js';
import { standbysNeeded, standbysOf } from './quorum.js';
import { broadcast, eligibleBut, memberOf, read, swap, type Turn, tell, waitBecause } from './state.js';
import { handOver } from './switchover.js';

/** What a primary does while it is one: keep its lease, say who counts for commits, give the standbys their places. */
export interface Reign {
  /** As the coordinator holds it. */
  record: PrimaryRecord;
  /** Where its log ended when it began. */
  firstLsn: bigint;
  leaseUntil: number;
  /** When the newest swap that succeeded was sent. */
  renewedAt: number;
  triedAt: number;
  /** The coordinator does not answer: the lease is good for as long as the standbys say so. */
  failsafe: { round: number; askedAt: number; readonly granted: Set<string>; told: boolean } | undefined;
  /** What the data plane commits by: the record's rule, or one with fewer nodes. */
  rule: CommitRule;
  /** The rule has just lost nodes: up to this LSN commits may have relied on them. */
  narrowedAt: bigint | undefined;
  /** When a node that counts was last seen to hold the log. */
  readonly seen: Map<string, number>;
  plan: Map<string, string>;
  /** Grows with every change of the plan. */
  planned: number;
  planDueAt: number;
  /** Standbys that cannot connect to the upstream they were given: since when. Key: child, space, upstream. */
  readonly unreachable: Map<string, number>;
  /** Of these, the pairs that are not tried again before the time given. */
  readonly avoided: Map<string, number>;
  handover:
    | { readonly id: string; readonly to: string; readonly since: number; held: boolean; promised: boolean }
    | undefined;
  /** Since when a standby has had a promise that keeps it from following. */
  estrangedSince: number | undefined;
}

const planMs = 15;
const avoidMs = 5000;
const unreachableMs = 500;

export function beginReign(turn: Turn, record: PrimaryRecord, sentAt: number): void {
  const { state, settings, now } = turn;
  state.reign = {
    record,
    firstLsn: turn.facts.lsn,
    leaseUntil: sentAt + record.leaseMs - settings.leaseMarginMs,
    renewedAt: sentAt,
    triedAt: sentAt,
    failsafe: undefined,
    rule: record.rule,
    narrowedAt: undefined,
    seen: new Map(standbysOf(record.rule).map((node) => [node, now])),
    plan: new Map(),
    planned: 0,
    planDueAt: now,
    unreachable: new Map(),
    avoided: new Map(),
    handover: undefined,
    estrangedSince: undefined,
  };
  state.whole = true;
  state.announced = { node: settings.node, epoch: record.epoch };
  state.lostSince = undefined;
  state.promisedSince = undefined;
  state.upstream = undefined;
  state.attempts = 0;
  waitBecause(turn, '');
  tell(turn, 'info', 'primary', `node '${settings.node}' is the primary in epoch ${record.epoch}`);
}

/** The reign is over; the data plane has been, or is being, told. */
export function endReign(turn: Turn, why: string): void {
  const { state, settings } = turn;
  const { reign } = state;
  if (!reign) return;
  state.reign = undefined;
  if (reign.handover && !reign.handover.promised) {
    turn.actions.push({ type: 'hold', on: false });
    turn.actions.push({ type: 'answer', id: reign.handover.id, ok: false, message: why });
  }
  const { epoch } = reign.record;
  tell(turn, 'warn', 'deposed', `node '${settings.node}' is no longer primary: ${why}`, {
    epoch: String(epoch),
  });
}

export function reignTick(turn: Turn): void {
  const { state, facts, settings } = turn;
  const reign = state.reign as Reign;
  if (facts.failed) return endReign(turn, 'its storage has failed');
  const record = state.view?.primary;
  const newer = [record, state.announced].find(
    (other) => other !== undefined && other.epoch > reign.record.epoch,
  );
  if (newer) {
    endReign(turn, `'${newer.node}' is, in epoch ${newer.epoch}`);
    // The data plane ends the reign with the promise.
    if (facts.promisedEpoch < newer.epoch) turn.actions.push({ type: 'promise', epoch: newer.epoch });
    return;
  }
  if (!facts.primary && !reign.handover?.promised) {
    return endReign(
      turn,
      facts.promisedEpoch > reign.record.epoch
        ? `it promised epoch ${facts.promisedEpoch}`
        : 'its data plane is not',
    );
  }
  keepLease(turn, reign);
  keepRule(turn, reign);
  keepPlan(turn, reign);
  reconcile(turn, reign);
  if (reign.handover) handOver(turn, reign, reign.handover);
  if (settings.rule.level !== 'async') reportMissing(turn, reign);
}

function reportMissing(turn: Turn, reign: Reign): void {
  const needed = standbysNeeded(reign.rule);
  const names = new Set(standbysOf(reign.rule));
  const there = turn.facts.standbys.filter(({ node }) => names.has(node)).length;
  const known = [...names].filter((node) => memberOf(turn.state, node));
  if (there >= needed) return waitBecause(turn, '');
  const missingSince = Math.max(...[...names].map((node) => reign.seen.get(node) ?? 0), 0);
  if (turn.now - missingSince < turn.settings.dropMs) return;
  waitBecause(
    turn,
    `commits wait: the rule needs ${needed} of the standbys ${known.length > 0 ? known.join(', ') : '(none has registered yet)'}, ${there} are here`,
  );
}

// ---- the lease ----

function keepLease(turn: Turn, reign: Reign): void {
  const { state, settings, now } = turn;
  const everyMs = settings.leaseMs / 4;
  const handingOver = reign.handover !== undefined && now - reign.renewedAt < settings.leaseMs / 2;
  if (!state.swap && !handingOver && now - reign.triedAt >= everyMs && state.view) {
    reign.triedAt = now;
    swap(turn, 'renew', state.view.revision, { ...reign.record, renewal: reign.record.renewal + 1 });
  }
  if (now - reign.renewedAt < settings.leaseMs / 2) {
    if (reign.failsafe?.told) tell(turn, 'info', 'failsafe-over', 'the coordinator answers again');
    reign.failsafe = undefined;
    return;
  }
  reign.failsafe ??= { round: 0, askedAt: Number.NEGATIVE_INFINITY, granted: new Set(), told: false };
  if (now - reign.failsafe.askedAt < everyMs) return;
  reign.failsafe.round += 1;
  reign.failsafe.askedAt = now;
  reign.failsafe.granted.clear();
  broadcast(turn, { type: 'lease', epoch: reign.record.epoch, round: reign.failsafe.round });
}

function setLease(turn: Turn, reign: Reign, sentAt: number): void {
  const until = sentAt + turn.settings.leaseMs - turn.settings.leaseMarginMs;
  if (until <= reign.leaseUntil) return;
  reign.leaseUntil = until;
  turn.actions.push({ type: 'lease', untilMs: until });
}

export function onSwapped(turn: Turn, outcome: { readonly revision: bigint } | 'conflict' | 'unknown'): void {
  const { state, now } = turn;
  const { swap: done, reign } = state;
  state.swap = undefined;
  if (!done || done.purpose === 'elect' || !reign) return;
  // Somebody else's swap, or one of ours that was thought lost: what the coordinator holds tells.
  if (outcome === 'conflict' || outcome === 'unknown') return read(turn);
  taken(turn, reign, done.next, done.sentAt);
  if (state.view) state.view = { ...state.view, primary: done.next, revision: outcome.revision };
  state.revisionSince = now;
}

/** The record holds what this primary wrote. */
function taken(turn: Turn, reign: Reign, record: PrimaryRecord, sentAt: number): void {
  reign.record = record;
  reign.renewedAt = Math.max(reign.renewedAt, sentAt);
  setLease(turn, reign, sentAt);
}

/** After a swap whose outcome was not known. */
export function onReignRead(turn: Turn): void {
  const { state } = turn;
  const { reign, view } = { reign: state.reign as Reign, view: state.view };
  const record = view?.primary;
  if (!record || record.node !== reign.record.node || record.epoch !== reign.record.epoch) return;
  // Whatever is there is ours; when it was sent is not known any more, so it renews nothing.
  reign.record = record;
}

export function onGranted(turn: Turn, from: string, epoch: bigint, round: number): void {
  const { state, settings } = turn;
  const { reign } = state;
  const failsafe = reign?.failsafe;
  if (!reign || !failsafe || epoch !== reign.record.epoch || round !== failsafe.round) return;
  failsafe.granted.add(from);
  const eligible = eligibleBut(state.view, settings.node);
  const names = standbysOf(reign.record.rule);
  // Whoever wants to take over needs one of these k, or, under `async`, any one that could: all of them said no.
  const enough =
    reign.record.rule.level === 'async'
      ? eligible.every((node) => failsafe.granted.has(node))
      : names.filter((node) => failsafe.granted.has(node)).length >= standbysNeeded(reign.record.rule);
  if (!enough) return;
  if (!failsafe.told) {
    failsafe.told = true;
    tell(
      turn,
      'warn',
      'failsafe',
      `the coordinator does not answer: '${settings.node}' goes on as primary, for its standbys ` +
        `${[...failsafe.granted].join(', ')} agree; nobody can be promoted until it answers`,
    );
  }
  setLease(turn, reign, failsafe.askedAt);
}

// ---- the tree ----

function keepPlan(turn: Turn, reign: Reign): void {
  const { state, settings, now } = turn;
  if (now < reign.planDueAt) return;
  reign.planDueAt = now + planMs;
  const standbys: PlannedNode[] = [];
  for (const [node, peer] of state.peers) {
    const said = peer.state;
    if (!peer.up || !said) continue;
    const upstream = said.upstream === undefined ? undefined : state.peers.get(said.upstream);
    const unreachable =
      said.upstream !== undefined &&
      !said.upstreamUp &&
      said.upstream === reign.plan.get(node) &&
      (upstream?.up === true || said.upstream === settings.node);
    const key = `${node} ${said.upstream}`;
    if (!unreachable) reign.unreachable.delete(key);
    else {
      const since = reign.unreachable.get(key) ?? now;
      reign.unreachable.set(key, since);
      if (now - since >= unreachableMs) reign.avoided.set(key, now + avoidMs);
    }
    const parent = reign.plan.get(node) ?? said.upstream;
    standbys.push({ node, parent, rails: said.rails });
  }
  for (const [key, until] of reign.avoided) if (now >= until) reign.avoided.delete(key);
  const next = planTree({
    primary: { node: settings.node, rails: turn.facts.rails },
    standbys,
    fanOut: settings.fanOut,
    avoids: (child, node) => reign.avoided.has(`${child} ${node}`),
  });
  if (
    next.size === reign.plan.size &&
    [...next].every(([node, upstream]) => reign.plan.get(node) === upstream)
  )
    return;
  reign.plan = next;
  reign.planned += 1;
}

/** A standby that has promised a newer epoch cannot follow this one any more: a new epoch is begun, by the same primary. */
function reconcile(turn: Turn, reign: Reign): void {
  const { state, settings, now } = turn;
  let estranged = false;
  for (const { up, state: said } of state.peers.values()) {
    estranged ||= up && said !== undefined && said.promised > reign.record.epoch && !said.promoting;
  }
  if (!estranged) reign.estrangedSince = undefined;
  else if (reign.estrangedSince === undefined) reign.estrangedSince = now;
  else if (
    now - reign.estrangedSince > 4 * settings.suspectMs &&
    !state.election &&
    !reign.handover &&
    now >= state.standAfter
  ) {
    tell(
      turn,
      'info',
      'new-epoch',
      'a standby has promised a newer epoch and cannot follow: this primary begins a new one',
    );
    stand(turn, { cause: 'new-epoch', forced: true });
  }
}

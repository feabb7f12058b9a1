import type { ClusterView, PrimaryRecord } from './coordinator/coordinator.js';
import type { Reply } from './protocol.js';
import {
  chooseStandbys,
  comparePlaces,
  type LogPlace,
  mayTakeOver,
  type Promised,
  promisesNeeded,
  registeredStandbysOf,
  reignOf,
  ruleOver,
} from './quorum.js';
import { beginReign } from './reign.js';
import {
  eligibleBut,
  leaseEnd,
  memberOf,
  read,
  type State,
  send,
  swap,
  type Turn,
  tell,
  waitBecause,
} from './state.js';
import { handoverMs } from './switchover.js';

/**
 * One attempt to become the primary: ask who would promise (`canvass`), have them promise (`promise`), under `async` wait
 * until the old primary's lease has run out (`lease`), take the coordinator's record (`swap`), begin (`promote`).
 */
export interface Election {
  phase: 'canvass' | 'promise' | 'lease' | 'swap' | 'promote';
  epoch: bigint;
  readonly startedAt: number;
  phaseAt: number;
  /** By hand, or handed over: whether the primary lives does not matter. */
  readonly forced: boolean;
  readonly acceptDataLoss: boolean;
  /** Whom to answer. */
  readonly command: string | undefined;
  /** What the coordinator held after the election began. */
  view: ClusterView | undefined;
  readonly asked: Set<string>;
  readonly answers: Map<string, Reply>;
  readonly promises: Map<string, Promised>;
  /** This node's log, once it has promised. */
  place: LogPlace | undefined;
  enoughAt: number | undefined;
  next: PrimaryRecord | undefined;
  sentAt: number;
}

/** Once enough have answered, the others get so long, in case one of them is further. */
const graceMs = 20;

/** For answers: longer after every attempt in vain, for a machine may be slower than anybody thought. */
export function patienceMs({ settings, state }: Turn): number {
  return settings.answerMs * strain(state);
}

function strain(state: State): number {
  return Math.min(Math.max(1, state.attempts), 8);
}

/** What makes a node stand. */
export interface Standing {
  /** The primary is lost, another node has less of the log, somebody asked for it, or a standby can follow in a new epoch only. */
  readonly cause: 'lost' | 'asked' | 'command' | 'new-epoch';
  /** The node that asked. */
  readonly by?: string;
  readonly forced?: boolean;
  readonly acceptDataLoss?: boolean;
  readonly command?: string;
}

export function stand(turn: Turn, how: Standing): void {
  const { state, settings, now } = turn;
  const election = newElection(turn, how);
  state.election = election;
  state.stoodAt = now;
  state.attempts += 1;
  for (const [node, peer] of state.peers) if (peer.up && memberOf(state, node)) election.asked.add(node);
  for (const node of election.asked)
    send(turn, node, { type: 'canvass', epoch: election.epoch, forced: election.forced });
  tell(
    turn,
    'info',
    'election',
    `node '${settings.node}' stands for primary in epoch ${election.epoch}, asks ${[...election.asked].join(', ') || 'nobody'}`,
    { epoch: String(election.epoch), cause: how.cause, ...(how.by !== undefined && { by: how.by }) },
  );
  read(turn);
  election.phaseAt = now;
}

function newElection(turn: Turn, how: Omit<Standing, 'cause' | 'by'>): Election {
  const { state, facts, now } = turn;
  let epoch = facts.promisedEpoch > facts.logEpoch ? facts.promisedEpoch : facts.logEpoch;
  if (state.view?.primary && state.view.primary.epoch > epoch) epoch = state.view.primary.epoch;
  for (const { state: said } of state.peers.values())
    if (said && said.promised > epoch) epoch = said.promised;
  return {
    phase: 'canvass',
    epoch: epoch + 1n,
    startedAt: now,
    phaseAt: now,
    forced: how.forced === true,
    acceptDataLoss: how.acceptDataLoss === true,
    command: how.command,
    view: undefined,
    asked: new Set(),
    answers: new Map(),
    promises: new Map(),
    place: undefined,
    enoughAt: undefined,
    next: undefined,
    sentAt: now,
  };
}

/** The primary has stepped back for this node. */
export function takeOver(
  turn: Turn,
  from: string,
  given: { readonly epoch: bigint; readonly revision: bigint } & LogPlace,
): void {
  const { state, settings } = turn;
  const election = newElection(turn, { forced: true });
  state.election = election;
  election.epoch = given.epoch;
  const message = `node '${settings.node}' takes over from '${from}' in epoch ${given.epoch}`;
  tell(turn, 'info', 'takes-over', message, { epoch: String(given.epoch), from });
  election.phase = 'promise';
  election.promises.set(from, { node: from, logEpoch: given.logEpoch, lsn: given.lsn, whole: true });
  turn.actions.push({ type: 'promise', epoch: given.epoch });
  if (state.view?.revision === given.revision) election.view = state.view;
  else read(turn);
}

/** The first primary of a cluster: there is nobody to ask. */
export function found(turn: Turn): void {
  const { state, settings } = turn;
  const election = newElection(turn, { forced: true });
  state.election = election;
  election.view = state.view;
  const message = `node '${settings.node}' begins the cluster in epoch ${election.epoch}`;
  tell(turn, 'info', 'begins', message, { epoch: String(election.epoch) });
  election.phase = 'promise';
  turn.actions.push({ type: 'promise', epoch: election.epoch });
}

/** Gives up, and stands again no sooner than in `backOffMs`. */
export function giveUp(turn: Turn, why: string, backOffMs: number): void {
  const { state, settings, now } = turn;
  const { election } = state;
  if (!election) return;
  state.election = undefined;
  // Two that stand again and again at the same time would take each other's votes for ever.
  const spread = (hash(settings.node) ^ (state.attempts * 2654435761)) >>> 0;
  state.standAfter = now + backOffMs + (spread % (1 + settings.staggerMs * strain(state)));
  if (election.phase !== 'canvass' && state.promisedSince === undefined) state.promisedSince = now;
  waitBecause(turn, why);
  if (election.command !== undefined) {
    turn.actions.push({ type: 'answer', id: election.command, ok: false, message: why });
  }
}

function hash(text: string): number {
  let value = 0;
  for (let i = 0; i < text.length; i++) value = (value * 31 + text.charCodeAt(i)) | 0;
  return value;
}

export function onCanvassed(turn: Turn, from: string, reply: Reply): void {
  const { election } = turn.state;
  if (election?.phase !== 'canvass' || !election.asked.has(from)) return;
  election.answers.set(from, reply);
  if (reply.promised >= election.epoch) election.epoch = reply.promised + 1n;
  advance(turn);
}

export function onPromised(turn: Turn, from: string, reply: Reply): void {
  const { election } = turn.state;
  if (!election || (election.phase !== 'promise' && election.phase !== 'lease')) return;
  if (!election.asked.has(from)) return;
  if (reply.ok) {
    if (reply.epoch !== election.epoch) return;
    election.promises.set(from, {
      node: from,
      logEpoch: reply.logEpoch,
      lsn: reply.lsn,
      whole: reply.whole,
    });
  } else {
    election.answers.set(from, reply);
    election.asked.delete(from);
    if (reply.promised > election.epoch) {
      return giveUp(
        turn,
        `node '${from}' has promised epoch ${reply.promised} to another one`,
        turn.settings.staggerMs,
      );
    }
  }
  advance(turn);
}

/** The data plane's own promise. */
export function onOwnPromise(turn: Turn, epoch: bigint, place: LogPlace, problem: string): void {
  const { state, settings } = turn;
  const { election } = state;
  if (!election || election.epoch !== epoch || election.phase !== 'promise') return;
  if (problem !== '') return giveUp(turn, problem, settings.answerMs);
  election.place = place;
  election.promises.set(settings.node, {
    ...place,
    node: settings.node,
    whole: state.whole,
  });
  advance(turn);
}

export function onRead(turn: Turn, view: ClusterView | undefined): void {
  const { state, settings } = turn;
  const { election } = state;
  if (!election) return;
  if (election.phase === 'swap') return onReadAfterUnknown(turn, view);
  if (!view) return giveUp(turn, 'no election: the coordinator cannot be reached', settings.answerMs);
  election.view = view;
  advance(turn);
}

/** Looks whether the election can go on; on every answer and every tick. */
export function advance(turn: Turn): void {
  const { election } = turn.state;
  if (!election) return;
  if (election.phase === 'canvass') return canvass(turn, election);
  if (election.phase === 'promise' || election.phase === 'lease') return promise(turn, election);
  if (election.phase === 'swap' && turn.state.swap === undefined) read(turn);
}

function canvass(turn: Turn, election: Election): void {
  const { state, settings, facts, now } = turn;
  const { view } = election;
  const late = now - election.startedAt >= patienceMs(turn);
  if (!view) {
    if (late && now - election.startedAt >= 4 * patienceMs(turn))
      giveUp(turn, 'no election: the coordinator does not answer', settings.answerMs);
    return;
  }
  const record = view.primary;
  if (
    record &&
    state.announced &&
    record.epoch > state.announced.epoch &&
    record.node !== settings.node &&
    !election.forced
  ) {
    const named = state.peers.get(record.node)?.state;
    if (named?.promoting) return giveUp(turn, '', settings.answerMs);
  }
  const { logEpoch, lsn } = facts;
  const own: Promised = {
    node: settings.node,
    logEpoch,
    lsn,
    whole: state.whole,
  };
  const willing: Promised[] = [own];
  const unwilling: string[] = [];
  for (const [node, reply] of election.answers) {
    if (reply.ok) willing.push({ node, logEpoch: reply.logEpoch, lsn: reply.lsn, whole: reply.whole });
    else unwilling.push(`'${node}': ${reply.why}`);
  }
  const everybody = election.answers.size >= election.asked.size;
  if (!everybody && now - election.startedAt < graceMs) return;

  const better = betterThan(turn, own, willing);
  // One that is further, or preferred: whoever has most loses least.
  if (better && (everybody || late || comparePlaces(better, own) > 0)) {
    send(turn, better.node, {
      type: 'stand',
      forced: election.forced,
      acceptDataLoss: election.acceptDataLoss,
    });
    return giveUp(
      turn,
      `node '${better.node}' is to stand: it has more of the log, or a higher priority`,
      2 * settings.answerMs,
    );
  }
  const can =
    record === undefined ||
    mayTakeOver(record, own, willing) ||
    ((election.acceptDataLoss || record.rule.level === 'async') &&
      (unwilling.length === 0 || election.forced));
  if (can) return askPromises(turn, election);
  if (everybody || late) giveUp(turn, whyNot(record, willing, unwilling), settings.answerMs);
}

function askPromises(turn: Turn, election: Election): void {
  election.phase = 'promise';
  election.phaseAt = turn.now;
  for (const node of [...election.asked]) {
    if (election.answers.get(node)?.ok === false && !election.forced) election.asked.delete(node);
    else send(turn, node, { type: 'promise', epoch: election.epoch, forced: election.forced });
  }
  turn.actions.push({ type: 'promise', epoch: election.epoch });
}

/** Of those that would do, one that should rather stand. */
function betterThan(turn: Turn, own: Promised, others: Iterable<Promised>): Promised | undefined {
  let best: Promised | undefined;
  for (const other of others) {
    const member = memberOf(turn.state, other.node);
    if (!member || member.nofailover || other.node === own.node) continue;
    const order = comparePlaces(other, best ?? own);
    const priority = best ? (memberOf(turn.state, best.node)?.priority ?? 0) : turn.settings.priority;
    if (order > 0 || (order === 0 && member.priority > priority)) best = other;
  }
  return best;
}

function promise(turn: Turn, election: Election): void {
  const { state, settings, now } = turn;
  const { view, place } = election;
  if (!view || !place) {
    if (now - election.phaseAt >= 4 * patienceMs(turn))
      giveUp(turn, 'no election: the coordinator or the disk here does not answer', settings.answerMs);
    return;
  }
  const record = view.primary;
  if (record && record.epoch >= election.epoch) return giveUp(turn, '', settings.staggerMs);
  const own = election.promises.get(settings.node) as Promised;
  const safe = record === undefined || mayTakeOver(record, place, election.promises.values());
  const everybody = [...election.asked].every((node) => election.promises.has(node));
  const late = now - election.phaseAt >= patienceMs(turn);

  if (!safe || !everybody) {
    const ahead = betterThan(turn, own, election.promises.values());
    if (ahead && comparePlaces(ahead, own) > 0 && (everybody || late || !safe)) {
      const others = [...election.promises.values()];
      if (record === undefined || mayTakeOver(record, ahead, others) || everybody || late) {
        send(turn, ahead.node, {
          type: 'stand',
          forced: election.forced,
          acceptDataLoss: election.acceptDataLoss,
        });
        return giveUp(
          turn,
          `node '${ahead.node}' is to stand: it has more of the log`,
          2 * settings.answerMs,
        );
      }
    }
  }
  if (safe) {
    election.enoughAt ??= now;
    if (everybody || now - election.enoughAt >= graceMs) takeRecord(turn, election, view);
    return;
  }
  if (!everybody && !late) return;
  if (record && (record.rule.level === 'async' || election.acceptDataLoss))
    return afterLease(turn, election, record);
  const promised = [...election.promises.values()];
  if (everybody || late)
    giveUp(turn, whyNot(record, promised, [...unwillingOf(election)]), settings.answerMs);
  state.promisedSince ??= now;
}

function* unwillingOf(election: Election): Iterable<string> {
  for (const [node, reply] of election.answers) if (!reply.ok) yield `'${node}': ${reply.why}`;
}

/** Nobody's promise keeps the old primary from committing: only the end of its lease does. */
function afterLease(turn: Turn, election: Election, record: PrimaryRecord): void {
  const { state, settings, now } = turn;
  const view = election.view as ClusterView;
  const place = election.place as LogPlace;
  if (state.view && state.view.revision !== view.revision) {
    return giveUp(turn, `the lease of '${record.node}' was renewed`, settings.answerMs);
  }
  if (now < leaseEnd(turn)) {
    if (election.phase !== 'lease') {
      election.phase = 'lease';
      waitBecause(turn, `waits until the lease of '${record.node}' has surely run out`);
    }
    return;
  }
  const missing = Number(state.primaryTail > place.lsn ? state.primaryTail - place.lsn : 0n);
  if (missing > settings.maxLagBytes && !election.acceptDataLoss) {
    return giveUp(
      turn,
      `no automatic promotion: this node lacks ${missing} bytes of the primary's log, more than max_lag_bytes; ` +
        'wait for a node that has them, or walship failover --accept-data-loss',
      10 * settings.answerMs,
    );
  }
  takeRecord(turn, election, view);
}

function takeRecord(turn: Turn, election: Election, view: ClusterView): void {
  const { settings, state, now } = turn;
  if (state.swap) return; // one of a reign that has just ended: its answer comes first
  const eligible = eligibleBut(view, settings.node);
  const here = new Set([...election.promises.keys()]);
  const rule = ruleOver(settings.rule, chooseStandbys(settings.rule, eligible, here, eligible));
  const { leaseMs } = settings;
  const previous = view.primary && reignOf(view.primary);
  election.next = {
    node: settings.node,
    epoch: election.epoch,
    rule,
    leaseMs,
    renewal: 0,
    ...(previous && { previous }),
  };
  election.phase = 'swap';
  election.phaseAt = election.sentAt = now;
  swap(turn, 'elect', view.revision, election.next);
}

export function onElected(turn: Turn, outcome: { readonly revision: bigint } | 'conflict' | 'unknown'): void {
  const { election } = turn.state;
  if (election?.phase !== 'swap') return;
  if (outcome === 'conflict') return giveUp(turn, '', turn.settings.staggerMs);
  if (outcome === 'unknown') return read(turn);
  won(turn, election, outcome.revision);
}

/** Whether a swap without an answer was done. */
function onReadAfterUnknown(turn: Turn, view: ClusterView | undefined): void {
  const { election } = turn.state;
  const next = election?.next;
  if (!election || !next || turn.state.swap) return;
  if (!view) {
    if (turn.now - election.phaseAt > 10 * turn.settings.answerMs)
      giveUp(turn, 'no election: the coordinator cannot be reached', turn.settings.answerMs);
    return;
  }
  const mine = view.primary?.node === next.node && view.primary.epoch === next.epoch;
  if (mine) won(turn, election, view.revision);
  else giveUp(turn, '', turn.settings.answerMs);
}

function won(turn: Turn, election: Election, revision: bigint): void {
  const { settings, state } = turn;
  const next = election.next as PrimaryRecord;
  election.phase = 'promote';
  election.phaseAt = turn.now;
  if (turn.now - election.sentAt >= next.leaseMs / 2) {
    // The others have long gone on without it.
    return giveUp(turn, 'the coordinator answered too late', settings.answerMs);
  }
  if (state.view) state.view = { ...state.view, primary: next, revision };
  state.revisionSince = turn.now;
  const promises = [...election.promises.keys()].sort();
  tell(
    turn,
    'info',
    'elected',
    `node '${settings.node}' is elected in epoch ${next.epoch}, by the word of ${promises.join(', ')} and the coordinator's record`,
    { epoch: String(next.epoch), promises: promises.join(), revision: String(revision) },
  );
  turn.actions.push({
    type: 'promote',
    epoch: next.epoch,
    rule: next.rule,
    leaseUntilMs: election.sentAt + next.leaseMs - settings.leaseMarginMs,
  });
}

export function onPromoted(turn: Turn, epoch: bigint, problem: string): void {
  const { state, settings } = turn;
  const { election } = state;
  if (election?.phase !== 'promote' || election.epoch !== epoch) return;
  if (problem !== '') return giveUp(turn, `this node cannot be primary: ${problem}`, 10 * settings.answerMs);
  state.election = undefined;
  if (election.command !== undefined) {
    turn.actions.push({
      type: 'answer',
      id: election.command,
      ok: true,
      message: `'${settings.node}' is the primary in epoch ${epoch}`,
    });
  }
  beginReign(turn, election.next as PrimaryRecord, election.sentAt);
}

function whyNot(
  record: PrimaryRecord | undefined,
  promised: readonly Promised[],
  unwilling: readonly string[],
): string {
  if (!record) return 'nobody has begun this cluster: start one node with failover.bootstrap = true';
  const needed = promisesNeeded(record.rule);
  const against = unwilling.length > 0 ? `; not willing: ${unwilling.join(', ')}` : '';
  if (needed === undefined) return `waits until the lease of '${record.node}' has surely run out${against}`;
  const names = registeredStandbysOf(record.rule);
  const have = names.filter((name) => promised.some(({ node }) => node === name));
  return (
    `no standby can be promoted safely: '${record.node}', primary in epoch ${record.epoch}, committed with the standbys ` +
    `${names.join(', ')}; needed are ${needed} of them, or '${record.node}' itself, and there are ` +
    `${have.length === 0 ? 'none' : have.join(', ')}${against}. It goes on by itself when they are back; ` +
    'to go on without them and lose what only they have: walship failover --accept-data-loss'
  );
}

/** So that nobody stands against it: this node, or the one it has just handed over to, is about to be primary. */
export function isPromoting(turn: Turn): boolean {
  const { state, settings, now } = turn;
  const phase = state.election?.phase;
  if (phase === 'swap' || phase === 'promote') return true;
  return state.handedOver !== undefined && now - state.handedOver.since < handoverMs(settings);
}

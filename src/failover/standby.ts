import { found, stand } from './election.js';
import type { Reply, StateMessage } from './protocol.js';
import { comparePlaces } from './quorum.js';
import { lastPrimary, leaseEnd, memberOf, type Turn, tell, waitBecause } from './state.js';

/** What a standby does: follow whom it should, notice that the primary is gone, and promise. */
export function standbyTick(turn: Turn): void {
  follow(turn);
  watchPrimary(turn);
}

// ---- following ----

const unplannedMs = 300;

function follow(turn: Turn): void {
  const { state, settings, facts, now } = turn;
  const { announced } = state;
  const up = facts.upstream?.up === true && facts.upstream.node === state.upstream;
  if (up) state.upstreamLostSince = undefined;
  else state.upstreamLostSince ??= now;
  // Its primary told where it was after this process had begun, so whatever an earlier one acknowledged is below that.
  if (up && announced?.epoch === facts.logEpoch && facts.lsn >= state.primaryTail) state.whole = true;
  if (!announced || announced.node === settings.node || announced.epoch < facts.promisedEpoch) return;
  if (state.election && state.election.phase !== 'canvass') return;
  let target = announced.plan?.get(settings.node) ?? announced.node;
  // Its place in the tree is gone, and the primary has not given it another one yet.
  const lost = state.upstreamLostSince !== undefined && now - state.upstreamLostSince >= unplannedMs;
  if (target !== announced.node && lost && state.peers.get(target)?.up !== true) target = announced.node;
  // Another node's word may be here before the coordinator's, which says where that node is.
  const address = memberOf(state, target)?.log;
  if (address === undefined || (target === state.upstream && address === state.upstreamAt)) return;
  state.upstream = target;
  state.upstreamAt = address;
  state.upstreamSince = now;
  turn.actions.push({ type: 'follow', upstream: { node: target, address } });
}

// ---- is there a primary? ----

function watchPrimary(turn: Turn): void {
  const { state, settings, facts, now } = turn;
  const { view } = state;
  if (facts.failed || state.election) return;
  if (!view) return waitBecause(turn, 'waits for the coordinator: nothing is known of the cluster yet');
  if (!view.primary && !state.announced) {
    if (settings.bootstrap) {
      if (memberOf(state, settings.node) && now >= state.standAfter) found(turn);
    } else waitBecause(turn, 'nobody has begun this cluster: start one node with failover.bootstrap = true');
    return;
  }
  const why = primaryLost(turn);
  if (why === undefined) {
    state.lostSince = undefined;
    if (state.waiting !== '' && facts.upstream?.up) waitBecause(turn, '');
    return;
  }
  if (state.lostSince === undefined) {
    state.lostSince = now;
    const last = lastPrimary(state);
    tell(turn, 'warn', 'primary-lost', why, last && { node: last.node, epoch: String(last.epoch) });
  }
  if (settings.nofailover)
    return waitBecause(turn, `${why}; this node is never promoted by itself (nofailover)`);
  if (view.paused)
    return waitBecause(turn, `${why}; automatic failover is paused: walship resume, or walship failover`);
  if (now >= state.standAfter && now >= state.lostSince + rank(turn) * settings.staggerMs)
    stand(turn, { cause: 'lost' });
}

/** How many of those that live are to stand before this node. */
function rank(turn: Turn): number {
  const { state, settings, facts } = turn;
  let before = 0;
  for (const [node, peer] of state.peers) {
    const member = memberOf(state, node);
    if (!peer.up || !peer.state || !member || member.nofailover) continue;
    const order = comparePlaces(peer.state, facts);
    const preferred =
      member.priority !== settings.priority ? member.priority > settings.priority : node < settings.node;
    if (order > 0 || (order === 0 && preferred)) before += 1;
  }
  return before;
}

/** Why the primary is taken for dead; undefined if it is not. */
function primaryLost(turn: Turn): string | undefined {
  const { state, settings, facts, now } = turn;
  const last = lastPrimary(state);
  if (!last) return undefined;
  const { node } = last;
  const promisedNewer = facts.promisedEpoch > last.epoch;
  if (promisedNewer) {
    state.promisedSince ??= now;
    if (now - state.promisedSince < 2 * settings.suspectMs) return undefined;
    // Nobody can reign before the lease's end, whoever stands.
    if (state.view?.primary?.rule.level === 'async' && now < leaseEnd(turn) + settings.suspectMs)
      return undefined;
    return `epoch ${facts.promisedEpoch} was promised, and nobody reigns in it`;
  }
  state.promisedSince = undefined;
  if (node === settings.node)
    return `this node was the primary in epoch ${last.epoch}; a restarted node takes no role of before`;
  if (leaseGone(turn)) return `the lease of '${node}' has run out`;
  const peer = state.peers.get(node);
  if (heardMsAgo(turn, node) < settings.suspectMs) return undefined;
  const fresh = peer?.up === true && now - peer.heardAt < settings.suspectMs;
  const said = peer?.state;
  if (fresh && said) {
    const reigns = said.role === 'primary' && said.epoch >= last.epoch;
    const news = now - state.revisionSince < 2 * settings.suspectMs;
    if (reigns || said.promoting || (news && said.epoch < last.epoch)) return undefined;
    return `'${node}' lives, but is not primary`;
  }
  // Between the coordinator's word and the new primary's own.
  if (
    state.announced?.epoch !== last.epoch &&
    now - state.revisionSince < settings.suspectMs &&
    peer?.refused !== true
  )
    return undefined;
  for (const other of state.peers.values()) {
    if (!other.up || now - other.heardAt >= settings.suspectMs) continue;
    const age = other.state?.epoch === last.epoch ? other.state.primaryHeardMsAgo : undefined;
    if (age !== undefined && age + now - other.heardAt < settings.suspectMs) return undefined;
  }
  if (peer && !peer.up && peer.refused) return `'${node}' is gone: nobody answers in its place`;
  const silentSince = Math.max(peer?.heardAt ?? 0, peer && !peer.up ? peer.since : 0);
  if (now - silentSince < settings.suspectMs) return undefined;
  return `nothing was heard of '${node}' for ${settings.suspectMs} ms`;
}

/**
 * How long ago the data plane heard the primary itself; infinite if it is not connected with it, or if that node has come
 * back as a standby.
 */
export function heardMsAgo(turn: Turn, primary: string): number {
  const { upstream } = turn.facts;
  const peer = turn.state.peers.get(primary);
  if (peer?.up && peer.state && peer.state.role !== 'primary') return Number.POSITIVE_INFINITY;
  return upstream?.node === primary && upstream.up ? upstream.heardMsAgo : Number.POSITIVE_INFINITY;
}

/** The record has not been renewed for longer than a lease, although the coordinator is there to renew it. */
function leaseGone(turn: Turn): boolean {
  const { state, now } = turn;
  const record = state.view?.primary;
  if (!record || !state.coordinatorUp || (state.announced && state.announced.epoch > record.epoch))
    return false;
  return now >= leaseEnd(turn);
}

// ---- promises ----

/** Why this node would not promise a newer epoch to `candidate` now; empty if it would. */
export function unwilling(turn: Turn, candidate: string, forced: boolean): string {
  const { state, settings, facts, now } = turn;
  if (facts.failed) return 'its storage has failed';
  if (state.election && (state.election.phase === 'swap' || state.election.phase === 'promote'))
    return 'is being promoted itself';
  if (forced) return '';
  if (state.view?.paused) return 'automatic failover is paused';
  const last = lastPrimary(state);
  if (!last || last.node === candidate || facts.promisedEpoch > last.epoch) return '';
  if (state.reign) return leaseGone(turn) && now >= state.reign.leaseUntil ? '' : 'is the primary';
  if (leaseGone(turn)) return '';
  if (heardMsAgo(turn, last.node) < settings.suspectMs) return `hears the primary '${last.node}'`;
  const asynchronous = state.view?.primary?.rule.level === 'async';
  if (asynchronous && now < state.grantedUntil) return `has granted '${last.node}' its lease`;
  return '';
}

export function reply(turn: Turn, epoch: bigint, why: string): Reply {
  const { facts, state } = turn;
  return {
    epoch,
    ok: why === '',
    why,
    logEpoch: facts.logEpoch,
    lsn: facts.lsn,
    promised: facts.promisedEpoch,
    whole: state.whole,
  };
}

// ---- what everybody is told ----

export function describe(turn: Turn, promoting: boolean): StateMessage {
  const { state, facts } = turn;
  const last = lastPrimary(state);
  const heard = last ? heardMsAgo(turn, last.node) : Number.POSITIVE_INFINITY;
  const { reign } = state;
  return {
    type: 'state',
    role: reign ? 'primary' : 'standby',
    epoch: reign ? reign.record.epoch : (state.announced?.epoch ?? 0n),
    logEpoch: facts.logEpoch,
    lsn: facts.lsn,
    promised: facts.promisedEpoch,
    promoting,
    ...(Number.isFinite(heard) && { primaryHeardMsAgo: heard }),
    ...(state.upstream !== undefined && !reign && { upstream: state.upstream }),
    upstreamUp: facts.upstream?.up === true && facts.upstream.node === state.upstream,
    rails: facts.rails,
    ...(reign && { plan: [...reign.plan] }),
  };
}

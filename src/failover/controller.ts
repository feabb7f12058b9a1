import { formatLsn } from '../engine/lsn.js';
import type { ClusterView } from './coordinator/coordinator.js';
import {
  advance,
  giveUp,
  isPromoting,
  onCanvassed,
  onElected,
  onOwnPromise,
  onPromised,
  onPromoted,
  onRead,
  patienceMs,
  stand,
  takeOver,
} from './election.js';
import type { Action, Command, ControllerSettings, Event, Facts, Message, StateMessage } from './protocol.js';
import { comparePlaces } from './quorum.js';
import { endReign, onGranted, onReignRead, onSwapped, reignTick } from './reign.js';
import { describe, heardMsAgo, reply, standbyTick, unwilling } from './standby.js';
import { broadcast, lastPrimary, memberOf, newState, type State, send, type Turn, tell } from './state.js';
import { beginSwitchover, keepHandingOver, onHandoverPromised, onHeld } from './switchover.js';

/**
 * One node's part in deciding who is primary. It has no clock, socket, timer or file: {@link step} takes what happened,
 * what the data plane is like and what time it is (monotonic, ms, this host's), and gives what is to be done. The same
 * steps give the same actions: that is what the simulation runs.
 *
 * The safety of a promotion rests on three things, none of them a clock under a synchronous commit rule:
 * one primary per epoch, by the coordinator's compare-and-swap; promises of enough standbys, so that nobody commits in an
 * older epoch any more; and that the new primary has everything that any of those had. See {@link mayTakeOver}.
 */
export class Controller {
  readonly settings: ControllerSettings;
  readonly #state: State;

  constructor(settings: ControllerSettings, now: number) {
    this.settings = settings;
    this.#state = newState(now);
  }

  /** For people and tests; not to be changed. */
  get state(): Readonly<State> {
    return this.#state;
  }

  step(event: Event, facts: Facts, now: number): Action[] {
    const turn: Turn = { state: this.#state, settings: this.settings, facts, now, actions: [] };
    take(turn, event);
    if (turn.state.reign) reignTick(turn);
    if (!turn.state.reign) standbyTick(turn);
    if (turn.state.election) advance(turn);
    settle(turn);
    say(turn);
    return turn.actions;
  }
}

function take(turn: Turn, event: Event): void {
  const { state, now } = turn;
  switch (event.type) {
    case 'tick':
      return;
    case 'peer':
      return onPeer(turn, event.node, event.up, event.refused === true);
    case 'view':
      return onView(turn, event.view);
    case 'read': {
      state.reading = false;
      onView(turn, event.view);
      if (state.reign) onReignRead(turn);
      return onRead(turn, event.view);
    }
    case 'swapped': {
      if (state.swap?.id !== event.id) return;
      const { purpose } = state.swap;
      onSwapped(turn, event.outcome);
      if (purpose === 'elect') onElected(turn, event.outcome);
      return;
    }
    case 'promised': {
      const asked = state.asked.get(event.epoch);
      state.asked.delete(event.epoch);
      if (event.problem === '') {
        tellPromise(turn, event.epoch, event.place.lsn, asked);
        if (
          state.reign &&
          event.epoch > state.reign.record.epoch &&
          !state.reign.handover?.promised &&
          !state.election
        )
          endReign(turn, `it promised epoch ${event.epoch}`);
        if (state.reign && state.election) endReign(turn, 'it begins a new epoch');
        // One that waits for the lease's end must not take the record for an epoch that is past by then.
        const phase = state.election?.phase;
        if (
          state.election &&
          event.epoch > state.election.epoch &&
          (phase === 'promise' || phase === 'lease')
        )
          giveUp(turn, '', turn.settings.answerMs);
        state.upstream = undefined;
        state.promisedSince = now;
      }
      for (const node of asked ?? []) {
        send(turn, node, { type: 'promised', ...reply(turn, event.epoch, event.problem), ...event.place });
      }
      onHandoverPromised(turn, event.epoch, event.place);
      return onOwnPromise(turn, event.epoch, event.place, event.problem);
    }
    case 'promoted':
      return onPromoted(turn, event.epoch, event.problem);
    case 'held':
      return onHeld(turn, event.problem);
    case 'command':
      return onCommand(turn, event.id, event.command);
    case 'message': {
      const peer = state.peers.get(event.from);
      if (peer) {
        peer.up = true;
        peer.refused = false;
        peer.heardAt = now;
      } else {
        state.peers.set(event.from, {
          up: true,
          toldUp: false,
          refused: false,
          since: now,
          heardAt: now,
        });
      }
      return onMessage(turn, event.from, event.message);
    }
  }
}

/** Before anybody hears of it. */
function tellPromise(turn: Turn, epoch: bigint, lsn: bigint, asked: ReadonlySet<string> | undefined): void {
  const { state, settings } = turn;
  const names = [...(asked ?? [])];
  if (state.election?.epoch === epoch) names.push(settings.node);
  else if (state.reign?.handover?.promised) names.push(state.reign.handover.to);
  const to = names.length > 0 ? ` to ${names.map((name) => `'${name}'`).join(', ')}` : '';
  const message = `promised epoch ${epoch}${to}: acknowledges nothing older; has the log up to LSN ${formatLsn(lsn)}`;
  tell(turn, 'info', 'promised', message, { epoch: String(epoch), to: names.join() });
}

function onPeer(turn: Turn, node: string, up: boolean, refused: boolean): void {
  const { state, now } = turn;
  const heardAt = up ? now : Number.NEGATIVE_INFINITY;
  const peer = state.peers.get(node) ?? { up, toldUp: false, refused, since: now, heardAt };
  state.peers.set(node, peer);
  if (peer.up !== up) peer.since = now;
  peer.up = up;
  peer.refused = !up && refused;
  if (peer.toldUp !== up) {
    peer.toldUp = up;
    if (up) tell(turn, 'info', 'peer-up', `the controller of '${node}' is connected`, { node });
    else tell(turn, 'info', 'peer-down', `the controller of '${node}' is not connected any more`, { node });
  }
  if (up) state.said = ''; // so that it is told at once
}

function onView(turn: Turn, view: ClusterView | undefined): void {
  const { state, now } = turn;
  if (state.coordinatorUp !== (view !== undefined)) {
    state.coordinatorUp = view !== undefined;
    if (view) tell(turn, 'info', 'coordinator-back', 'the coordinator answers again');
    else tell(turn, 'warn', 'coordinator-lost', 'the coordinator does not answer');
    // For how long it was away nobody could renew: a lease is counted from now.
    state.revisionSince = now;
  }
  if (!view || (state.view && view.revision < state.view.revision)) return;
  if (view.revision !== state.view?.revision) state.revisionSince = now;
  state.view = view;
}

function onMessage(turn: Turn, from: string, message: Message): void {
  const { state, settings, now, facts } = turn;
  switch (message.type) {
    case 'state':
      return onState(turn, from, message);
    case 'canvass':
      return send(turn, from, {
        type: 'canvassed',
        ...reply(turn, message.epoch, unwilling(turn, from, message.forced)),
      });
    case 'canvassed':
      return onCanvassed(turn, from, message);
    case 'promise': {
      let why = unwilling(turn, from, message.forced);
      if (why === '' && message.epoch < facts.promisedEpoch)
        why = `has promised epoch ${facts.promisedEpoch}`;
      if (why !== '') return send(turn, from, { type: 'promised', ...reply(turn, message.epoch, why) });
      const asked = state.asked.get(message.epoch);
      if (asked) asked.add(from);
      else {
        state.asked.set(message.epoch, new Set([from]));
        turn.actions.push({ type: 'promise', epoch: message.epoch });
      }
      // Somebody else stands: time for it.
      state.standAfter = Math.max(state.standAfter, now + patienceMs(turn));
      if (state.election?.phase === 'canvass') giveUp(turn, '', settings.answerMs);
      return;
    }
    case 'promised':
      return onPromised(turn, from, message);
    case 'stand':
      if (settings.nofailover || facts.failed || state.election || state.reign) return;
      // Two that take each other for the better one must not go on telling each other so at the speed of the network.
      if (now - state.stoodAt < settings.staggerMs) return;
      if (message.forced || mayStand(turn)) {
        const { forced, acceptDataLoss } = message;
        stand(turn, { cause: 'asked', by: from, forced, acceptDataLoss });
      }
      return;
    case 'handover':
      if (!facts.failed && !state.election && !state.reign && message.epoch > facts.logEpoch)
        takeOver(turn, from, message);
      return;
    case 'lease': {
      const last = lastPrimary(state);
      if (
        last?.node !== from ||
        last.epoch !== message.epoch ||
        facts.promisedEpoch > message.epoch ||
        state.election
      )
        return;
      const leaseMs = state.view?.primary?.leaseMs ?? settings.leaseMs;
      state.grantedUntil = Math.max(state.grantedUntil, now + leaseMs + settings.leaseMarginMs);
      return send(turn, from, { type: 'granted', epoch: message.epoch, round: message.round });
    }
    case 'granted':
      return onGranted(turn, from, message.epoch, message.round);
    case 'command':
      return onCommand(turn, `${from} ${message.id}`, message.command);
    case 'outcome':
      turn.actions.push({ type: 'answer', id: message.id, ok: message.ok, message: message.message });
      return;
  }
}

function mayStand(turn: Turn): boolean {
  const { state, settings } = turn;
  return (
    state.lostSince !== undefined &&
    state.view?.paused === false &&
    memberOf(state, settings.node) !== undefined
  );
}

function onState(turn: Turn, from: string, said: StateMessage): void {
  const { state } = turn;
  const peer = state.peers.get(from);
  if (peer) peer.state = said;
  if (said.role !== 'primary') return;
  if (state.announced && said.epoch < state.announced.epoch) return;
  if (said.epoch !== state.announced?.epoch) state.attempts = 0;
  state.announced = { node: from, epoch: said.epoch, plan: new Map(said.plan) };
  state.primaryTail = said.lsn;
  if (state.election?.phase === 'canvass' && !state.election.forced && said.epoch >= state.election.epoch)
    giveUp(turn, '', 0);
}

// ---- commands ----

function onCommand(turn: Turn, id: string, command: Command): void {
  const { state, settings, facts } = turn;
  const refuse = (message: string) => void turn.actions.push({ type: 'answer', id, ok: false, message });
  const pass = (node: string) => send(turn, node, { type: 'command', id, command });
  if (command.type === 'switchover') {
    if (command.to === lastPrimary(state)?.node) return refuse(`'${command.to}' is the primary already`);
    if (state.reign) return beginSwitchover(turn, id, command);
    const primary = state.announced?.node;
    if (primary === undefined || state.peers.get(primary)?.up !== true) {
      return refuse(
        'there is no primary that could hand over; walship failover promotes a standby without its help',
      );
    }
    return pass(primary);
  }
  const to = command.to ?? (state.reign || settings.nofailover ? mostAdvanced(turn) : settings.node);
  if (to === undefined) return refuse('no standby that can be promoted is connected');
  if (to !== settings.node) {
    if (state.peers.get(to)?.up !== true) return refuse(`'${to}' is not reachable from '${settings.node}'`);
    return pass(to);
  }
  if (state.reign) return refuse(`'${to}' is the primary already`);
  if (settings.nofailover) return refuse(`'${to}' is set to nofailover`);
  if (facts.failed) return refuse(`the storage of '${to}' has failed`);
  if (state.election) return refuse(`'${to}' stands for primary already`);
  stand(turn, { cause: 'command', forced: true, acceptDataLoss: command.acceptDataLoss, command: id });
}

function mostAdvanced(turn: Turn): string | undefined {
  let best: { node: string; said: StateMessage } | undefined;
  for (const [node, peer] of turn.state.peers) {
    if (!peer.up || !peer.state || memberOf(turn.state, node)?.nofailover !== false) continue;
    if (!best || comparePlaces(peer.state, best.said) > 0) best = { node, said: peer.state };
  }
  return best?.node;
}

// ---- at the end of every step ----

function settle(turn: Turn): void {
  keepHandingOver(turn);
  // Answers to commands that came by way of another node go back there.
  for (const [index, action] of turn.actions.entries()) {
    if (action.type !== 'answer' || !action.id.includes(' ')) continue;
    const [to, ...id] = action.id.split(' ');
    const { ok, message } = action;
    turn.actions[index] = {
      type: 'send',
      to: to as string,
      message: { type: 'outcome', id: id.join(' '), ok, message },
    };
  }
}

/** Tells everybody what this node is like: at once when something of weight has changed, else from time to time. */
function say(turn: Turn): void {
  const { state, settings, facts, now } = turn;
  const promoting = isPromoting(turn);
  const primary = lastPrimary(state)?.node;
  const hears = primary !== undefined && heardMsAgo(turn, primary) < settings.suspectMs;
  const { reign, upstream, announced } = state;
  const up = facts.upstream?.up === true && facts.upstream.node === upstream;
  const key = `${reign?.record.epoch} ${announced?.epoch} ${facts.promisedEpoch} ${promoting} ${upstream} ${up} ${hears} ${reign?.planned}`;
  if (key === state.said && now - state.saidAt < settings.gossipMs) return;
  state.said = key;
  state.saidAt = now;
  broadcast(turn, describe(turn, promoting));
}

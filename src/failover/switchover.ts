import { formatLsn } from '../engine/lsn.js';
import type { Command, ControllerSettings } from './protocol.js';
import type { Reign } from './reign.js';
import { eligibleBut, send, type Turn, tell } from './state.js';

export function beginSwitchover(turn: Turn, id: string, command: Command & { type: 'switchover' }): void {
  const { state, settings, facts, now } = turn;
  const reign = state.reign as Reign;
  const refuse = (message: string) => turn.actions.push({ type: 'answer', id, ok: false, message });
  if (reign.handover) return void refuse(`a switchover to '${reign.handover.to}' is under way`);
  if (state.election) return void refuse('an election is under way');
  const eligible = eligibleBut(state.view, settings.node);
  const here = facts.standbys.filter(
    ({ node }) => eligible.includes(node) && state.peers.get(node)?.up === true,
  );
  if (command.to !== undefined && !here.some(({ node }) => node === command.to)) {
    const why = eligible.includes(command.to) ? 'is not connected' : 'is not a member that can be promoted';
    return void refuse(
      `'${command.to}' ${why}; connected: ${here.map(({ node }) => node).join(', ') || 'nobody'}`,
    );
  }
  const target =
    command.to ??
    here.reduce((best, each) => (best && best.received >= each.received ? best : each), here[0])?.node;
  if (target === undefined) return void refuse('no standby that can be promoted is connected');
  reign.handover = { id, to: target, since: now, held: false, promised: false };
  tell(turn, 'info', 'switchover', `hands over to '${target}': appends wait until it has everything`, {
    to: target,
  });
  turn.actions.push({ type: 'hold', on: true });
}

export function handOver(turn: Turn, reign: Reign, handover: NonNullable<Reign['handover']>): void {
  const { facts, settings, now, state } = turn;
  if (handover.promised) return;
  const target = facts.standbys.find(({ node }) => node === handover.to);
  const drained = target !== undefined && target.received >= facts.lsn && facts.committed >= facts.lsn;
  if (drained && handover.held && !state.swap && state.view) {
    handover.promised = true;
    turn.actions.push({ type: 'promise', epoch: reign.record.epoch + 1n });
    return;
  }
  if (now - handover.since < settings.switchoverMs) return;
  const why = target
    ? `'${handover.to}' has LSN ${target.received} and committed is ${facts.committed}, of ${facts.lsn}`
    : `'${handover.to}' is not connected any more`;
  stay(turn, reign, handover.id, `given up after ${settings.switchoverMs} ms, nothing has changed: ${why}`);
}

/** The planned change is off. */
function stay(turn: Turn, reign: Reign, id: string, message: string): void {
  reign.handover = undefined;
  turn.actions.push({ type: 'hold', on: false });
  turn.actions.push({ type: 'answer', id, ok: false, message });
}

export function onHeld(turn: Turn, problem: string): void {
  const { reign } = turn.state;
  if (!reign?.handover || reign.handover.promised) return;
  if (problem === '') reign.handover.held = true;
  else stay(turn, reign, reign.handover.id, `nothing has changed: ${problem}`);
}

/** The data plane has promised: from here on this node is a standby, and its successor may begin. */
export function onHandoverPromised(
  turn: Turn,
  epoch: bigint,
  place: { logEpoch: bigint; lsn: bigint },
): void {
  const { state, now } = turn;
  const { reign } = state;
  if (!reign?.handover?.promised || epoch !== reign.record.epoch + 1n) return;
  const { id, to } = reign.handover;
  const given = { type: 'handover', epoch, revision: state.view?.revision ?? 0n, ...place } as const;
  state.reign = undefined;
  state.handedOver = { id, to, given, since: now, sentAt: now };
  state.promisedSince = now;
  tell(turn, 'info', 'handed-over', `has handed over to '${to}' at LSN ${formatLsn(place.lsn)}`, {
    to,
    epoch: String(epoch),
  });
  send(turn, to, given);
}

/** For so long nobody else stands: the successor has the time to begin. */
export function handoverMs({ suspectMs }: ControllerSettings): number {
  return 2 * suspectMs;
}

/** Until the successor has said that it is one, or too long: what was sent may be lost, and until then there is no primary. */
export function keepHandingOver(turn: Turn): void {
  const { state, settings, now } = turn;
  const { announced, handedOver } = state;
  if (!handedOver) return;
  const answer = (ok: boolean, message: string) => {
    turn.actions.push({ type: 'answer', id: handedOver.id, ok, message });
    state.handedOver = undefined;
  };
  const { to, given, since } = handedOver;
  if (announced && announced.epoch >= given.epoch) {
    answer(announced.node === to, `'${announced.node}' is the primary in epoch ${announced.epoch}`);
  } else if (now - since > settings.switchoverMs) {
    answer(false, `'${to}' did not take over; the standbys elect a primary`);
  } else if (
    !state.election &&
    now - since < handoverMs(settings) &&
    now - handedOver.sentAt >= settings.answerMs
  ) {
    handedOver.sentAt = now;
    send(turn, to, given);
  }
}

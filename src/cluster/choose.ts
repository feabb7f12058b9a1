import type { NodeView } from './view.js';

/** A node that answers, where it does, and what it said last. */
export interface LiveNode {
  /** `http://host:port` at which it was asked. */
  readonly http: string;
  readonly view: NodeView;
}

/** Where to go. */
export interface Target {
  readonly node: string;
  /** `http://host:port` */
  readonly http: string;
  /** `host:port` at which standbys get its log, if it is known. */
  readonly log?: string;
  /** Of the primary, or of the one that a standby follows. */
  readonly epoch: bigint;
}

/** The newest epoch in which somebody is known to be primary; 0 if nobody is. */
export function primaryEpoch(nodes: Iterable<LiveNode>): bigint {
  let newest = 0n;
  for (const { view } of nodes) {
    const epochs = [view.primary?.epoch ?? 0n, view.role === 'primary' ? view.epoch : 0n];
    for (const epoch of epochs) if (epoch > newest) newest = epoch;
  }
  return newest;
}

/**
 * The node that says itself that it is primary, in the newest epoch that anybody knows of. One that says so of an older
 * epoch was deposed and has not noticed.
 */
export function choosePrimary(nodes: Iterable<LiveNode>): Target | undefined {
  const all = [...nodes];
  const epoch = primaryEpoch(all);
  const found = all.find(({ view }) => view.role === 'primary' && view.epoch === epoch);
  return found && targetOf(found, epoch, all);
}

/**
 * A healthy standby that has applied `minLsn`; of several the one whose turn it is. Without any healthy standby, the
 * primary. Undefined: nobody yet.
 *
 * A standby that does not follow the newest primary yet may hold what will be cut off again: it has reached nothing.
 */
export function chooseReplica(nodes: Iterable<LiveNode>, minLsn: bigint, turn: number): Target | undefined {
  const all = [...nodes];
  const epoch = primaryEpoch(all);
  const standbys = uniqueNodes(all).filter(({ view }) => view.role === 'standby' && view.health.ok);
  if (standbys.length === 0) {
    const primary = all.find(({ view }) => view.role === 'primary' && view.epoch === epoch);
    return primary && primary.view.positions.applied >= minLsn ? targetOf(primary, epoch, all) : undefined;
  }
  const fit = standbys.filter(
    ({ view }) => minLsn === 0n || (view.primary?.epoch === epoch && view.positions.applied >= minLsn),
  );
  const chosen = fit[turn % fit.length];
  return chosen && targetOf(chosen, epoch, all);
}

/** Members that nobody has been asked at, as `http://host:port`. */
export function unaskedMembers(nodes: Iterable<LiveNode>): string[] {
  const all = [...nodes];
  const known = new Set(all.map(({ view }) => view.node));
  const found = new Set<string>();
  for (const { view } of all) {
    for (const { node, http } of view.members)
      if (http !== undefined && !known.has(node)) found.add(baseUrl(http));
  }
  return [...found];
}

/** Where members are registered, as `http://host:port`. */
export function memberAddresses(nodes: Iterable<LiveNode>): Set<string> {
  const found = new Set<string>();
  for (const { view } of nodes)
    for (const { http } of view.members) if (http !== undefined) found.add(baseUrl(http));
  return found;
}

/** `http://host:port` of `host:port`, and of itself. */
export function baseUrl(address: string): string {
  return (/^https?:\/\//.test(address) ? address : `http://${address}`).replace(/\/+$/, '');
}

/** A node that is asked at two addresses counts once. Sorted by name, so that turns mean something. */
function uniqueNodes(nodes: readonly LiveNode[]): LiveNode[] {
  const byName = new Map(nodes.map((live) => [live.view.node, live]));
  return [...byName.values()].sort((a, b) => (a.view.node < b.view.node ? -1 : 1));
}

function targetOf({ http, view: { node } }: LiveNode, epoch: bigint, all: readonly LiveNode[]): Target {
  for (const { view } of all) {
    const known =
      view.primary?.node === node ? view.primary : view.members.find((member) => member.node === node);
    if (known) return { node, http, log: known.log, epoch };
  }
  return { node, http, epoch };
}

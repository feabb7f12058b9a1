import { surviving, type Token } from './session.js';
import type { NodeView } from './view.js';

/** A node that answers, where it does, and what it said last. */
export interface LiveNode {
  /** `http://host:port` at which it was asked. */
  readonly http: string;
  readonly view: NodeView;
  /** How old the view is at most: since it was asked for. */
  readonly ageMs: number;
  /** What a question and its answer take; undefined: not measured yet. */
  readonly roundTripMs?: number | undefined;
  /** Reads under way there, as far as they are known here. */
  readonly outstanding: number;
  /** When it was chosen last: a number that grows with every choice. */
  readonly chosenAt: number;
}

/** Names of nodes, the nearest first, or `rtt`: those that answer fastest. */
export type Near = readonly string[] | 'rtt';

/** What a reader asks of a node. */
export interface Wants {
  /** Of the log as it is now: of the newest epoch. */
  readonly minLsn: bigint;
  readonly maxLagMs?: number | undefined;
  readonly near?: Near | undefined;
  /** What its session has seen. */
  readonly token?: Token | undefined;
}

/** Where to go. */
export interface Target {
  readonly node: string;
  /** `http://host:port` */
  readonly http: string;
  /** `host:port` at which standbys get its log, if it is known. */
  readonly log?: string;
  /** Of the primary; of a standby, the newest one that its log is known to agree with. */
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
 * The standby to read from: of those that are healthy, trusted, and have what is wanted, the nearest; of equally near ones
 * the one with the fewest reads under way; of those the one that was chosen longest ago. Without any healthy and trusted
 * standby, the primary. Undefined: nobody yet.
 *
 * A standby whose log is not known to be that of the newest primary may hold what will be cut off again: it has reached
 * nothing, and nothing is known of how old it is.
 */
export function chooseReplica(nodes: Iterable<LiveNode>, wants: Wants): Target | undefined {
  const all = [...nodes];
  const epoch = primaryEpoch(all);
  const distrusted = distrustedNodes(all, epoch);
  const usable = uniqueNodes(all).filter(({ view }) => view.health.ok && !distrusted.has(view.node));
  const standbys = usable.filter(({ view }) => view.role === 'standby');
  const asked = standbys.length > 0 ? standbys : usable.filter(({ view }) => isPrimary(view, epoch));
  const fit = asked.filter((live) => has(live, wants, epoch));
  const chosen = nearest(fit, wants.near).sort(byLoad)[0];
  return chosen && targetOf(chosen, chosen.view.history?.at(-1)?.epoch ?? epoch, all);
}

/**
 * Whether what a session has seen is lost: the log of the newest primary left it at the LSN given back, which is below it.
 * Undefined: it is there, or nobody who would know answers.
 */
export function lostBy(
  nodes: Iterable<LiveNode>,
  token: Token,
): { epoch: bigint; keptLsn: bigint } | undefined {
  const all = [...nodes];
  const epoch = primaryEpoch(all);
  for (const { view } of all) {
    if (!agrees(view, epoch) || view.history === undefined) continue;
    const keptLsn = surviving(token, view.history);
    if (keptLsn !== undefined && keptLsn < token.lsn) return { epoch, keptLsn };
  }
  return undefined;
}

function has(live: LiveNode, { minLsn, maxLagMs, token }: Wants, epoch: bigint): boolean {
  const { view, ageMs } = live;
  const { applied } = view.positions;
  if (minLsn > 0n && !(agrees(view, epoch) && applied >= minLsn)) return false;
  if (maxLagMs !== undefined) {
    const lagMs = isPrimary(view, epoch) ? 0 : agrees(view, epoch) ? view.lagMs : undefined;
    if (lagMs === undefined || lagMs + ageMs > maxLagMs) return false;
  }
  if (token === undefined) return true;
  if (!agrees(view, epoch) || applied < token.lsn) return false;
  if (token.lsn === 0n) return true;
  // One that does not tell its history, of an earlier version, can only be believed in the epoch of the token itself.
  if (view.history === undefined) return token.epoch === epoch;
  return (surviving(token, view.history) ?? -1n) >= token.lsn;
}

function isPrimary({ role, epoch }: NodeView, newest: bigint): boolean {
  return role === 'primary' && epoch === newest;
}

/** Whether the node's log is known to be, as far as it goes, that of the newest primary. */
function agrees(view: NodeView, epoch: bigint): boolean {
  if (view.history !== undefined) return view.history.at(-1)?.epoch === epoch;
  return isPrimary(view, epoch) || view.primary?.epoch === epoch;
}

/** By themselves, or by a node that knows of the newest primary: an older one takes all that have left it for lost. */
function distrustedNodes(all: readonly LiveNode[], epoch: bigint): Set<string> {
  const found = new Set<string>();
  for (const { view } of all)
    for (const { node } of view.distrusted ?? [])
      if (node === view.node || agrees(view, epoch)) found.add(node);
  return found;
}

/** A node is as near as the nearest one if it takes no more than half as long again, and this. */
const sameMs = 1;

function nearest(fit: readonly LiveNode[], near: Near | undefined): LiveNode[] {
  if (near === undefined || fit.length === 0) return [...fit];
  if (near === 'rtt') {
    const times = fit.map(({ roundTripMs = Number.POSITIVE_INFINITY }) => roundTripMs);
    const most = Math.min(...times) * 1.5 + sameMs;
    return fit.filter((_, i) => (times[i] as number) <= most);
  }
  const rank = ({ view }: LiveNode) => (near.includes(view.node) ? near.indexOf(view.node) : near.length);
  const best = Math.min(...fit.map(rank));
  return fit.filter((live) => rank(live) === best);
}

function byLoad(a: LiveNode, b: LiveNode): number {
  return a.outstanding - b.outstanding || a.chosenAt - b.chosenAt || (a.view.node < b.view.node ? -1 : 1);
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

/** A node that is asked at two addresses counts once. */
function uniqueNodes(nodes: readonly LiveNode[]): LiveNode[] {
  return [...new Map(nodes.map((live) => [live.view.node, live])).values()];
}

function targetOf({ http, view: { node } }: LiveNode, epoch: bigint, all: readonly LiveNode[]): Target {
  for (const { view } of all) {
    const known =
      view.primary?.node === node ? view.primary : view.members.find((member) => member.node === node);
    if (known) return { node, http, log: known.log, epoch };
  }
  return { node, http, epoch };
}

import type { CommitRule } from '../engine/options.js';
import type { Reign } from './coordinator/coordinator.js';

/** How far a log is: of two, the one with the newer epoch is ahead, and in the same epoch the longer one. */
export interface LogPlace {
  /** The newest epoch whose primary this log is known to agree with, up to where that epoch began or beyond. */
  readonly logEpoch: bigint;
  readonly lsn: bigint;
}

/**
 * Negative: `a` is behind `b`. The epoch comes first: bytes that an older primary appended and never committed may be
 * longer than what its successor committed (Ongaro, Ousterhout: In Search of an Understandable Consensus Algorithm, §5.4).
 */
export function comparePlaces(a: LogPlace, b: LogPlace): number {
  if (a.logEpoch !== b.logEpoch) return a.logEpoch < b.logEpoch ? -1 : 1;
  if (a.lsn !== b.lsn) return a.lsn < b.lsn ? -1 : 1;
  return 0;
}

/** A node's word not to acknowledge anything of an older epoch, and what it held when it gave it. */
export interface Promised extends LogPlace {
  readonly node: string;
  /**
   * Since its start this process has held, once, all that a primary had. Until then it may lack what the process before it
   * had in memory alone, and acknowledged.
   */
  readonly whole: boolean;
}

/** How many standbys have to reach a commit rule's level; 0 for `async`. */
export function standbysNeeded(rule: CommitRule): number {
  if (rule.level === 'async') return 0;
  return 'any' in rule ? rule.any : rule.first;
}

/** The standbys that count for a rule. The controller names them in every rule that it makes. */
export function standbysOf(rule: CommitRule): readonly string[] {
  return rule.level === 'async' ? [] : (rule.nodes ?? []);
}

/**
 * Whether `candidate` may begin a new epoch with these promises, its own among them, however the old primary is.
 *
 * - The old primary promised, too: it commits nothing more, and what it committed it holds itself: its log was part of
 *   every commit. At level `received`, or if its own disk does not count, that is so only while its process has lived on.
 * - Else as many of the rule's standbys as leave the old primary fewer than it needs (n − k + 1): they share at least one
 *   node with every set of k that ever acknowledged a commit of this reign. What stands in for members that have not
 *   registered is none of the n: it acknowledges nothing, and waiting for its promise would be waiting for ever.
 *
 * If none of them has the log up to where the reign began, nothing was committed in it with their help (its own primary may
 * have lost what it had taken over and not flushed), and it is the reign before that has to be satisfied, too.
 *
 * In all cases only promises of nodes that are not ahead of the candidate count: it then has all that they have.
 */
export function mayTakeOver(old: Reign, candidate: LogPlace, promises: Iterable<Promised>): boolean {
  const counting = [...promises].filter((promise) => comparePlaces(promise, candidate) <= 0);
  for (let reign: Reign | undefined = old; reign; reign = reign.previous) {
    const { node, rule, epoch } = reign;
    const valid = rule.level === 'received' ? counting.filter(({ whole }) => whole) : counting;
    const memoryOnly = rule.level !== 'async' && rule.ownDisk === false;
    if (!valid.some((promise) => promise.node === node && (promise.whole || !memoryOnly))) {
      const needed = promisesNeeded(rule);
      if (needed === undefined) return false;
      const names = registeredStandbysOf(rule);
      if (valid.filter((promise) => names.includes(promise.node)).length < needed) return false;
    }
    if (candidate.logEpoch >= epoch) return true;
  }
  return false;
}

/**
 * Promises of the rule's standbys that leave fewer than it needs; undefined if no number does (`async`). 0: the rule has
 * fewer nodes than it needs, and nothing was ever committed by it.
 */
export function promisesNeeded(rule: CommitRule): number | undefined {
  if (rule.level === 'async') return undefined;
  return Math.max(0, registeredStandbysOf(rule).length - standbysNeeded(rule) + 1);
}

/** Begins what stands in a rule for a member that has not registered yet: no node is called that. */
const unregistered = '.unregistered.';

/** Those of the rule that can acknowledge anything, and so promise. */
export function registeredStandbysOf(rule: CommitRule): readonly string[] {
  return standbysOf(rule).filter((node) => !node.startsWith(unregistered));
}

/**
 * Who counts for the primary's commits: of those that can be promoted the connected ones, as long as they are enough;
 * so that the loss of a standby does not weaken the promise that what is committed survives the loss of the primary.
 * With too few, those of before stay, and commits wait.
 *
 * @param base the rule as configured; its `nodes`, if it has some, are the only ones that may count
 * @param eligible members that can be promoted, without the primary
 * @param connected of these, those that hold the primary's log in its epoch
 * @param before who counts at present
 */
export function chooseStandbys(
  base: CommitRule,
  eligible: readonly string[],
  connected: ReadonlySet<string>,
  before: readonly string[],
): readonly string[] {
  if (base.level === 'async') return [];
  const allowed = base.nodes === undefined ? eligible : base.nodes.filter((node) => eligible.includes(node));
  const there = allowed.filter((node) => connected.has(node));
  const needed = standbysNeeded(base);
  if (there.length >= needed) return 'first' in base ? there.slice(0, needed).sort() : [...there].sort();
  const chosen = [...new Set([...before.filter((node) => allowed.includes(node)), ...there])].sort();
  // A rule that asks for more than there are members is met by nobody until they have registered.
  for (let i = 1; chosen.length < needed; i++) chosen.push(`${unregistered}${i}`);
  return chosen;
}

/** The configured rule over these standbys. `first k` becomes `any k` of the k that are first at present. */
export function ruleOver(base: CommitRule, nodes: readonly string[]): CommitRule {
  if (base.level === 'async') return base;
  const { level, ownDisk } = base;
  return { level, any: standbysNeeded(base), nodes, ...(ownDisk !== undefined && { ownDisk }) };
}

/** What of a record its successor has to remember. An `async` reign has nothing that could be lost in silence. */
export function reignOf(record: Reign): Reign {
  const { node, epoch, rule, previous } = record;
  return { node, epoch, rule, ...(previous && { previous }) };
}

import type { PageCopy } from '../engine/native.js';

/** What one node has of a page and of the pages on both sides of it. */
export interface Holder {
  /** Its node id. */
  readonly node: string;
  /** On its disk. */
  readonly disk: PageCopy;
  /** In its memory; known of the own node alone. */
  readonly memory?: PageCopy;
  readonly before?: PageCopy;
  readonly after?: PageCopy;
}

/** Where a good copy is. */
export interface Source {
  readonly node: string;
  readonly from: 'disk' | 'memory';
}

export type Decision =
  /** The disk's copy is as it has to be. */
  | { readonly verdict: 'healthy' }
  /** It is not; these have the right one, `sum` is its checksum. */
  | {
      readonly verdict: 'repair';
      readonly why: string;
      readonly sum: bigint;
      readonly sources: readonly Source[];
    }
  /** It is not, or may not be, and no copy can be proved right: nothing is written. */
  | { readonly verdict: 'isolate'; readonly why: string };

export interface PageFacts {
  /** The node whose disk is judged. */
  readonly own: Holder;
  readonly neighbours: readonly Holder[];
  /** Every byte below was committed. */
  readonly committedLsn: bigint;
}

/**
 * Which copy of a page is right, and what is to be done with the one on the own disk.
 *
 * A copy is a candidate if it verifies and continues, on both sides, what somebody has there in good order; where nobody
 * has, that side says nothing. As every frame includes the checksum of the one before, a candidate that is followed by a
 * good page is that page's only possible past. Own good copies are never replaced: if others have another one, that is no
 * damage of a disk, and nobody can tell here who is right.
 */
export function decide({ own, neighbours, committedLsn }: PageFacts): Decision {
  const holders = [own, ...neighbours];
  const candidates = candidatesOf(holders);
  const [best, ...others] = [...candidates.values()].sort((x, y) => y.nodes.size - x.nodes.size);
  const mine = own.disk.state === 'good' ? candidates.get(own.disk.sum) : undefined;
  if (mine) {
    if (candidates.size === 1) return { verdict: 'healthy' };
    const against = [...candidates.values()]
      .filter((each) => each !== mine)
      .flatMap((each) => [...each.nodes]);
    return {
      verdict: 'isolate',
      why: `the page verifies here, and so does another one on ${listed(against)}: their logs differ`,
    };
  }
  const why = whatIsWrong(own.disk);
  if (best === undefined) return { verdict: 'isolate', why: `${why}, and ${nobody(holders)}` };
  if (others.length > 0) {
    const voters = new Set([...candidates.values()].flatMap((each) => [...each.nodes])).size;
    if (best.nodes.size * 2 <= voters)
      return {
        verdict: 'isolate',
        why: `${why}, and the others have different good pages, none of them most`,
      };
    if (best.endLsn > committedLsn)
      return {
        verdict: 'isolate',
        why: `${why}, and the others have different good pages, not committed yet`,
      };
  }
  return { verdict: 'repair', why, sum: best.sum, sources: best.sources };
}

interface Candidate {
  readonly sum: bigint;
  readonly endLsn: bigint;
  readonly sources: Source[];
  readonly nodes: Set<string>;
}

/** Good copies that fit their surroundings, by checksum. Those of the own node come first among the sources. */
function candidatesOf(holders: readonly Holder[]): Map<bigint, Candidate> {
  const before = holders.flatMap(({ before }) => (before?.state === 'good' ? [before] : []));
  const after = holders.flatMap(({ after }) => (after?.state === 'good' ? [after] : []));
  const found = new Map<bigint, Candidate>();
  for (const { node, disk, memory } of holders) {
    for (const [from, copy] of [['memory', memory] as const, ['disk', disk] as const]) {
      if (copy?.state !== 'good') continue;
      if (before.length > 0 && !before.some((page) => follows(page, copy))) continue;
      if (after.length > 0 && !after.some((page) => follows(copy, page))) continue;
      const candidate = found.get(copy.sum) ?? {
        sum: copy.sum,
        endLsn: copy.endLsn,
        sources: [],
        nodes: new Set(),
      };
      candidate.sources.push({ node, from });
      candidate.nodes.add(node);
      found.set(copy.sum, candidate);
    }
  }
  return found;
}

/** Whether the second page continues the first one. */
export function follows(first: PageCopy, second: PageCopy): boolean {
  return second.firstLsn === first.endLsn && second.parent === first.endChecksum;
}

function whatIsWrong({ state }: PageCopy): string {
  switch (state) {
    case 'absent':
      return 'the page is missing';
    case 'damaged':
      return 'the page does not verify';
    case 'stale':
      return 'the page is of an epoch that the log is not in there';
    case 'good':
      return 'the page does not continue those beside it';
  }
}

function nobody(holders: readonly Holder[]): string {
  const others = holders.slice(1).map(({ node }) => node);
  if (others.length === 0) return 'no other node can be asked';
  return `no good copy of it is in memory here or on ${listed(others)}`;
}

function listed(nodes: readonly string[]): string {
  return [...new Set(nodes)].map((node) => `'${node}'`).join(', ');
}

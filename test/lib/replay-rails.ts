// Plays a node's journal back against what was done to its rails and what was seen of them: pure, of what was found.
import type { JournalEntry } from '../../src/consistency/journal.js';
import { timeOf } from '../../src/failover/clock.js';

/** What was done to a rail, or said about it, by the clock of the host, in ms. */
export interface RailDeed {
  readonly kind: 'cut' | 'pinned' | 'excluded';
  /** A part of the rail's name: its address. */
  readonly rail: string;
  readonly at: number;
  readonly until: number;
}

/** The node's own word on what carries its link, asked for and given in this time. */
export interface RailsSeen {
  readonly carries: readonly string[];
  readonly from: number;
  readonly until: number;
}

/** The data plane shows its state anew so often, and a move is some round trips. */
const slackMs = 100;

interface Change {
  readonly line: JournalEntry;
  readonly at: number;
  readonly from: readonly string[];
  readonly to: readonly string[];
}

const railsOf = (text: unknown): string[] => String(text).split(' + ').sort();
const same = (one: readonly string[], other: readonly string[]) => one.join() === other.join();
const shown = (change: Change) => `${change.line.message} (line ${change.line.seq})`;

/** @returns what the journal does not explain of the rails, in words; empty if it tells all of it */
export function unexplainedRails(
  journal: readonly JournalEntry[],
  deeds: readonly RailDeed[],
  seen: readonly RailsSeen[],
): string[] {
  const changes = journal
    .filter(({ event }) => event === 'rail-changed')
    .map((line): Change => {
      const { from, to } = line.facts ?? {};
      return { line, at: timeOf(line.clock).getTime(), from: railsOf(from), to: railsOf(to) };
    });
  return [...chain(changes), ...reasons(changes, deeds), ...answers(changes, deeds), ...looks(changes, seen)];
}

/** Every change begins where the one before ended. */
function* chain(changes: readonly Change[]): Iterable<string> {
  for (const [index, change] of changes.entries()) {
    const before = changes[index - 1];
    if (before && !same(before.to, change.from))
      yield `${shown(change)} does not begin where ${shown(before)} ended`;
    if (before && before.at > change.at) yield `${shown(change)} stands before its cause`;
  }
}

/** Every change has a cause among what was done, or says what the dispatcher saw. */
function* reasons(changes: readonly Change[], deeds: readonly RailDeed[]): Iterable<string> {
  for (const change of changes) {
    const left = change.from.filter((rail) => !change.to.includes(rail));
    const cut = deeds.some(
      ({ kind, rail, at, until }) =>
        kind === 'cut' &&
        change.from.some((name) => name.includes(rail)) &&
        at - slackMs <= change.at &&
        change.at <= until + slackMs,
    );
    const said =
      /(degraded: |is excluded$|pinned.* has been well for |: striped$|has been well for |is up again$)/.test(
        change.line.message,
      );
    if (!cut && !said && left.length > 0) yield `${shown(change)} has no reason`;
  }
}

/** Everything that was done to a rail in use was answered by a change. */
function* answers(changes: readonly Change[], deeds: readonly RailDeed[]): Iterable<string> {
  for (const { kind, rail, at, until } of deeds) {
    const answered = changes.some((change) => {
      const [was, is] = [change.from, change.to].map((names) => names.some((name) => name.includes(rail)));
      const wanted = kind === 'pinned' ? is : was && !is;
      return wanted && at - slackMs <= change.at && change.at <= until + slackMs;
    });
    if (!answered) yield `${rail} was ${kind} at ${at}, and nothing changed until ${until}`;
  }
}

/** What was seen at any time is what the journal says for then. */
function* looks(changes: readonly Change[], seen: readonly RailsSeen[]): Iterable<string> {
  const first = changes[0];
  if (!first) return;
  for (const { carries, from, until } of seen) {
    const past = changes.findLast(({ at }) => at < from - slackMs);
    const possible = [
      past?.to ?? first.from,
      ...changes.filter(({ at }) => at >= from - slackMs && at <= until + slackMs).map(({ to }) => to),
    ];
    if (!possible.some((rails) => same(rails, [...carries].sort())))
      yield `${carries.join(' + ')} seen between ${from} and ${until}, where the journal has ${possible.map((one) => one.join(' + ')).join(' or ')}`;
  }
}

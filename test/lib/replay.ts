// Plays the merged journal of a cluster back against what was done to it and what was seen of it: pure, of what was found.
import type { JournalEntry } from '../../src/consistency/journal.js';
import { timeOf } from '../../src/failover/clock.js';

/** What was done to a node, by the clock of the host, in ms. The last one of each kind may lack its end. */
export type Deed = { readonly node: string; readonly at: number; readonly until: number } & (
  | { readonly kind: 'start' | 'kill' }
  /** SIGSTOP to SIGCONT; the other controllers had lost it by then. */
  | { readonly kind: 'stop' }
  /** From its wire cut to the wire mended; the other controllers had lost it by then. */
  | { readonly kind: 'cut' }
  /** It was asked to hand over to `to`, and said that it has. */
  | { readonly kind: 'switchover'; readonly to: string }
);

/** A node's own word on its role, asked for and given in this time. */
export interface Seen {
  readonly node: string;
  readonly role: 'primary' | 'standby';
  readonly from: number;
  readonly until: number;
}

export interface Done {
  readonly deeds: readonly Deed[];
  readonly seen: readonly Seen[];
}

/** A kind of thing that a journal has to explain; gives what it does not, in words. */
export type Rule = (play: Play) => Iterable<string>;

/** @returns what the journal does not explain; empty if it tells all of it, in causal order */
export function unexplained(
  journal: readonly JournalEntry[],
  done: Done,
  rules: readonly Rule[] = allRules,
): string[] {
  const play = new Play(journal, done);
  return rules.flatMap((rule) => [...rule(play)]);
}

const attempts: ReadonlySet<string> = new Set(['election', 'takes-over', 'begins']);
const ends: ReadonlySet<string> = new Set(['deposed', 'handed-over', 'starting']);

const factOf = ({ facts }: JournalEntry, name: string): string => String(facts?.[name] ?? '');
const epochOf = (line: JournalEntry): bigint => BigInt(factOf(line, 'epoch') || '0');
const isReign = (line: JournalEntry) => line.event === 'role' && factOf(line, 'role') === 'primary';
const at = ({ clock }: JournalEntry): number => timeOf(clock).getTime();

/** A journal in its order, and what was done. */
export class Play {
  readonly lines: readonly JournalEntry[];
  readonly done: Done;
  readonly nodes: readonly string[];
  readonly #place: ReadonlyMap<JournalEntry, number>;

  constructor(lines: readonly JournalEntry[], done: Done) {
    this.lines = lines;
    this.done = done;
    this.nodes = [...new Set(lines.map(({ node }) => node))].sort();
    this.#place = new Map(lines.map((line, index) => [line, index]));
  }

  placeOf(line: JournalEntry): number {
    return this.#place.get(line) as number;
  }

  of(node: string): readonly JournalEntry[] {
    return this.lines.filter((line) => line.node === node);
  }

  /** The last line before `line` that is meant. */
  before(
    line: JournalEntry,
    meant: (earlier: JournalEntry) => boolean,
    ownOnly = true,
  ): JournalEntry | undefined {
    for (let index = this.placeOf(line) - 1; index >= 0; index--) {
      const earlier = this.lines[index] as JournalEntry;
      if ((!ownOnly || earlier.node === line.node) && meant(earlier)) return earlier;
    }
    return undefined;
  }

  /** The same, of the same process, and after what `unless` means. */
  beforeIn(
    line: JournalEntry,
    meant: (earlier: JournalEntry) => boolean,
    unless: (earlier: JournalEntry) => boolean = () => false,
  ): JournalEntry | undefined {
    const found = this.before(
      line,
      (earlier) => meant(earlier) || earlier.event === 'starting' || unless(earlier),
    );
    return found && meant(found) ? found : undefined;
  }

  /** The node's own next line that is meant. */
  after(line: JournalEntry, meant: (later: JournalEntry) => boolean): JournalEntry | undefined {
    return this.lines.slice(this.placeOf(line) + 1).find((later) => later.node === line.node && meant(later));
  }

  /** Whether anything was being done to the node in this time. */
  hindered(node: string, from: number, until: number): boolean {
    return this.done.deeds.some(
      (deed) =>
        deed.node === node && deed.kind !== 'switchover' && deed.at <= until && this.endOf(deed) >= from,
    );
  }

  /** A killed node is gone until it has been started again. */
  endOf(deed: Deed): number {
    if (deed.kind !== 'kill') return deed.until;
    const start = this.done.deeds.find(
      ({ kind, node, at }) => kind === 'start' && node === deed.node && at >= deed.at,
    );
    return start?.until ?? Number.POSITIVE_INFINITY;
  }

  /** Whether `node` has its connection with the controller of `other` at that time, by its own lines. */
  hears(node: string, other: string, time: number): boolean {
    const last = this.of(node).findLast(
      (line) =>
        at(line) <= time &&
        (line.event === 'starting' ||
          (/^peer-(up|down)$/.test(line.event) && factOf(line, 'node') === other)),
    );
    return last?.event === 'peer-up';
  }
}

/** No line is missing, and every node's stand in their order. */
function* numbered({ lines, nodes }: Play): Iterable<string> {
  for (const [index, line] of lines.entries()) {
    const before = lines[index - 1];
    if (before && before.clock > line.clock)
      yield `line ${index} of ${line.node} is not in the order of time`;
  }
  for (const node of nodes) {
    for (const [index, { seq }] of lines.filter((line) => line.node === node).entries())
      if (seq !== index + 1) yield `${node}: line ${seq} stands where line ${index + 1} should`;
  }
}

/** Whoever was elected stood for it, and why; had the promises that it names, each from before; and reigned then. */
function* elections(play: Play): Iterable<string> {
  let newest = 0n;
  for (const line of play.lines) {
    if (line.event !== 'elected') continue;
    const epoch = epochOf(line);
    const what = `${line.node}, elected in epoch ${epoch}`;
    if (epoch <= newest) yield `${what}: after epoch ${newest}`;
    newest = epoch;
    const attempt = play.beforeIn(
      line,
      ({ event }) => attempts.has(event),
      ({ event }) => event === 'elected',
    );
    const given = play.lines.some(
      (other) =>
        other.event === 'handed-over' && factOf(other, 'to') === line.node && epochOf(other) === epoch,
    );
    if (!attempt || (given && attempt.event !== 'takes-over')) yield `${what}: it never stood`;
    else yield* standing(play, attempt, epoch, what);
    for (const name of factOf(line, 'promises').split(',')) {
      const promise = play.before(
        line,
        (earlier) => earlier.node === name && earlier.event === 'promised' && epochOf(earlier) === epoch,
        false,
      );
      if (!promise) yield `${what}: ${name} had not promised`;
    }
    const next = play.after(
      line,
      (later) => isReign(later) || ['waiting', 'starting', 'promised'].includes(later.event),
    );
    if (next?.event === 'role' && epochOf(next) !== epoch) yield `${what}: reigns in epoch ${epochOf(next)}`;
    if (!next && !play.hindered(line.node, at(line), Number.POSITIVE_INFINITY))
      yield `${what}: does not reign`;
  }
  for (const line of play.lines.filter(isReign)) {
    const elected = ({ event, facts }: JournalEntry) =>
      event === 'elected' && facts?.['epoch'] === line.facts?.['epoch'];
    if (!play.beforeIn(line, elected))
      yield `${line.node} reigns in epoch ${epochOf(line)}: it was not elected`;
  }
}

function* standing(play: Play, attempt: JournalEntry, epoch: bigint, what: string): Iterable<string> {
  const first = !play.before(attempt, ({ event }) => event === 'elected', false);
  switch (attempt.event) {
    case 'begins':
      if (!first) yield `${what}: begins a cluster that was there`;
      return;
    case 'takes-over': {
      if (epochOf(attempt) !== epoch) yield `${what}: took over for epoch ${epochOf(attempt)}`;
      const from = factOf(attempt, 'from');
      const given = play.before(
        attempt,
        (line) =>
          line.event === 'handed-over' &&
          line.node === from &&
          factOf(line, 'to') === attempt.node &&
          epochOf(line) === epoch,
        false,
      );
      if (!given) yield `${what}: ${from} had not handed over`;
      return;
    }
  }
  const since = ({ event }: JournalEntry) => event === 'elected';
  switch (factOf(attempt, 'cause')) {
    case 'lost': {
      const lost = play.beforeIn(attempt, ({ event }) => event === 'primary-lost', since);
      if (!lost) yield `${what}: stood, but had not lost the primary`;
      else if (!play.lines.some((line) => line.event === 'elected' && sameReign(line, lost)))
        yield `${what}: lost ${factOf(lost, 'node')}, who was not primary in epoch ${epochOf(lost)}`;
      return;
    }
    case 'asked': {
      const by = factOf(attempt, 'by');
      if (!play.before(attempt, (line) => line.node === by && line.event === 'election', false))
        yield `${what}: ${by}, who asked it to stand, had not stood`;
      return;
    }
    case 'new-epoch':
      if (!play.beforeIn(attempt, ({ event }) => event === 'new-epoch', since))
        yield `${what}: needed no new epoch`;
      return;
    default:
      yield `${what}: nobody had asked for it (${factOf(attempt, 'cause')})`;
  }
}

const sameReign = (elected: JournalEntry, lost: JournalEntry) =>
  elected.node === factOf(lost, 'node') && epochOf(elected) === epochOf(lost);

/** Every reign but the last has an end, and every end a reign; somebody has promised, or been elected, for what comes next. */
function* reignsEnd(play: Play): Iterable<string> {
  const reigns = play.lines.filter(isReign);
  for (const reign of reigns.slice(0, -1)) {
    const end = play.after(reign, (line) => ends.has(line.event) || isReign(line));
    const what = `${reign.node}, primary in epoch ${epochOf(reign)}`;
    if (!end) {
      const dead = play.done.deeds.some(
        (deed) =>
          deed.kind === 'kill' && deed.node === reign.node && play.endOf(deed) === Number.POSITIVE_INFINITY,
      );
      if (!dead) yield `${what}: its reign has no end`;
    } else if (isReign(end)) yield `${what}: its reign has no end, and it begins another one`;
  }
  for (const line of play.lines) {
    if (line.event !== 'deposed' && line.event !== 'handed-over') continue;
    const reign = play.beforeIn(line, isReign, ({ event }) => ends.has(event));
    const what = `${line.node}, ${line.event} with epoch ${epochOf(line)}`;
    if (!reign) yield `${what}: it was not primary`;
    else if (line.event === 'deposed') {
      if (epochOf(reign) !== epochOf(line)) yield `${what}: it was primary in epoch ${epochOf(reign)}`;
      const newer = (other: JournalEntry) =>
        (other.event === 'elected' || (other.event === 'promised' && other.node === line.node)) &&
        epochOf(other) > epochOf(line);
      if (!play.lines.some(newer)) yield `${what}: nothing newer came`;
    } else {
      const begun = play.beforeIn(line, ({ event }) => event === 'switchover', isReign);
      if (!begun || factOf(begun, 'to') !== factOf(line, 'to')) yield `${what}: no switchover was begun`;
      const promise = play.beforeIn(line, ({ event }) => event === 'promised', isReign);
      if (!promise || epochOf(promise) !== epochOf(line)) yield `${what}: it had promised nothing`;
    }
  }
}

/** What is lost had been there, and comes back before it is lost again. */
function* connections(play: Play): Iterable<string> {
  for (const line of play.lines) {
    const state = /^peer-(up|down)$/.exec(line.event)?.[1];
    if (state === undefined) continue;
    const other = factOf(line, 'node');
    const last = play.beforeIn(
      line,
      ({ event, facts }) => /^peer-(up|down)$/.test(event) && facts?.['node'] === other,
    );
    if ((last?.event ?? 'peer-down') === line.event) yield `${line.node}: ${line.message}, and was so before`;
  }
}

/** Nobody takes over from a primary to which nothing was done, and that did not stand still. */
function* causes(play: Play): Iterable<string> {
  const reigns = play.lines.filter(({ event }) => event === 'elected');
  for (const [index, elected] of reigns.entries()) {
    const old = reigns[index - 1];
    if (!old || play.after(old, (line) => line.event === 'handed-over' && epochOf(line) === epochOf(elected)))
      continue;
    const attempt = play.beforeIn(elected, ({ event }) => attempts.has(event));
    if (attempt && ['new-epoch', 'command'].includes(factOf(attempt, 'cause'))) continue;
    const stoodStill = play.lines.some(
      (line) =>
        line.event === 'stood-still' &&
        [old.node, elected.node].includes(line.node) &&
        at(line) >= at(old) &&
        at(line) - Number(factOf(line, 'ms')) <= at(elected),
    );
    if (!stoodStill && !play.hindered(old.node, at(old), at(elected)))
      yield `${elected.node}, elected in epoch ${epochOf(elected)}: nothing was wrong with ${old.node}`;
  }
}

/** What was done is there, with what the others saw of it. */
function* deeds(play: Play): Iterable<string> {
  const { done, nodes, lines } = play;
  for (const deed of done.deeds) {
    const { kind, node } = deed;
    const what = `${node}: ${kind} at ${new Date(deed.at).toISOString()}`;
    const until = play.endOf(deed);
    const own = play.of(node);
    switch (kind) {
      case 'start': {
        const starting = own.find(
          (line) => line.event === 'starting' && at(line) >= deed.at && at(line) <= until,
        );
        if (!starting) yield `${what}: it does not say so`;
        else if (!play.after(starting, (line) => line.event === 'follow' || isReign(line)))
          yield `${what}: it neither follows nor reigns`;
        continue;
      }
      case 'switchover': {
        const given = own.find(
          (line) =>
            line.event === 'handed-over' &&
            factOf(line, 'to') === deed.to &&
            at(line) >= deed.at &&
            at(line) <= until,
        );
        if (!given) yield `${what}: it has not handed over`;
        const reign = play
          .of(deed.to)
          .find((line) => isReign(line) && at(line) >= deed.at && at(line) <= until);
        if (!reign) yield `${what}: ${deed.to} does not reign then`;
        continue;
      }
      case 'kill': {
        const next = own.find((line) => at(line) > deed.until);
        if (next && next.event !== 'starting') yield `${what}: it goes on: ${next.event}`;
        break;
      }
      case 'stop': {
        const still = own.find((line) => line.event === 'stood-still' && at(line) >= until);
        const ms = still ? Number(factOf(still, 'ms')) : 0;
        if (!still || ms < until - deed.at - 1) yield `${what}: it does not say that it stood still so long`;
        else if (at(still) - ms > until) yield `${what}: it says that it stood still at another time`;
        break;
      }
    }
    // Just before it came back nobody heard it, nor, behind a cut wire, it anybody.
    const back = kind === 'kill' ? startOf(deed, done) : until;
    for (const other of nodes) {
      if (other === node || play.hindered(other, deed.at, back)) continue;
      if (play.hears(other, node, back)) yield `${what}: ${other} did not notice`;
      if (kind === 'cut' && play.hears(node, other, back))
        yield `${what}: it did not notice that ${other} is gone`;
    }
  }
  const starts = done.deeds.filter(({ kind }) => kind === 'start').length;
  const told = lines.filter(({ event }) => event === 'starting').length;
  if (told !== starts) yield `${starts} starts, and the journal tells of ${told}`;
  const gone = new Set(
    nodes.filter((node) => play.hindered(node, Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER)),
  );
  for (const node of nodes)
    for (const other of nodes)
      if (
        node !== other &&
        !gone.has(node) &&
        !gone.has(other) &&
        !play.hears(node, other, Number.MAX_SAFE_INTEGER)
      )
        yield `${node} does not say that ${other} came back`;
}

function startOf(kill: Deed, { deeds }: Done): number {
  const start = deeds.find(({ kind, node, at }) => kind === 'start' && node === kill.node && at >= kill.at);
  return start?.at ?? Number.MAX_SAFE_INTEGER;
}

/** A node had the role that it was seen in, by its own lines, at some time in which it was asked. */
function* roles(play: Play): Iterable<string> {
  const spans = new Map(play.nodes.map((node) => [node, rolesOf(play, node)]));
  for (const { node, role, from, until } of play.done.seen) {
    const span = spans
      .get(node)
      ?.find((each) => each.role === role && each.from <= until && each.until >= from);
    if (!span)
      yield `${node} was seen as ${role} at ${new Date(from).toISOString()}: its journal does not say so`;
  }
}

/** The node's roles, one after the other, by its own lines. */
export function rolesOf(play: Play, node: string): Seen[] {
  const spans: Seen[] = [];
  let role: Seen['role'] = 'standby';
  let from = 0;
  const change = (to: Seen['role'], time: number) => {
    spans.push({ node, role, from, until: time });
    [role, from] = [to, time];
  };
  for (const line of play.of(node)) {
    if (isReign(line)) change('primary', at(line));
    else if (ends.has(line.event)) change('standby', at(line));
  }
  change(role, Number.MAX_SAFE_INTEGER);
  return spans;
}

/** Of each kind of thing that a journal has to explain. What else a journal tells, such as rails, gets a rule of its own. */
export const allRules: readonly Rule[] = [numbered, elections, reignsEnd, connections, causes, deeds, roles];

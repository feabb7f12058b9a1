/**
 * Which rails carry the link to the upstream: a pure decision from what is known of each of them. It has no timer, no
 * socket and no clock; {@link RailKeeper} gives it those, and the simulation of the tests its own.
 *
 * What is preferred, in this order: what an operator has pinned; rails that are well over degraded ones; RDMA over TCP;
 * near (the same subnet) over far; faster over slower.
 * Rails that are equal in all of this are striped.
 *
 * So that it does not flap:
 * - a rail is *degraded* when its round trip has been out of band for `degradeMs`: longer than `bandFactor` times that of
 *   the best rail that is up plus `bandMs`, or when it loses packets; and well again only after `returnMs` below half of that
 *   band: it may be well only because it was left;
 * - a rail that is better than the one in use gets it only after it has been well for `returnMs`; after each time that it
 *   was left because it failed or degraded for twice as long, up to 64 times, and one doubling less for every five minutes
 *   that it is well (the exponential hold-down of route flap damping, RFC 2439);
 * - a rail in use that is gone or degraded is left at once.
 */

/** What is known of one rail to the upstream. */
export interface RailFacts {
  readonly name: string;
  readonly transport: 'tcp' | 'verbs';
  /** In a subnet that this host is in, too. */
  readonly near: boolean;
  /** Of the slower end; 0: not known. */
  readonly speedMbps: number;
  /** A spare link is kept over it. False for the way that was given by hand, if the upstream does not tell of it. */
  readonly planned: boolean;
  /** Excluded by an operator, and still in use. */
  readonly unwanted: boolean;
  /** The session goes over it. */
  readonly carries: boolean;
  /** A link beside the session's is up, and is probed. */
  readonly spare: boolean;
  /** Median of the last probes that count. */
  readonly roundTripUs?: number | undefined;
  /** How often a link over it has failed that carried the session. */
  readonly failures: number;
  /** Packets sent again so far. */
  readonly retransmits: number;
  /** Why there is no link. */
  readonly problem?: string | undefined;
}

export interface DispatchSettings {
  /** Use these rails only, as long as one of them is up; `*` stands for anything. */
  readonly pin: readonly string[];
  readonly stripe: boolean;
  readonly bandFactor: number;
  readonly bandMs: number;
  /** Packets sent again a second beyond which a rail is degraded. */
  readonly lossPerSecond: number;
  readonly degradeMs: number;
  readonly returnMs: number;
}

interface RailState {
  readonly upSinceMs?: number | undefined;
  readonly roundTripUs?: number | undefined;
  readonly retransmits: number;
  readonly lookedMs: number;
  readonly lossPerSecond: number;
  readonly outOfBandSinceMs?: number | undefined;
  readonly degraded: string;
  /** Degraded, and in band since then. */
  readonly fineSinceMs?: number | undefined;
  readonly failures: number;
  /** Up and not degraded since then. */
  readonly wellSinceMs?: number | undefined;
  /** Doublings of `returnMs`. */
  readonly penalty: number;
  readonly penaltyAtMs: number;
}

export interface DispatchState {
  readonly rails: ReadonlyMap<string, RailState>;
}

/** A rail, and why it has the part that it has. */
export interface RailVerdict {
  readonly name: string;
  readonly part: 'carries' | 'spare' | 'down';
  readonly why: string;
}

export interface Dispatch {
  readonly state: DispatchState;
  /** By preference: for when what carries the session fails between two looks. */
  readonly order: readonly string[];
  /** What is to carry the session; empty: nothing that could is up. */
  readonly carry: readonly string[];
  /** Of a change of `carry`. */
  readonly why: string;
  readonly verdicts: readonly RailVerdict[];
}

export const noDispatch: DispatchState = { rails: new Map() };
/** As many as the data plane can bundle. */
export const lanesMax = 4;
const penaltyMax = 6;
const penaltyEveryMs = 5 * 60_000;

const shownMs = (us: number) =>
  us < 1000 ? `${Math.round(us)} µs` : `${(us / 1000).toFixed(us < 10_000 ? 1 : 0)} ms`;
const shownS = (ms: number) => `${(ms / 1000).toFixed(ms < 10_000 ? 1 : 0)} s`;
const isUp = (rail: RailFacts) => rail.spare || rail.carries;

/** `*` stands for any characters; everything else for itself. */
export function matchesRail(pattern: string, name: string): boolean {
  const parts = pattern.split('*').map((part) => part.replace(/[.+?^${}()|[\]\\]/g, '\\$&'));
  return new RegExp(`^${parts.join('.*')}$`).test(name);
}

export function dispatch(
  before: DispatchState,
  facts: readonly RailFacts[],
  nowMs: number,
  settings: DispatchSettings,
): Dispatch {
  const measured = new Map(
    facts.map((rail) => [rail.name, measure(before.rails.get(rail.name), rail, nowMs)]),
  );
  const rails = new Map(
    facts.map((rail) => {
      const known = measured.get(rail.name) as RailState;
      return [rail.name, judge(known, rail, bandOf(rail, facts, measured, settings), nowMs, settings)];
    }),
  );
  const stateOf = (rail: RailFacts) => rails.get(rail.name) as RailState;

  const pinned = (rail: RailFacts) => settings.pin.some((pattern) => matchesRail(pattern, rail.name));
  const noGood = (rail: RailFacts) => rail.unwanted || stateOf(rail).degraded !== '';
  const rank = (rail: RailFacts) => [
    rail.unwanted ? 1 : 0,
    pinned(rail) ? 0 : 1,
    stateOf(rail).degraded ? 1 : 0,
    rail.transport === 'verbs' ? 0 : 1,
    rail.near ? 0 : 1,
    -rail.speedMbps,
  ];
  const compare = (a: RailFacts, b: RailFacts) => {
    const [left, right] = [rank(a), rank(b)];
    const at = left.findIndex((value, index) => value !== right[index]);
    return at < 0 ? 0 : (left[at] as number) - (right[at] as number);
  };
  const sorted = [...facts].sort((a, b) => compare(a, b) || a.name.localeCompare(b.name));
  const up = sorted.filter(isUp);

  const now = facts.filter((rail) => rail.carries);
  const hold = (rail: RailFacts) => settings.returnMs * 2 ** stateOf(rail).penalty;
  const wellFor = (rail: RailFacts) => nowMs - (stateOf(rail).wellSinceMs ?? nowMs);
  // What carries the session may be left for nothing better than itself; what does not must have been well for a while,
  // unless what carries it is no good.
  const inTrouble = now.length === 0 || now.some(noGood);
  const eligible = up.filter((rail) => rail.carries || inTrouble || wellFor(rail) >= hold(rail));
  const best = eligible[0];
  const equals = best === undefined ? [] : eligible.filter((rail) => compare(rail, best) === 0);
  const lanes =
    settings.stripe && best && !noGood(best) ? equals.filter((rail) => rail.planned).slice(0, lanesMax) : [];
  const choice = lanes.length > 1 ? lanes : best === undefined ? [] : [preferUsed(equals)];
  const carry = choice.map((rail) => rail.name).sort();

  const changed = carry.join() !== [...now.map((rail) => rail.name)].sort().join();
  return {
    state: { rails },
    order: sorted.map((rail) => rail.name),
    carry,
    why: changed ? reasonOf(now, choice) : '',
    verdicts: sorted.map((rail) => ({ name: rail.name, ...verdictOf(rail) })),
  };

  /** Of equal ones the one in use stays. */
  function preferUsed(candidates: readonly RailFacts[]): RailFacts {
    return candidates.find((rail) => rail.carries) ?? (candidates[0] as RailFacts);
  }

  function reasonOf(old: readonly RailFacts[], next: readonly RailFacts[]): string {
    const unwanted = old.find((rail) => rail.unwanted);
    if (unwanted) return `${unwanted.name} is excluded`;
    const troubled = old.find((rail) => stateOf(rail).degraded);
    if (troubled) return stateOf(troubled).degraded;
    const first = next[0];
    if (first === undefined) return 'no rail is up';
    if (next.length > 1) return `${next.length} equal rails are well: striped`;
    return `${qualityOf(first)} has been well for ${shownS(wellFor(first))}`;
  }

  function qualityOf(rail: RailFacts): string {
    return [
      ...(pinned(rail) ? ['pinned'] : []),
      rail.transport === 'verbs' ? 'RDMA' : 'TCP',
      rail.near ? 'near' : 'far',
      ...(rail.speedMbps > 0 ? [`${rail.speedMbps / 1000} Gbit/s`] : []),
    ].join(', ');
  }

  function verdictOf(rail: RailFacts): Omit<RailVerdict, 'name'> {
    const quality = qualityOf(rail);
    const state = stateOf(rail);
    if (!isUp(rail)) return { part: 'down', why: rail.problem ?? 'being connected' };
    const trouble = state.degraded ? `; ${state.degraded}` : '';
    if (rail.carries) {
      const lane = now.length > 1 ? `, one of ${now.length} lanes` : '';
      return { part: 'carries', why: `${quality}${lane}${trouble}` };
    }
    if (trouble) return { part: 'spare', why: `${quality}${trouble}` };
    const first = now[0];
    if (first && compare(rail, first) < 0 && wellFor(rail) < hold(rail)) {
      return {
        part: 'spare',
        why: `${quality}; well for ${shownS(wellFor(rail))} of ${shownS(hold(rail))}`,
      };
    }
    return { part: 'spare', why: quality };
  }
}

function measure(known: RailState | undefined, rail: RailFacts, nowMs: number): RailState {
  const fresh: RailState = {
    upSinceMs: undefined,
    retransmits: rail.retransmits,
    lookedMs: nowMs,
    lossPerSecond: 0,
    degraded: '',
    failures: rail.failures,
    penalty: known?.penalty ?? 0,
    penaltyAtMs: known?.penaltyAtMs ?? nowMs,
    ...(known && rail.failures > known.failures && punished(known, nowMs)),
  };
  if (!isUp(rail)) return fresh;
  // Its link was lost under the session: it begins anew, whatever a spare one says.
  if (known && rail.failures > known.failures)
    return { ...fresh, upSinceMs: nowMs, roundTripUs: rail.roundTripUs, wellSinceMs: nowMs };
  if (known?.upSinceMs === undefined)
    return { ...fresh, upSinceMs: nowMs, roundTripUs: rail.roundTripUs, wellSinceMs: nowMs };
  // A new link counts from its own beginning.
  const lost = Math.max(0, rail.retransmits - known.retransmits);
  const seconds = (nowMs - known.lookedMs) / 1000;
  const weight = Math.min(1, seconds);
  return {
    ...known,
    roundTripUs: rail.roundTripUs ?? known.roundTripUs,
    retransmits: rail.retransmits,
    lookedMs: nowMs,
    lossPerSecond:
      seconds > 0
        ? known.lossPerSecond + weight * (lost / seconds - known.lossPerSecond)
        : known.lossPerSecond,
  };
}

/** A rail that was left comes back later each time. */
function punished({ penalty }: RailState, nowMs: number): Pick<RailState, 'penalty' | 'penaltyAtMs'> {
  return { penalty: Math.min(penaltyMax, penalty + 1), penaltyAtMs: nowMs };
}

/** The round trip beyond which a rail is out of band: by the best of the others. */
function bandOf(
  rail: RailFacts,
  facts: readonly RailFacts[],
  states: ReadonlyMap<string, RailState>,
  settings: DispatchSettings,
): number {
  const others = facts.flatMap((other) => {
    const roundTripUs = states.get(other.name)?.roundTripUs;
    return other.name !== rail.name && isUp(other) && roundTripUs !== undefined ? [roundTripUs] : [];
  });
  return others.length === 0
    ? Number.POSITIVE_INFINITY
    : Math.min(...others) * settings.bandFactor + settings.bandMs * 1000;
}

function judge(
  state: RailState,
  rail: RailFacts,
  bandUs: number,
  nowMs: number,
  settings: DispatchSettings,
): RailState {
  if (!isUp(rail)) return state;
  const { roundTripUs = 0, lossPerSecond } = state;
  const share = state.degraded ? 0.5 : 1;
  const slow = roundTripUs > bandUs * share;
  const lossy = lossPerSecond > settings.lossPerSecond * share;
  if (!slow && !lossy) {
    // A rail may be well only because it was left: what is degraded stays so until it has been fine for a while.
    const fineSinceMs = state.fineSinceMs ?? nowMs;
    if (state.degraded && nowMs - fineSinceMs < settings.returnMs * 2 ** state.penalty)
      return { ...state, outOfBandSinceMs: undefined, fineSinceMs };
    const sinceMs = Math.max(state.penaltyAtMs, state.wellSinceMs ?? nowMs);
    const decayed = state.penalty > 0 && nowMs - sinceMs >= penaltyEveryMs;
    return {
      ...state,
      outOfBandSinceMs: undefined,
      degraded: '',
      fineSinceMs: undefined,
      wellSinceMs: state.wellSinceMs ?? fineSinceMs,
      ...(decayed && { penalty: state.penalty - 1, penaltyAtMs: nowMs }),
    };
  }
  const outOfBandSinceMs = state.outOfBandSinceMs ?? nowMs;
  if (nowMs - outOfBandSinceMs < settings.degradeMs && !state.degraded) return { ...state, outOfBandSinceMs };
  return {
    ...state,
    fineSinceMs: undefined,
    ...(!state.degraded && rail.carries && punished(state, nowMs)),
    outOfBandSinceMs,
    wellSinceMs: undefined,
    degraded: slow
      ? `${rail.name} is degraded: round trip ${shownMs(roundTripUs)}, over ${shownMs(bandUs)}`
      : `${rail.name} is degraded: ${Math.round(lossPerSecond)} packets a second sent again`,
  };
}

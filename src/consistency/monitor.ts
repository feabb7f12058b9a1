import type { Lsn } from '../engine/lsn.js';
import { type Cause, type Finding, judge } from './findings.js';
import type { MonitorLimits } from './settings.js';
import { addToTrend, noTrend, rateOf, type Trend } from './trend.js';

/** Positions of a node, as far as they are known where the monitor runs. */
export interface MonitoredPositions {
  readonly received: Lsn;
  readonly flushed: Lsn;
  readonly applied: Lsn;
}

/** A node below the one where the monitor runs. */
export interface SampledNode extends MonitoredPositions {
  readonly node: string;
  /** Whom it gets its WAL from. */
  readonly parent: string;
  /** Since the first byte that it lacks, in memory and in its database, was made; undefined where nothing is known. */
  readonly lagMs?: number | undefined;
  readonly appliedLagMs?: number | undefined;
}

/** What is to be seen of a node and its subtree at one time. */
export interface MonitorSample extends MonitoredPositions {
  readonly node: string;
  readonly role: 'primary' | 'standby';
  /** Whom a standby follows, and what that has. */
  readonly upstream?:
    | { readonly node: string; readonly tailLsn: Lsn; readonly streaming: boolean }
    | undefined;
  readonly lagMs?: number | undefined;
  readonly appliedLagMs?: number | undefined;
  /** Connected nodes below, at any depth. */
  readonly nodes: readonly SampledNode[];
  readonly log: {
    readonly bytesOnDisk: number;
    /** What it takes at most when nobody lags, and when somebody does; `Infinity`: no bound. */
    readonly usualBytesMax: number;
    readonly laggingBytesMax: number;
    /** What a reader may be behind before the log is trimmed past it; `Infinity`: anything. */
    readonly retainBytesMax: number;
    readonly readers: readonly { readonly name: string; readonly lsn: Lsn }[];
  };
  /** Of the log directory; undefined: not known. */
  readonly disk?: { readonly freeBytes: number; readonly totalBytes: number } | undefined;
  /** Pages of this node's log that are known to be damaged on disk. */
  readonly damagedPages: number;
}

/** How fast positions move, in bytes per second, smoothed. */
export interface Rates {
  readonly received: number;
  readonly flushed: number;
  readonly applied: number;
}

/** What the monitor knows of one replica: this node, if it is a standby, or one below it. */
export interface Replica {
  readonly node: string;
  /** Whom it gets its WAL from; empty if that is not known. */
  readonly parent: string;
  /** `lost`: it was connected once, and the log is kept for it or it has just gone. */
  readonly link: 'up' | 'lost';
  readonly positions: MonitoredPositions;
  readonly rates: Rates;
  /** What it lacks of all that is known here. */
  readonly lagBytes: number;
  /** … of what its upstream has. */
  readonly hopLagBytes: number;
  /** … and how much of what it has is not applied. */
  readonly applyLagBytes: number;
  /** Since the first byte was made that is not received, and not applied; undefined where nothing is known. */
  readonly lagMs: number | undefined;
  readonly appliedLagMs: number | undefined;
  /** How much later than its upstream it has the same bytes. */
  readonly hopLagMs: number | undefined;
  /** In how long the log will be trimmed past it, as things go; undefined: not at all. */
  readonly trimInMs: number | undefined;
}

/** The disk that the log is on. */
export interface DiskReport {
  readonly freeBytes: number;
  readonly totalBytes: number;
  /** How fast free space goes; negative: it comes back. */
  readonly bytesPerSecond: number;
  /** In how long it is full, as things go; undefined: not at all. */
  readonly fullInMs: number | undefined;
}

/** Everything the monitor says at one time. */
export interface MonitorReport {
  readonly replicas: readonly Replica[];
  /** How fast this node's own log grows, in bytes per second. */
  readonly rates: Rates;
  readonly disk: DiskReport | undefined;
  readonly damagedPages: number;
  /** What is wrong at present, the oldest first. */
  readonly findings: readonly Finding[];
}

/** A finding that begins or ends. */
export interface FindingChange {
  readonly on: boolean;
  readonly finding: Finding;
}

/** Followed from sample to sample: of a position, and of whatever is ahead of it. */
interface Followed {
  readonly replica: Replica;
  /** When each position last moved, or had nothing to move to. */
  readonly movedAt: { readonly received: number; readonly flushed: number; readonly applied: number };
  /** Since when it has lacked something; undefined: it lacks nothing, or nobody knows since when. */
  readonly behindSince: number | undefined;
  readonly seenAt: number;
  readonly trend: Trend;
}

/** What is kept from sample to sample. Never changed in place. */
export interface MonitorState {
  readonly at: number | undefined;
  readonly self: MonitoredPositions | undefined;
  readonly rates: Rates;
  readonly followed: ReadonlyMap<string, Followed>;
  readonly readers: ReadonlyMap<string, { readonly lsn: Lsn; readonly bytesPerSecond: number }>;
  readonly disk: (DiskReport & { readonly logBytes: number; readonly logBytesPerSecond: number }) | undefined;
  readonly causes: ReadonlyMap<string, Cause>;
}

const still: Rates = { received: 0, flushed: 0, applied: 0 };
export const initialMonitor: MonitorState = {
  at: undefined,
  self: undefined,
  rates: still,
  followed: new Map(),
  readers: new Map(),
  disk: undefined,
  causes: new Map(),
};

/** Files come and go in larger pieces than bytes of WAL. */
const diskRateFactor = 12;
/** A node that is gone, and for which nothing is kept, is remembered for so long. */
const forgetMs = 60_000;

/** One look: what follows from a sample taken at `nowMs`, of any clock that only goes forward. Pure. */
export function monitorStep(
  state: MonitorState,
  sample: MonitorSample,
  nowMs: number,
  limits: MonitorLimits,
): {
  readonly state: MonitorState;
  readonly report: MonitorReport;
  readonly changes: readonly FindingChange[];
} {
  const elapsedMs = state.at === undefined ? 0 : nowMs - state.at;
  const rates = ratesOf(state.rates, state.self, sample, elapsedMs, limits.rateMs);
  const readers = readersOf(state, sample, elapsedMs, limits.rateMs);
  const followed = new Map<string, Followed>();
  for (const seen of seenIn(sample)) {
    const before = state.followed.get(seen.node);
    followed.set(seen.node, follow(before, seen, sample, { nowMs, elapsedMs, limits }));
  }
  for (const [node, before] of lostSince(state, sample, followed, nowMs))
    followed.set(node, lose(before, sample, nowMs, limits));
  const trims = trimTimes(sample, rates.received, readers);
  for (const [node, each] of followed)
    followed.set(node, { ...each, replica: { ...each.replica, trimInMs: trims.get(node) } });
  const disk = diskOf(state.disk, sample, elapsedMs, diskRateFactor * limits.rateMs);
  const { causes, findings, changes } = judge(state.causes, {
    sample,
    nowMs,
    limits,
    replicas: [...followed.values()].map(({ replica, movedAt, trend }) => ({ replica, movedAt, trend })),
    trims,
    disk,
  });
  const report: MonitorReport = {
    replicas: [...followed.values()].map(({ replica }) => replica),
    rates,
    disk: disk && withoutLog(disk),
    damagedPages: sample.damagedPages,
    findings,
  };
  const self = { received: sample.received, flushed: sample.flushed, applied: sample.applied };
  return { state: { at: nowMs, self, rates, followed, readers, disk, causes }, report, changes };
}

interface Seen extends SampledNode {
  /** What its upstream has. */
  readonly ahead: Lsn;
  readonly parentLagMs: number | undefined;
}

/** The replicas that are there: this node, if it is a standby, and those below. */
function seenIn(sample: MonitorSample): Seen[] {
  const own = new Map<string, { received: Lsn; lagMs?: number | undefined }>(
    sample.nodes.map((each) => [each.node, each]),
  );
  own.set(sample.node, { received: sample.received, lagMs: sample.role === 'primary' ? 0 : sample.lagMs });
  const below = sample.nodes.map((each) => {
    const parent = own.get(each.parent);
    return { ...each, ahead: parent?.received ?? sample.received, parentLagMs: parent?.lagMs };
  });
  const { upstream } = sample;
  if (sample.role === 'primary' || upstream === undefined) return below;
  const { node, received, flushed, applied, lagMs, appliedLagMs } = sample;
  const ahead = upstream.tailLsn;
  const self = { node, parent: upstream.node, received, flushed, applied, lagMs, appliedLagMs };
  return [{ ...self, ahead, parentLagMs: undefined }, ...below];
}

/** The end of the log, as far as it is known here. */
function tailOf({ role, received, upstream }: MonitorSample): Lsn {
  return role === 'standby' && upstream !== undefined ? larger(upstream.tailLsn, received) : received;
}

interface Moment {
  readonly nowMs: number;
  readonly elapsedMs: number;
  readonly limits: MonitorLimits;
}

function follow(before: Followed | undefined, seen: Seen, sample: MonitorSample, moment: Moment): Followed {
  const { nowMs, elapsedMs, limits } = moment;
  const { node, parent, received, flushed, applied, lagMs, appliedLagMs } = seen;
  const positions = { received, flushed, applied };
  const last = before?.replica.positions;
  // Each position against the one that it follows.
  const moved = (name: keyof MonitoredPositions, ahead: Lsn) =>
    before === undefined || positions[name] !== last?.[name] || positions[name] >= ahead
      ? nowMs
      : before.movedAt[name];
  const isSelf = node === sample.node;
  const replica: Replica = {
    node,
    parent,
    link: isSelf && sample.upstream?.streaming !== true ? 'lost' : 'up',
    positions,
    rates: ratesOf(before?.replica.rates ?? still, last, positions, elapsedMs, limits.rateMs),
    lagBytes: lack(tailOf(sample), received),
    hopLagBytes: lack(seen.ahead, received),
    applyLagBytes: lack(received, applied),
    lagMs,
    appliedLagMs,
    hopLagMs:
      lagMs === undefined || seen.parentLagMs === undefined
        ? undefined
        : Math.max(0, lagMs - seen.parentLagMs),
    trimInMs: undefined,
  };
  const behindMs = appliedLagMs ?? lagMs;
  const behind = replica.lagBytes + replica.applyLagBytes > 0;
  return {
    replica,
    movedAt: {
      received: moved('received', seen.ahead),
      flushed: moved('flushed', received),
      applied: moved('applied', flushed),
    },
    behindSince: behind && behindMs !== undefined ? nowMs - behindMs : undefined,
    seenAt: nowMs,
    trend: addToTrend(before?.trend ?? noTrend, nowMs, limits.driftMs, {
      bytes: replica.lagBytes + replica.applyLagBytes,
      ms: behindMs ?? 0,
    }),
  };
}

/** Nodes that were there and are not, and those that the log is kept for: with what was known of them last. */
function lostSince(
  state: MonitorState,
  sample: MonitorSample,
  followed: ReadonlyMap<string, Followed>,
  nowMs: number,
): [string, Followed][] {
  const lost: [string, Followed][] = [];
  const kept = new Map(sample.log.readers.map(({ name, lsn }) => [name, lsn]));
  for (const [node, before] of state.followed) {
    const isGone = node === sample.node || followed.has(node);
    if (!isGone && (kept.has(node) || nowMs - before.seenAt < forgetMs)) lost.push([node, before]);
  }
  for (const [name, lsn] of kept) {
    const isKnown = name === sample.node || followed.has(name) || state.followed.has(name);
    if (!isKnown && isNode(name)) lost.push([name, neverSeen(name, sample.node, lsn, nowMs)]);
  }
  return lost;
}

/** A reader that is no node has a colon in its name: `postgres:slot`. */
const isNode = (reader: string) => !reader.includes(':');

function neverSeen(node: string, parent: string, lsn: Lsn, nowMs: number): Followed {
  return {
    replica: {
      node,
      parent,
      link: 'lost',
      positions: { received: lsn, flushed: lsn, applied: lsn },
      rates: still,
      lagBytes: 0,
      hopLagBytes: 0,
      applyLagBytes: 0,
      lagMs: undefined,
      appliedLagMs: undefined,
      hopLagMs: undefined,
      trimInMs: undefined,
    },
    movedAt: { received: nowMs, flushed: nowMs, applied: nowMs },
    behindSince: undefined,
    seenAt: nowMs,
    trend: noTrend,
  };
}

function lose(before: Followed, sample: MonitorSample, nowMs: number, limits: MonitorLimits): Followed {
  const { positions } = before.replica;
  const lagBytes = lack(tailOf(sample), positions.received);
  const behind = lagBytes + before.replica.applyLagBytes > 0;
  // It has lacked something since the last look at the latest: nothing was missing then, or it is known since when.
  const behindSince = behind
    ? (before.behindSince ?? (before.replica.link === 'up' ? before.seenAt : undefined))
    : undefined;
  const lagMs = behindSince === undefined ? undefined : nowMs - behindSince;
  const movedAt = lagBytes > 0 ? before.movedAt.received : nowMs;
  return {
    ...before,
    replica: {
      ...before.replica,
      link: 'lost',
      rates: still,
      lagBytes,
      hopLagBytes: lagBytes,
      lagMs: behind ? lagMs : 0,
      appliedLagMs: behind ? lagMs : 0,
      hopLagMs: undefined,
    },
    behindSince,
    movedAt: { ...before.movedAt, received: movedAt },
    // A link that is away is no drift.
    trend: addToTrend(noTrend, nowMs, limits.driftMs, { bytes: lagBytes, ms: lagMs ?? 0 }),
  };
}

function ratesOf(
  before: Rates,
  last: MonitoredPositions | undefined,
  now: MonitoredPositions,
  elapsedMs: number,
  overMs: number,
): Rates {
  if (last === undefined || elapsedMs <= 0) return before;
  const rate = (name: keyof Rates) =>
    // What was cut is no movement.
    rateOf(before[name], Math.max(0, Number(now[name] - last[name])), elapsedMs, overMs);
  return { received: rate('received'), flushed: rate('flushed'), applied: rate('applied') };
}

function readersOf(
  state: MonitorState,
  { log, node }: MonitorSample,
  elapsedMs: number,
  overMs: number,
): MonitorState['readers'] {
  const readers = new Map<string, { lsn: Lsn; bytesPerSecond: number }>();
  for (const { name, lsn } of log.readers) {
    if (name === node) continue;
    const before = state.readers.get(name);
    const moved = before === undefined ? 0 : Math.max(0, Number(lsn - before.lsn));
    const bytesPerSecond = elapsedMs > 0 ? rateOf(before?.bytesPerSecond ?? 0, moved, elapsedMs, overMs) : 0;
    readers.set(name, { lsn, bytesPerSecond });
  }
  return readers;
}

/** In how long the log is trimmed past each reader that does not keep up. */
function trimTimes(
  { received, log }: MonitorSample,
  bytesPerSecond: number,
  readers: MonitorState['readers'],
): Map<string, number> {
  const times = new Map<string, number>();
  if (!Number.isFinite(log.retainBytesMax)) return times;
  for (const [name, reader] of readers) {
    const roomBytes = log.retainBytesMax - lack(received, reader.lsn);
    const closing = bytesPerSecond - reader.bytesPerSecond;
    if (roomBytes <= 0) times.set(name, 0);
    else if (closing > 0) times.set(name, (roomBytes / closing) * 1000);
  }
  return times;
}

function diskOf(
  before: MonitorState['disk'],
  { disk, log, received }: MonitorSample,
  elapsedMs: number,
  overMs: number,
): MonitorState['disk'] {
  if (disk === undefined) return undefined;
  const known = before !== undefined && elapsedMs > 0;
  const bytesPerSecond = known
    ? rateOf(before.bytesPerSecond, before.freeBytes - disk.freeBytes, elapsedMs, overMs)
    : (before?.bytesPerSecond ?? 0);
  const logBytesPerSecond = known
    ? rateOf(before.logBytesPerSecond, log.bytesOnDisk - before.logBytes, elapsedMs, overMs)
    : (before?.logBytesPerSecond ?? 0);
  const lagBytes = Math.max(0, ...log.readers.map(({ lsn }) => lack(received, lsn)));
  const boundBytes = 2 * lagBytes > log.usualBytesMax ? log.laggingBytesMax : log.usualBytesMax;
  const fullInMs = timeToFull({
    freeBytes: disk.freeBytes,
    logBytesPerSecond: Math.max(0, logBytesPerSecond),
    othersBytesPerSecond: Math.max(0, bytesPerSecond - Math.max(0, logBytesPerSecond)),
    logRoomBytes: Math.max(0, boundBytes - log.bytesOnDisk),
  });
  return { ...disk, bytesPerSecond, fullInMs, logBytes: log.bytesOnDisk, logBytesPerSecond };
}

/** The log grows up to its bound and no further; whatever else fills the disk has none. */
export function timeToFull(disk: {
  readonly freeBytes: number;
  readonly logBytesPerSecond: number;
  readonly othersBytesPerSecond: number;
  readonly logRoomBytes: number;
}): number | undefined {
  const { freeBytes, logBytesPerSecond, othersBytesPerSecond, logRoomBytes } = disk;
  const both = logBytesPerSecond + othersBytesPerSecond;
  if (both <= 0) return undefined;
  const fullS = freeBytes / both;
  const boundS = logBytesPerSecond > 0 ? logRoomBytes / logBytesPerSecond : 0;
  if (logBytesPerSecond > 0 && fullS <= boundS) return fullS * 1000;
  if (othersBytesPerSecond <= 0) return undefined;
  return (boundS + (freeBytes - boundS * both) / othersBytesPerSecond) * 1000;
}

function withoutLog({ freeBytes, totalBytes, bytesPerSecond, fullInMs }: DiskReport): DiskReport {
  return { freeBytes, totalBytes, bytesPerSecond, fullInMs };
}

function lack(ahead: Lsn, at: Lsn): number {
  return ahead > at ? Number(ahead - at) : 0;
}

function larger(a: Lsn, b: Lsn): Lsn {
  return a > b ? a : b;
}

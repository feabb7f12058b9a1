import type { FindingChange, MonitorReport, MonitorSample, Replica } from './monitor.js';
import type { MonitorLimits } from './settings.js';
import { growsSteadily, stillGrows, type Trend } from './trend.js';

export type FindingKind =
  | 'replica-stalled'
  | 'replica-drifting'
  | 'replica-lagging'
  | 'log-trim-near'
  | 'disk-filling'
  | 'disk-full'
  | 'log-damaged';

/** Something that is wrong, or will be an outage if it goes on. */
export interface Finding {
  readonly kind: FindingKind;
  /** Whom it concerns: a node, or a reader of the log. */
  readonly node: string;
  readonly level: 'warn' | 'error';
  /** `WALSHIP_ERR_MONITOR_…` */
  readonly code: string;
  /** What is seen, as of the last look, and what to do. */
  readonly message: string;
  /** No reads are to go to the node. */
  readonly distrusted: boolean;
  /** When it began, on the clock of the steps. */
  readonly sinceMs: number;
}

/** What keeps a finding up. */
export interface Cause {
  readonly finding: Finding;
  /** When it was last there. */
  readonly heldAt: number;
  /** Not found before this: it has not lasted long enough. */
  readonly due: number;
  readonly told: boolean;
}

const traits: Record<FindingKind, Pick<Finding, 'level' | 'code' | 'distrusted'>> = {
  'replica-stalled': { level: 'warn', code: 'WALSHIP_ERR_MONITOR_STALLED', distrusted: true },
  'replica-drifting': { level: 'warn', code: 'WALSHIP_ERR_MONITOR_DRIFTING', distrusted: true },
  'replica-lagging': { level: 'warn', code: 'WALSHIP_ERR_MONITOR_LAGGING', distrusted: false },
  'log-trim-near': { level: 'warn', code: 'WALSHIP_ERR_MONITOR_TRIM', distrusted: false },
  'disk-filling': { level: 'warn', code: 'WALSHIP_ERR_MONITOR_DISK_FILLING', distrusted: false },
  'disk-full': { level: 'error', code: 'WALSHIP_ERR_MONITOR_DISK_FULL', distrusted: true },
  'log-damaged': { level: 'error', code: 'WALSHIP_ERR_MONITOR_DAMAGED', distrusted: true },
};

/** What the findings are made of. */
export interface Facts {
  readonly sample: MonitorSample;
  readonly nowMs: number;
  readonly limits: MonitorLimits;
  readonly replicas: readonly {
    readonly replica: Replica;
    readonly movedAt: { readonly received: number; readonly flushed: number; readonly applied: number };
    readonly trend: Trend;
  }[];
  /** In how long the log is trimmed past each reader, in ms. */
  readonly trims: ReadonlyMap<string, number>;
  readonly disk: MonitorReport['disk'];
}

/** One look at one thing: whether it begins a finding, and whether it is enough for one that is there to stay. */
interface Look {
  readonly kind: FindingKind;
  readonly node: string;
  readonly raise: boolean;
  readonly hold: boolean;
  /** How long it must last to be found. */
  readonly lastsMs: number;
  readonly message: string;
}

export function judge(
  before: ReadonlyMap<string, Cause>,
  facts: Facts,
): { causes: Map<string, Cause>; findings: Finding[]; changes: FindingChange[] } {
  const { nowMs, limits } = facts;
  const causes = new Map<string, Cause>();
  const changes: FindingChange[] = [];
  for (const { kind, node, raise, hold, lastsMs, message } of looks(facts)) {
    const key = `${kind} ${node}`;
    const known = before.get(key);
    if (known === undefined ? !raise : !known.told && !raise) continue;
    const holds = raise || hold;
    if (known?.told && !holds && nowMs - known.heldAt >= limits.clearMs) continue;
    const due = known?.due ?? nowMs + lastsMs;
    const told = known?.told === true || nowMs >= due;
    const sinceMs = known?.finding.sinceMs ?? nowMs;
    const finding = {
      kind,
      node,
      ...traits[kind],
      message: holds ? message : (known?.finding.message ?? message),
      sinceMs,
    };
    causes.set(key, { finding, heldAt: holds ? nowMs : (known?.heldAt ?? nowMs), due, told });
    if (told && !known?.told) changes.push({ on: true, finding });
  }
  // Also those of a node that is not there any more.
  for (const [key, { finding, told }] of before) {
    if (told && !causes.has(key)) changes.push({ on: false, finding });
  }
  const findings = [...causes.values()].filter(({ told }) => told).map(({ finding }) => finding);
  return { causes, findings: findings.sort((a, b) => a.sinceMs - b.sinceMs), changes };
}

function* looks(facts: Facts): Generator<Look> {
  const { sample, limits, nowMs } = facts;
  for (const { replica, movedAt, trend } of facts.replicas) {
    // A standby does not know whether one that has left it has just gone elsewhere in the tree.
    const isKnown = replica.link === 'up' || replica.node === sample.node || sample.role === 'primary';
    const stuck = isKnown && stuckFor(replica, movedAt, nowMs) >= limits.stallMs;
    yield stalled(replica, stuck, movedAt, nowMs);
    yield drifting(replica, trend, isKnown && !stuck, limits);
    yield lagging(replica, isKnown, limits);
  }
  yield* trimNear(facts);
  yield* disk(facts);
  const { damagedPages, node } = sample;
  const damaged = damagedPages > 0;
  const pages = damagedPages === 1 ? 'a page' : `${damagedPages} pages`;
  const message = `${pages} of the log of ${node} ${damagedPages === 1 ? 'is' : 'are'} damaged on disk; walship verify tells which`;
  yield { kind: 'log-damaged', node, raise: damaged, hold: damaged, lastsMs: 0, message };
}

type MovedAt = Facts['replicas'][number]['movedAt'];

function stuckFor({ link }: Replica, movedAt: MovedAt, nowMs: number): number {
  // Of one that is away only what it has received is known to be behind.
  const oldest =
    link === 'lost' ? movedAt.received : Math.min(movedAt.received, movedAt.flushed, movedAt.applied);
  return nowMs - oldest;
}

function stalled(replica: Replica, stuck: boolean, movedAt: MovedAt, nowMs: number): Look {
  const { node, parent, link, lagBytes } = replica;
  const forMs = stuckFor(replica, movedAt, nowMs);
  const [what] = (['received', 'flushed', 'applied'] as const).filter(
    (name) => nowMs - movedAt[name] === forMs,
  );
  const does = { received: 'receives nothing', flushed: 'flushes nothing', applied: 'applies nothing' }[
    what ?? 'received'
  ];
  const gone = link === 'lost' ? 'is not connected' : does;
  const message = `${node} ${gone} for ${seconds(forMs)} s, ${lagText(replica)}; look at ${
    link === 'lost'
      ? `the host and its link to ${parent}`
      : what === 'received'
        ? `its link to ${parent}, its memory and its disk`
        : what === 'flushed'
          ? 'its disk'
          : 'its database'
  }`;
  const hold = stuck && (link === 'up' || lagBytes > 0);
  return { kind: 'replica-stalled', node, raise: stuck, hold, lastsMs: 0, message };
}

function drifting(replica: Replica, trend: Trend, counts: boolean, limits: MonitorLimits): Look {
  const bytes = replica.lagBytes + replica.applyLagBytes;
  const raise = counts && bytes >= limits.driftBytes && growsSteadily(trend);
  const hold = counts && 2 * bytes >= limits.driftBytes && stillGrows(trend);
  const message = `${replica.node} falls further and further behind, for ${seconds(limits.driftMs)} s now: ${lagText(replica)}; it, or its link to ${replica.parent}, is slower than what is written`;
  return { kind: 'replica-drifting', node: replica.node, raise, hold, lastsMs: 0, message };
}

function lagging(replica: Replica, counts: boolean, limits: MonitorLimits): Look {
  const bytes = replica.lagBytes + replica.applyLagBytes;
  const ms = replica.appliedLagMs ?? replica.lagMs ?? 0;
  const behind = bytes > 0;
  const raise = counts && behind && (bytes >= limits.lagBytes || ms >= limits.lagMs);
  const hold = counts && behind && (2 * bytes >= limits.lagBytes || 2 * ms >= limits.lagMs);
  const message = `${replica.node} is ${lagText(replica)}`;
  return { kind: 'replica-lagging', node: replica.node, raise, hold, lastsMs: 0, message };
}

function* trimNear({ sample: { log, received }, trims, limits }: Facts): Generator<Look> {
  for (const { name, lsn } of log.readers) {
    const inMs = trims.get(name);
    const bytes = received > lsn ? Number(received - lsn) : 0;
    // A burst closes in on everybody, for a moment.
    const lags = bytes >= Math.min(limits.lagBytes, log.retainBytesMax / 4);
    const near = (most: number) => lags && inMs !== undefined && inMs <= most;
    const when = inMs === 0 ? 'at any moment' : `in ${seconds(inMs ?? 0)} s as things go`;
    const message = `the log will be trimmed past ${name} ${when}: it is ${megabytes(bytes)} behind, and ${megabytes(log.retainBytesMax)} are kept (log.retain_bytes_max); after that it needs a copy`;
    const [raise, hold] = [near(limits.trimMs), near(1.5 * limits.trimMs)];
    yield { kind: 'log-trim-near', node: name, raise, hold, lastsMs: 0, message };
  }
}

function* disk({ sample: { node }, disk: seen, limits }: Facts): Generator<Look> {
  if (seen === undefined) return;
  const { freeBytes, totalBytes, fullInMs } = seen;
  const least = Math.min(limits.diskBytes, totalBytes / 20);
  const full = freeBytes < least;
  const room = `${megabytes(freeBytes)} of ${megabytes(totalBytes)} are free on the disk of the log of ${node}`;
  yield {
    kind: 'disk-full',
    node,
    raise: full,
    hold: freeBytes < 1.25 * least,
    lastsMs: 0,
    message: `${room}; make room before it cannot be written any more`,
  };
  yield {
    kind: 'disk-filling',
    node,
    raise: !full && fullInMs !== undefined && fullInMs <= limits.diskMs,
    hold: !full && fullInMs !== undefined && fullInMs <= 1.5 * limits.diskMs,
    // Files that come and go are no trend.
    lastsMs: limits.diskMs / 20,
    message: `${room}, and none in ${seconds(fullInMs ?? 0)} s as things go; make room, or lower log.retain_bytes_max`,
  };
}

function lagText({ lagBytes, applyLagBytes, appliedLagMs, lagMs }: Replica): string {
  const ms = appliedLagMs ?? lagMs;
  const unapplied = applyLagBytes > 0 ? ` and ${megabytes(applyLagBytes)} not applied` : '';
  return `${megabytes(lagBytes)}${unapplied} behind${ms === undefined ? '' : `, ${seconds(ms)} s`}`;
}

const seconds = (ms: number) => (ms < 10_000 ? (ms / 1000).toFixed(1) : String(Math.round(ms / 1000)));

function megabytes(bytes: number): string {
  const MiB = 1024 * 1024;
  if (bytes < 10 * 1024) return `${bytes} bytes`;
  return bytes < MiB
    ? `${Math.round(bytes / 1024)} KiB`
    : `${(bytes / MiB).toFixed(bytes < 100 * MiB ? 1 : 0)} MiB`;
}

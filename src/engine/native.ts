import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { ArenaPort } from '../cache/keeper.js';
import { WalshipError } from './errors.js';

/** Settings as the addon reads them: complete and valid, made by `options.ts`. */
export interface NativeSettings {
  readonly nodeId: string;
  readonly cluster: string;
  readonly secret: string;
  readonly dir: string;
  readonly pageBytes: number;
  readonly segmentPages: number;
  readonly startLsn: bigint;
  readonly retainBytes: bigint;
  readonly retainBytesMax: bigint;
  readonly spareSegments: number;
  readonly zeroFill: boolean;
  readonly syncMode: 'every-batch' | 'interval' | 'never';
  readonly syncIntervalMs: number;
  readonly arenaSlots: number;
  readonly hugePages: boolean;
  readonly frameBytesMax: number;
  readonly listen: readonly { readonly host: string; readonly port: number }[];
  readonly railEnds: readonly RailEnd[];
  /** Bits: 1 TCP, 2 verbs. */
  readonly transports: number;
  readonly verbs: {
    readonly device: string;
    readonly port: number;
    readonly gidIndex: number;
    readonly addresses: readonly string[];
    readonly pathMtuBytes: number;
    readonly retryCount: number;
    readonly ackTimeoutExponent: number;
  };
  readonly setupTimeoutMs: number;
  readonly reconnectMsMin: number;
  readonly reconnectMsMax: number;
  readonly heartbeatMs: number;
  readonly linkTimeoutMs: number;
  readonly probeMs: number;
  readonly railSilenceMs: number;
  readonly grantPages: number;
  readonly readAheadPages: number;
  readonly rangeBytesMax: number;
  readonly commitRule: NativeCommitRule;
  readonly appliedByHand: boolean;
  readonly stallMs: number;
  readonly ruleMs: number;
  readonly completion: 'busy' | 'event' | 'adaptive';
  readonly spinUs: number;
  readonly wakeWindowUs: number;
}

export interface NativeCommitRule {
  readonly level: 'async' | 'received' | 'flushed' | 'applied';
  readonly choice: 'any' | 'first';
  readonly count: number;
  readonly nodes: readonly string[];
  readonly ownDisk: boolean;
}

export interface NativeTarget {
  readonly host: string;
  readonly port: number;
  readonly node: string;
  readonly source: string;
  readonly discardCommitted: boolean;
}

/** Where and how to connect for a link over one rail. */
export interface NativeRailTarget extends NativeTarget {
  readonly name: string;
  /** Bits, as in {@link NativeSettings}. */
  readonly transports: number;
  /** RDMA device here; empty over TCP. */
  readonly device: string;
}

/** An address by which a node can be reached, and what it knows of the way. */
export interface RailEnd {
  readonly host: string;
  readonly port: number;
  /** The RDMA device with the GID of that address; empty: TCP only. */
  readonly device: string;
  /** 0: not known. */
  readonly speedMbps: number;
  readonly mtuBytes: number;
  /** −1: not known. */
  readonly numaNode: number;
}

/** Latencies in µs, from log-linear buckets (at most 6 % off). */
export interface LatencySummary {
  readonly count: number;
  readonly p50Us: number;
  readonly p90Us: number;
  readonly p99Us: number;
  readonly p999Us: number;
  readonly maxUs: number;
}

/** One network path between two nodes. */
export interface Rail {
  readonly transport: '' | 'tcp' | 'verbs';
  /** `rxe0/1/1` (device/port/GID index) over verbs. */
  readonly device: string;
  readonly local: string;
  readonly remote: string;
  readonly mtuBytes: number;
}

export interface LinkStatus {
  readonly node: string;
  readonly direction: 'upstream' | 'downstream';
  readonly streaming: boolean;
  readonly rail: Rail;
  /** Page bytes given to the rail, headers of frames and pages included. */
  readonly shippedBytes: number;
  readonly shippedRanges: number;
  readonly landedBytes: number;
  readonly messagesSent: number;
  readonly messagesReceived: number;
  /** Everything sent, the link's own framing included. */
  readonly wireBytesSent: number;
  readonly doorbells: number;
  /** Heartbeat to its acknowledgement; 0 for an upstream link. */
  readonly roundTripP50Us: number;
  readonly roundTripP99Us: number;
}

export interface StandbyStatus {
  readonly node: string;
  /** The node it gets its WAL from. */
  readonly parent: string;
  /** In which it vouches for its positions: they count for commits only if it is the primary's. */
  readonly epoch: bigint;
  readonly received: bigint;
  readonly flushed: bigint;
  readonly applied: bigint;
  readonly lagBytes: number;
  /**
   * For how long it has lacked something in its memory: the time since the first byte that it has not received was made on
   * the primary, by the clock of the node asked alone. It may be up to a heartbeat more than the truth, and what was made
   * before this run of the node asked counts from its beginning. Absent where nothing is known.
   */
  readonly lagMs?: number;
  /** … in its database: since the first byte that it has not applied was made. */
  readonly appliedLagMs?: number;
  readonly heardMsAgo: number;
  readonly stalled: boolean;
  readonly rail: Rail;
}

/** The network paths to the upstream. */
export interface NativeRails {
  /** Rails to the upstream that have a link, or a reason for having none. */
  readonly rails: readonly {
    readonly name: string;
    readonly carries: boolean;
    /** A link is up beside the session's, and is probed. */
    readonly spare: boolean;
    /** Median of the last probes that count. */
    readonly roundTripUs?: number;
    /** Over the spare link. */
    readonly heardMsAgo: number;
    readonly retransmits: number;
    /** Of links that carried the session. */
    readonly failures: number;
    readonly problem?: string;
  }[];
  /** The node that they lead to; empty without an upstream. */
  readonly railsNode: string;
  /** By which it can be reached, as it says. */
  readonly railEnds: readonly RailEnd[];
}

export interface NativeStatus extends NativeRails {
  readonly links: readonly LinkStatus[];
  readonly nodes: readonly StandbyStatus[];
  /** Which epoch of this log began where: the newest 16, oldest first. */
  readonly history: readonly { readonly epoch: bigint; readonly firstLsn: bigint }[];
  readonly upstreamTailLsn: bigint;
  readonly upstreamHeardMsAgo: number;
  readonly ruleFailing: boolean;
  readonly storageProblem: string;
  readonly log: {
    readonly firstLsn: bigint;
    readonly bytesOnDisk: number;
    readonly segments: number;
    /** Standbys the log is kept for. */
    readonly readers: readonly { readonly name: string; readonly lsn: bigint; readonly lastSeenMs: number }[];
  };
  readonly arena: {
    readonly slots: number;
    readonly used: number;
    readonly hugePages: boolean;
    readonly loads: number;
    readonly evictionsFromList: number;
    readonly evictionsUnlisted: number;
    readonly starvations: number;
  };
  readonly latency: {
    readonly commit: LatencySummary;
    readonly flush: LatencySummary;
    readonly sync: LatencySummary;
  };
}

export interface NativeEvent {
  readonly type: string;
  readonly node: string;
  readonly code: string;
  readonly message: string;
  readonly lsn: bigint;
}

export interface NativeChunk {
  readonly lsn: bigint;
  readonly bytes: Buffer;
  readonly continues: boolean;
}

export interface DriveSettings {
  readonly appendBytes: number;
  /** Appends not yet committed at a time; 0: as many as the engine takes. */
  readonly inFlight: number;
  readonly seconds: number;
  readonly appendsMax?: number;
  readonly warmupAppends: number;
  /** Poll for the commit instead of sleeping until it comes. */
  readonly spin: boolean;
}

export interface DriveResult {
  readonly appends: number;
  readonly bytes: number;
  readonly seconds: number;
  readonly backPressures: number;
  readonly endLsn: bigint;
  readonly commit: LatencySummary;
}

export interface TracedAccess {
  readonly atMs: number;
  readonly page: number;
  /** a: appended, t: tail read, c: catch-up read. */
  readonly kind: 'a' | 't' | 'c';
}

/** The addon's engine (native/addon/engine.cc). Every method throws an error with a `code` once it is closed. */
export interface NativeEngine {
  readonly listenPort: number;
  readonly verbsProblem: string;
  /** RDMA devices that are open, with the address of their GID. */
  readonly devices: readonly { readonly device: string; readonly port: number; readonly address: string }[];
  readonly recoveryNote: string;
  readonly recoveryDiscardedBytes: number;
  readonly hugePages: boolean;
  readonly arenaSlots: number;
  readonly appendBytesMax: number;
  append(bytes: Uint8Array): bigint;
  /** undefined: nothing there yet; null: on disk, use read(). */
  tryRead(lsn: bigint, limitLsn: bigint): NativeChunk | undefined | null;
  read(lsn: bigint, limitLsn: bigint): Promise<NativeChunk | undefined>;
  promote(epoch: bigint, leaseUntilNs: bigint | undefined): Promise<bigint>;
  promise(epoch: bigint): Promise<{ readonly lsn: bigint; readonly logEpoch: bigint }>;
  setLease(untilNs: bigint | undefined): void;
  hold(on: boolean): bigint;
  follow(target: NativeTarget | undefined): Promise<bigint>;
  /** A part of {@link status}. */
  rails(): NativeRails;
  setRails(rails: readonly NativeRailTarget[], upstream: string): Promise<boolean>;
  steer(order: readonly string[], carry: readonly string[], why: string): void;
  forgetReader(node: string): Promise<void>;
  close(): Promise<void>;
  setApplied(lsn: bigint): void;
  setCommitRule(rule: NativeCommitRule): void;
  status(): NativeStatus;
  drainEvents(): NativeEvent[];
  counters(): BigUint64Array;
  referenceBits(): Uint8Array;
  drainArenaEvents(into: Float64Array): number;
  slotPages(into: Float64Array): void;
  offerVictims(slots: Uint32Array, pages: Float64Array, count: number): void;
  traceAccesses(on: boolean): void;
  drainTrace(): TracedAccess[];
  drive(settings: DriveSettings): Promise<DriveResult>;
}

export interface NativeVerbs {
  readonly state:
    | 'built-without'
    | 'library-absent'
    | 'symbol-missing'
    | 'kernel-support-absent'
    | 'no-device'
    | 'ready';
  readonly detail: string;
  readonly devices: readonly {
    readonly name: string;
    readonly problem: string;
    readonly ports: readonly {
      readonly port: number;
      readonly state: string;
      readonly linkLayer: string;
      readonly speed: string;
      readonly mtuBytes: number;
      readonly gids: readonly {
        readonly index: number;
        readonly address: string;
        readonly type: string;
        readonly netdev: string;
      }[];
    }[];
  }[];
}

/** A place between two frames of a log. */
export interface LogPosition {
  readonly lsn: bigint;
  /** Of the frame before it. */
  readonly epoch: bigint;
  readonly page: number;
  /** In the page. */
  readonly offset: number;
}

/** Something wrong with a log's files. */
export interface LogProblem {
  /** `WALSHIP_ERR_…` */
  readonly code: string;
  readonly message: string;
  readonly file?: string;
  /** In `file`, in bytes. */
  readonly offset?: number;
}

interface LogGeometry {
  readonly pageBytes: number;
  readonly segmentBytes: number;
  /** A hash of the cluster's id; 0 if it is not known. */
  readonly clusterTag: bigint;
}

/** What the files of a log say, without opening it for use. */
export interface LogSummary extends LogGeometry {
  /** The oldest LSN there is. */
  readonly firstLsn: bigint;
  readonly firstPage: number;
  /** Behind the last valid frame. */
  readonly tail: LogPosition;
  /** The log is known to have been synced up to there; absent if that is not known. */
  readonly durable?: LogPosition;
  readonly segments: readonly {
    readonly file: string;
    readonly firstPage: number;
    readonly firstLsn: bigint;
  }[];
  /** Of segments and spare files. */
  readonly bytesOnDisk: number;
  /** Incomplete, behind the tail: the next open discards them. */
  readonly discardableBytes: number;
  /** A process has the log open. */
  readonly inUse: boolean;
  readonly closedCleanly: boolean;
  readonly epochs: readonly { readonly epoch: bigint; readonly firstLsn: bigint }[];
  readonly promisedEpoch: bigint;
  /** Committed by a synchronous rule, as far as was known when the epoch history was written: never cut below. */
  readonly protectedLsn: bigint;
  /** Standbys the log is kept for. */
  readonly readers: readonly { readonly name: string; readonly lsn: bigint; readonly lastSeenMs: number }[];
  /** Paths of preallocated files, of files with a tail that diverged, and of files that are none of a log's. */
  readonly spares: readonly string[];
  readonly diverged: readonly string[];
  readonly strays: readonly string[];
  /** What an open would say; empty if nothing. */
  readonly note: string;
  /** Why an open would fail. */
  readonly problems: readonly LogProblem[];
}

/** The outcome of a look at every page and frame of a log. */
export interface LogVerification extends LogGeometry {
  /** Looked at. */
  readonly pages: number;
  /** Valid ones, and their payload. */
  readonly frames: number;
  readonly payloadBytes: number;
  readonly firstLsn: bigint;
  /** Behind the last valid frame. */
  readonly tail: LogPosition;
  readonly problems: readonly LogProblem[];
  /** Found beyond the 10,000 that are listed. */
  readonly problemsLeftOut: number;
  /** It was told to stop before the end. */
  readonly stopped: boolean;
}

export interface NativeReplicaSettings {
  /** The database file. */
  readonly path: string;
  readonly checkpointMs: number;
  /** A WAL larger than this is checkpointed at once and begun anew. */
  readonly checkpointBytes: number;
  /** How soon commits of other processes are seen. */
  readonly pollMs: number;
  readonly commitMode: 'async' | 'wait';
  /** How long a commit waits for the rule in mode `wait`; 0: without end. */
  readonly commitTimeoutMs: number;
}

/** What a replica of a SQLite database tells of itself. */
export type NativeReplicaStatus = { readonly problem?: Error } & (
  | { readonly role: 'none' }
  | {
      readonly role: 'primary';
      readonly capturedLsn: bigint;
      readonly transactions: number;
      /** Times the whole database was put into the log. */
      readonly snapshots: number;
      /** Where the last one of this run begins; 0 also if there was none. */
      readonly snapshotLsn: bigint;
      /** Of the snapshot under way, 0 if there is none. */
      readonly snapshotPages: number;
      readonly snapshotPagesDone: number;
      readonly walBytes: number;
      readonly checkpoints: number;
      readonly walRestarts: number;
      /** For so long readers have kept a large WAL from being begun anew. */
      readonly blockedMs: number;
      readonly commitTimeouts: number;
    }
  | {
      readonly role: 'standby';
      readonly appliedLsn: bigint;
      /** The primary's wall clock at the commit of the last transaction applied. */
      readonly appliedUs: number;
      readonly transactions: number;
      /** They were applied in so many commits. */
      readonly commits: number;
      readonly pages: number;
      readonly walBytes: number;
      readonly checkpoints: number;
      readonly checkpointedMsAgo: number;
      readonly blockedMs: number;
      readonly snapshotNeeded: boolean;
      /** Of the snapshot that is coming, 0 if there is none. */
      readonly snapshotPages: number;
      readonly snapshotPagesDone: number;
    }
);

/** The addon's replica of a SQLite database (native/addon/sqlite.cc). The engine stops it before it closes. */
export interface NativeReplica {
  /** The engine must be primary. The LSN at which log and database are the same. */
  startPrimary(): Promise<bigint>;
  /** Applies the log; this process's writes to the database are refused from then on. */
  startStandby(): Promise<void>;
  /** Connections to the database should be closed before, or the next start may not know the file again. */
  stop(): Promise<void>;
  /** The LSN behind everything committed by now. */
  capture(): Promise<bigint>;
  /** Puts a copy of the database into the log. The LSN behind it. */
  snapshot(): Promise<bigint>;
  setCommitMode(mode: 'async' | 'wait'): void;
  /** Waits until a standby whose log was cut at `lsn` has taken its database back there. */
  undo(lsn: bigint, timeoutMs: number): Promise<void>;
  status(): NativeReplicaStatus;
}

/** What one copy of a complete page says of itself (`native/log/copy.h`). */
export interface PageCopy {
  /**
   * `good`: it verifies. `damaged`: it does not, or the disk does not give it. `stale`: it verifies, but is of another epoch
   * than the one that the log is in there. `absent`: there is none.
   */
  readonly state: 'absent' | 'good' | 'damaged' | 'stale';
  /** Of all its bytes. */
  readonly sum: bigint;
  /** Where its frames begin, and the header checksum of the frame before; of a good or stale one. */
  readonly firstLsn: bigint;
  readonly parent: bigint;
  /** Where they end, and the header checksum of the last one. */
  readonly endLsn: bigint;
  readonly endChecksum: bigint;
}

/** A segment file that has lost bytes at its end, or all of them. */
export interface ShortSegment {
  readonly file: string;
  readonly firstPage: number;
  readonly bytes: number;
}

/** Copies of complete pages (native/addon/pages.cc). */
export interface NativePages {
  /** Those that are flushed: `first` included, `end` excluded. */
  complete(
    engine: NativeEngine,
  ): Promise<{ readonly first: number; readonly end: number; readonly pageBytes: number }>;
  /** Of `count` pages, this node's on disk and in memory. */
  copies(
    engine: NativeEngine,
    first: number,
    count: number,
  ): Promise<{ readonly disk: PageCopy; readonly memory: PageCopy }[]>;
  /** What the node at the other end of a link has on disk, of at most 96 pages. One question per link at a time. */
  copiesAt(engine: NativeEngine, node: string, first: number, count: number): Promise<PageCopy[]>;
  bytesAt(engine: NativeEngine, node: string, page: number): Promise<Buffer>;
  bytesOnDisk(engine: NativeEngine, page: number): Promise<Buffer>;
  /** Empty if it is not there. */
  bytesInMemory(engine: NativeEngine, page: number): Promise<Buffer>;
  sum(bytes: Buffer): bigint;
  /** Writes, syncs, reads back, compares. `replaces` is the sum of what is on disk. */
  repair(engine: NativeEngine, page: number, bytes: Buffer, replaces: bigint): Promise<void>;
  /** Forgets what is in memory. false: the page is in use, or not there. */
  drop(engine: NativeEngine, page: number): Promise<boolean>;
  shortSegments(engine: NativeEngine, grow: boolean): Promise<ShortSegment[]>;
}

interface NativeModule {
  readonly version: string;
  readonly pages: NativePages;
  openEngine(settings: NativeSettings, wake: () => void): Promise<NativeEngine>;
  verbsCapabilities(): NativeVerbs;
  inspectLog(path: string): Promise<LogSummary>;
  /** `progress` is shared with the run: bytes done, bytes in all, and a cell that stops it when it is not 0. */
  verifyLog(path: string, progress: BigUint64Array): Promise<LogVerification>;
  exportLog(path: string, from: bigint, to: bigint, fd: number): Promise<bigint>;
  /** Absent where the addon was built without better-sqlite3. SQLite must have loaded {@link addonPath} before. */
  openReplica?(
    engine: NativeEngine,
    settings: NativeReplicaSettings,
    onEvent: (event: NativeEvent) => void,
  ): Promise<NativeReplica>;
}

const require = createRequire(import.meta.url);
const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..');

const bindings = require('bindings') as typeof import('bindings');

export const native: NativeModule = bindings({ bindings: 'walship', module_root: root }) as NativeModule;

/** The addon's file: also an extension of SQLite, which finds its entry point by this name. */
export function addonPath(): string {
  const options = { bindings: 'walship', module_root: root, path: true };
  return bindings(options) as unknown as string;
}

/** An error of the addon as a {@link WalshipError}; anything else as it is. */
export function fromNative(error: unknown): unknown {
  if (!(error instanceof Error) || error instanceof WalshipError) return error;
  const { code, file, offset } = error as Error & { code?: unknown; file?: string; offset?: number };
  if (typeof code !== 'string' || !code.startsWith('WALSHIP_ERR_')) return error;
  const place = file === undefined ? '' : ` (${file}${offset === undefined ? '' : ` at offset ${offset}`})`;
  return new WalshipError(code, error.message + (error.message.includes(file ?? '\0') ? '' : place), {
    details: { ...(file !== undefined && { file }), ...(offset !== undefined && { offset }) },
  });
}

/** Waits for the addon; its errors come as {@link WalshipError}. */
export async function settled<T>(promise: Promise<T>): Promise<T> {
  try {
    return await promise;
  } catch (error) {
    throw fromNative(error);
  }
}

/** The same for a call that answers at once. */
export function direct<T>(call: () => T): T {
  try {
    return call();
  } catch (error) {
    throw fromNative(error);
  }
}

/** The arena of an engine as the cache's keeper wants it. */
export function arenaPort(engine: NativeEngine): ArenaPort {
  return {
    slots: engine.arenaSlots,
    referenceBits: engine.referenceBits(),
    drainEvents: (into) => engine.drainArenaEvents(into),
    slotPages: (into) => engine.slotPages(into),
    offerVictims: (slots, pages, count) => engine.offerVictims(slots, pages, count),
  };
}

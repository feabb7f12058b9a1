// What a test and its worker processes say to each other.
import type { EngineEvent } from '../../src/index.js';

export interface WorkloadSettings {
  /** Part of every record: which run of the workload wrote it. */
  readonly writer: number;
  readonly bytesMin: number;
  readonly bytesMax: number;
  readonly bytesPerSecond: number;
  /** Appended and not yet committed, at most. */
  readonly pendingBytesMax: number;
  /** How long the end waits for what is not yet committed. */
  readonly drainMs: number;
}

/** A record that the engine has reported committed, ending at `lsn`. */
export interface Acknowledged {
  readonly lsn: bigint;
  readonly writer: number;
  readonly number: number;
  readonly length: number;
}

export interface WorkloadEnd {
  readonly appended: number;
  readonly appendedBytes: number;
  readonly unacknowledged: number;
  /** Of the error that ended it; empty if it was told to stop. */
  readonly code: string;
  readonly backPressures: number;
  /** The longest an append waited for its commit. */
  readonly slowestMs: number;
  readonly seconds: number;
}

export interface Opened {
  readonly port: number;
  readonly recoveryNote: string;
  readonly verbsProblem: string;
  readonly positions: { readonly received: bigint; readonly flushed: bigint };
}

export interface Resources {
  readonly fds: number;
  readonly threads: number;
  readonly rssBytes: number;
}

export interface WorkerEvent extends EngineEvent {
  readonly atMs: number;
}

export type FromWorker =
  | { readonly ready: true }
  | { readonly event: WorkerEvent }
  | { readonly acknowledged: readonly Acknowledged[] }
  | { readonly id: number; readonly value: unknown }
  | { readonly id: number; readonly error: { readonly code: string; readonly message: string } };

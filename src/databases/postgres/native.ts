import { type NativeEngine, native } from '../../engine/native.js';

export interface NativeReceiverSettings {
  readonly conninfo: string;
  readonly applicationName: string;
  readonly slot: string;
  readonly startLsn: bigint | undefined;
  readonly connectTimeoutMs: number;
  readonly reconnectMsMin: number;
  readonly reconnectMsMax: number;
  readonly statusMs: number;
  readonly silenceMs: number;
}

export interface NativeSenderSettings {
  readonly directory: string;
  readonly port: number;
  readonly users: readonly string[];
  readonly listen: { readonly host: string; readonly port: number } | undefined;
  readonly roles: readonly { readonly name: string; readonly verifier: string }[];
  readonly tls:
    | { readonly certFile: string; readonly keyFile: string; readonly required: boolean }
    | undefined;
  readonly server: string;
  readonly ordinary:
    | { readonly host: string; readonly port: number; readonly sessionsMax: number }
    | undefined;
  readonly sendAt: 'received' | 'flushed';
  readonly standbyName: string;
  readonly gatherMs: number;
  readonly silenceMs: number;
  readonly connectTimeoutMs: number;
}

/** How the WAL of the primary's server comes into the log. */
export interface PostgresReceiverStatus {
  readonly state: 'stopped' | 'connecting' | 'streaming';
  /** 0n until the server has been reached. */
  readonly systemId: bigint;
  readonly timeline: number;
  /** 150018 is 15.18. */
  readonly serverVersion: number;
  /** Appended to the log in this run. */
  readonly receivedLsn: bigint;
  /** Of the WAL that the server had when it was last heard. */
  readonly serverEndLsn: bigint;
  /** Reported to the server last: what the commit rule proves at `received`, `flushed` and `applied`. */
  readonly written: bigint;
  readonly flushed: bigint;
  readonly applied: bigint;
  readonly bytes: number;
  readonly statusesSent: number;
  /** Streams begun in this run. */
  readonly connects: number;
  /** Why it is not streaming. */
  readonly problem?: Error;
}

/** A client of the walsender. */
export interface PostgresSession {
  readonly applicationName: string;
  readonly user: string;
  readonly streaming: boolean;
  readonly slot: string;
  readonly timeline: number;
  /** Positions as in `pg_stat_replication`; 0n: not told. */
  readonly sent: bigint;
  readonly written: bigint;
  readonly flushed: bigint;
  readonly applied: bigint;
}

/** How the log is served to standby servers. */
export interface PostgresSenderStatus {
  readonly socketPath: string;
  /** `host:port`; absent: no TCP. */
  readonly listen?: string;
  /** Of the server the WAL is from; absent while the log is empty. */
  readonly systemId?: bigint;
  /** 0: one that walship does not know. */
  readonly majorVersion?: number;
  readonly segmentBytes?: number;
  readonly sessions: readonly PostgresSession[];
  /** Connections passed on to the server. */
  readonly ordinary: number;
  /** Connections. */
  readonly refused: number;
  /** Why the log cannot be served. */
  readonly problem?: Error;
}

export interface NativeReceiver {
  /** Before the engine becomes primary. The LSN at which streaming begins. */
  prepare(): Promise<bigint>;
  /** The engine must be primary. */
  start(): Promise<void>;
  stop(): Promise<void>;
  status(): PostgresReceiverStatus;
}

export interface NativeSender {
  stop(): Promise<void>;
  status(): PostgresSenderStatus;
}

/** The addon's ends of PostgreSQL's replication (native/addon/postgres.cc). The engine stops them before it closes. */
interface NativePostgres {
  /** The columns of the only row. */
  queryPostgres(conninfo: string, sql: string, timeoutMs: number): Promise<readonly (string | null)[]>;
  openPostgresReceiver(engine: NativeEngine, settings: NativeReceiverSettings): Promise<NativeReceiver>;
  openPostgresSender(engine: NativeEngine, settings: NativeSenderSettings): Promise<NativeSender>;
}

export const nativePostgres = native as unknown as NativePostgres;

import type { CommitRule } from '../engine/options.js';
import type { ClusterView, PrimaryRecord } from './coordinator/coordinator.js';
import type { LogPlace } from './quorum.js';

/** What controllers say to each other. Each message stands for itself: it may be lost, doubled or late. */
export type Message =
  | StateMessage
  /** Would you promise this epoch? Changes nothing: so a node that merely lost sight of the primary disturbs nobody. */
  | { readonly type: 'canvass'; readonly epoch: bigint; readonly forced: boolean }
  | ({ readonly type: 'canvassed' } & Reply)
  /** Promise to acknowledge nothing of an older epoch. */
  | { readonly type: 'promise'; readonly epoch: bigint; readonly forced: boolean }
  | ({ readonly type: 'promised' } & Reply)
  /** You are further than I am: stand for primary. */
  | { readonly type: 'stand'; readonly forced: boolean; readonly acceptDataLoss: boolean }
  /** The primary has promised this epoch, and hands over what it has. */
  | ({ readonly type: 'handover'; readonly epoch: bigint; readonly revision: bigint } & LogPlace)
  /** The coordinator does not answer me: am I your primary still? */
  | { readonly type: 'lease'; readonly epoch: bigint; readonly round: number }
  | { readonly type: 'granted'; readonly epoch: bigint; readonly round: number }
  | { readonly type: 'command'; readonly id: string; readonly command: Command }
  | { readonly type: 'outcome'; readonly id: string; readonly ok: boolean; readonly message: string };

/** Said every `gossipMs`, and at once when something in it changes. */
export interface StateMessage extends LogPlace {
  readonly type: 'state';
  readonly role: 'primary' | 'standby';
  /** Of the newest primary it knows. */
  readonly epoch: bigint;
  readonly promised: bigint;
  /** It has the coordinator's word that it is primary, and is about to become it. */
  readonly promoting: boolean;
  /** Since it last heard the primary itself, over a link; absent if it has none. */
  readonly primaryHeardMsAgo?: number | undefined;
  readonly upstream?: string | undefined;
  readonly upstreamUp: boolean;
  readonly rails: readonly string[];
  /** Of the primary only: everybody's upstream. */
  readonly plan?: readonly (readonly [node: string, upstream: string])[] | undefined;
}

export interface Reply extends LogPlace {
  readonly epoch: bigint;
  readonly ok: boolean;
  /** Why not. */
  readonly why: string;
  /** The newest epoch it has promised. */
  readonly promised: bigint;
  /** As in {@link Promised}. */
  readonly whole: boolean;
}

export type Command =
  | { readonly type: 'switchover'; readonly to?: string | undefined }
  | { readonly type: 'failover'; readonly to?: string | undefined; readonly acceptDataLoss: boolean };

/** What a controller is told. */
export type Event =
  /** Time has passed, or `facts` have changed. */
  | { readonly type: 'tick' }
  | { readonly type: 'message'; readonly from: string; readonly message: Message }
  /** A connection between controllers; `refused`: there is no process at the other end. */
  | { readonly type: 'peer'; readonly node: string; readonly up: boolean; readonly refused?: boolean }
  /** What the coordinator holds, by its watch; undefined: it does not answer. */
  | { readonly type: 'view'; readonly view: ClusterView | undefined }
  /** The answer to a `read`: as new as it can be. */
  | { readonly type: 'read'; readonly view: ClusterView | undefined }
  | {
      readonly type: 'swapped';
      readonly id: number;
      /** `unknown`: no answer; whether it was done only a read can tell. */
      readonly outcome: { readonly revision: bigint } | 'conflict' | 'unknown';
    }
  /** The answers of the data plane. `problem` is empty if it was done. */
  | { readonly type: 'promised'; readonly epoch: bigint; readonly place: LogPlace; readonly problem: string }
  | { readonly type: 'promoted'; readonly epoch: bigint; readonly problem: string }
  /** Nothing is appended any more, and all that was is in `facts.lsn`. */
  | { readonly type: 'held'; readonly problem: string }
  | { readonly type: 'command'; readonly id: string; readonly command: Command };

/** What a controller wants done. Whoever carries it out waits for nothing and tells the outcome as an event. */
export type Action =
  | { readonly type: 'send'; readonly to: string; readonly message: Message }
  | { readonly type: 'read' }
  | { readonly type: 'swap'; readonly id: number; readonly expected: bigint; readonly next: PrimaryRecord }
  | { readonly type: 'promise'; readonly epoch: bigint }
  | {
      readonly type: 'promote';
      readonly epoch: bigint;
      readonly rule: CommitRule;
      readonly leaseUntilMs: number;
    }
  /** `undefined`: nobody. */
  | { readonly type: 'follow'; readonly upstream: { readonly node: string; readonly address: string } }
  | { readonly type: 'lease'; readonly untilMs: number }
  | { readonly type: 'rule'; readonly rule: CommitRule }
  | { readonly type: 'hold'; readonly on: boolean }
  | { readonly type: 'answer'; readonly id: string; readonly ok: boolean; readonly message: string }
  | {
      readonly type: 'tell';
      readonly level: 'info' | 'warn';
      readonly event: string;
      readonly message: string;
      readonly facts?: TellFacts | undefined;
    };

/** What a line says, for programs. An epoch is decimal text. */
export type TellFacts = Readonly<Record<string, string | number>>;

/** What the data plane is like at the moment of an event. */
export interface Facts extends LogPlace {
  readonly promisedEpoch: bigint;
  readonly committed: bigint;
  /** The data plane takes appends. */
  readonly primary: boolean;
  /** The storage failed: it can be neither primary nor standby any more. */
  readonly failed: boolean;
  /** Whom it was told to follow, and whether it does. */
  readonly upstream?:
    | { readonly node: string; readonly up: boolean; readonly heardMsAgo: number }
    | undefined;
  /** Of a primary: the standbys of its tree that vouch for their positions in its epoch. */
  readonly standbys: readonly {
    readonly node: string;
    readonly received: bigint;
    readonly flushed: bigint;
    readonly applied: bigint;
  }[];
  readonly rails: readonly string[];
}

export interface ControllerSettings {
  readonly node: string;
  readonly rule: CommitRule;
  readonly priority: number;
  readonly nofailover: boolean;
  /** May be the first primary of a new cluster. */
  readonly bootstrap: boolean;
  readonly leaseMs: number;
  /** What clocks may go wrong by in the time of a lease. */
  readonly leaseMarginMs: number;
  /** A primary that nobody has heard for so long is taken for dead. */
  readonly suspectMs: number;
  readonly gossipMs: number;
  /** Those that could stand wait so long for each one before them. */
  readonly staggerMs: number;
  /** For the answers in an election. */
  readonly answerMs: number;
  /** A standby that is away for so long no longer counts for commits. */
  readonly dropMs: number;
  readonly switchoverMs: number;
  /** Under `async` only who lacks no more than this of the primary's log is promoted by itself. */
  readonly maxLagBytes: number;
  readonly fanOut: number;
}

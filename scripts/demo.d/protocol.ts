// What the demonstration's processes say to each other, and what they all have to agree on.
import type { CommitRule, EngineEvent, EngineStatus } from 'walship';
import type { Sight } from './bank.js';

/** What a client may ask for. */
export type Transaction = ({ readonly kind: 'transfer' } & Transfer) | ({ readonly kind: 'note' } & Note);

export interface Transfer {
  readonly id: number;
  readonly from: number;
  readonly to: number;
  readonly amount: number;
}

export interface Note {
  readonly id: number;
  readonly account: number;
  readonly body: string;
}

/** From the conductor to a node. */
export type Request =
  | { readonly do: 'start'; readonly options: NodeOptions }
  | { readonly do: 'rule'; readonly rule: CommitRule }
  | { readonly do: 'transactions'; readonly transactions: readonly Transaction[] }
  | { readonly do: 'status' }
  | { readonly do: 'query' }
  | { readonly do: 'close' };

/** From a node to the conductor. The first four answer `start`, `rule`, `status` and `query`, in the order of those. */
export type Report =
  | { readonly is: 'started'; readonly port: number; readonly note: string; readonly verbsProblem: string }
  | { readonly is: 'ruled' }
  | { readonly is: 'status'; readonly status: EngineStatus }
  | { readonly is: 'seen'; readonly sight: Sight }
  /** Acknowledged: the transaction, and how long that took, SQLite's own commit included. */
  | { readonly is: 'done'; readonly done: readonly { readonly id: number; readonly ms: number }[] }
  | { readonly is: 'event'; readonly event: EngineEvent }
  | { readonly is: 'failed'; readonly message: string };

export interface NodeOptions {
  readonly name: string;
  readonly dir: string;
  readonly secret: string;
  /** None: this node is the primary. */
  readonly upstream?: string;
  /** Remove `dir` if the conductor dies. */
  readonly scratch: boolean;
}

export const accounts = 1000;
export const openingBalance = 1_000_000;

/** Of the log of every node: as large as it gets, so that all of it can be compared at the end. */
export const logOptions = {
  segmentBytes: 16 * 1024 * 1024,
  retainBytes: 2 ** 40,
  retainBytesMax: 0,
} as const;
export const clusterId = 'demo';

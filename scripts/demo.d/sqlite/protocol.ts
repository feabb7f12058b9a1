// What the demonstration's processes say to each other, and what they all have to agree on.
import type { AgentEvent, EngineEvent, EngineStatus } from 'walship';
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

/** From the conductor to a node, and answered. */
export type Question =
  | { readonly do: 'start'; readonly options: NodeOptions }
  | { readonly do: 'status' }
  | { readonly do: 'query' }
  | { readonly do: 'switchover'; readonly to: string }
  | { readonly do: 'pause' };

/** From the conductor to a node. */
export type Request =
  | { readonly ask: number; readonly question: Question }
  | { readonly do: 'transactions'; readonly transactions: readonly Transaction[] }
  | { readonly do: 'close' };

/** The answers to questions. */
export interface Answers {
  readonly start: { readonly port: number; readonly note: string; readonly caveat: string };
  readonly status: EngineStatus;
  /** Undefined: there is nothing to query at this instant. */
  readonly query: Sight | undefined;
  readonly switchover: { readonly done: boolean; readonly message: string };
  /** The controllers decide nothing any more. */
  readonly pause: true;
}

/** A node's place among the others, by its controller. */
export interface Place {
  readonly role: 'primary' | 'standby';
  readonly epoch: bigint;
  readonly upstream?: string;
}

/**
 * What became of a transaction: acknowledged; refused, it has not been begun and can be tried again; or unknown, it may
 * turn out to have been done or not.
 */
export type Fate = 'acknowledged' | 'refused' | 'unknown';

export interface Outcome {
  readonly id: number;
  readonly fate: Fate;
  /** How long that took, SQLite's own commit included. */
  readonly ms: number;
}

/** From a node to the conductor. */
export type Report =
  | { readonly is: 'answer'; readonly ask: number; readonly answer: Answers[keyof Answers] }
  | { readonly is: 'done'; readonly done: readonly Outcome[] }
  | { readonly is: 'place'; readonly place: Place }
  | { readonly is: 'event'; readonly event: EngineEvent }
  | { readonly is: 'decision'; readonly event: AgentEvent }
  | { readonly is: 'failed'; readonly message: string };

export interface NodeOptions {
  readonly name: string;
  readonly dir: string;
  /** Where the nodes agree on who is primary. */
  readonly coordinator: string;
  readonly secret: string;
  /** The database is here: begin the cluster with it. */
  readonly first: boolean;
  /** Remove what the demonstration has written if the conductor dies. */
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
export const commitRule = { level: 'flushed', any: 1 } as const;

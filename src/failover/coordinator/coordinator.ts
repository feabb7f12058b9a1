import type { WalshipError } from '../../engine/errors.js';
import type { CommitRule } from '../../engine/options.js';

/**
 * Who is primary, in which epoch, and by which rule it commits. There is one such record per cluster; every change of
 * it is a compare-and-swap, so that there is one primary per epoch.
 */
export interface Reign {
  readonly node: string;
  readonly epoch: bigint;
  /**
   * The commit rule, with the standbys that count named one by one: whoever wants to take over must know them. The primary
   * commits by this rule, or, while it takes nodes out, by one with fewer of them.
   */
  readonly rule: CommitRule;
  /**
   * The reign before, until as many standbys as the rule needs have everything that was committed in it: as long as they do
   * not, what they promise says nothing of that.
   */
  readonly previous?: Reign | undefined;
}

/** The present reign. Its fields change with every swap, its node and epoch never. */
export interface PrimaryRecord extends Reign {
  /** For how long the primary may commit after it sent the swap that this record came from. */
  readonly leaseMs: number;
  /** Grows with every swap of the same primary: the lease was renewed. */
  readonly renewal: number;
}

/** A node that belongs to the cluster, registered by itself; it stays registered until somebody forgets it. */
export interface Member {
  readonly node: string;
  /** `host:port` at which standbys get its log. */
  readonly log: string;
  /** `host:port` of its controller. */
  readonly control: string;
  /** `host:port` of its HTTP endpoints, if they are on a port. */
  readonly http?: string;
  /** How the other nodes reach the database server beside it, where there is one. */
  readonly database?: string;
  /** Of two standbys that are equally far, the one with the higher priority is promoted. */
  readonly priority: number;
  /** It is never promoted by itself, and no commit relies on it. */
  readonly nofailover: boolean;
}

/** Everything that the coordinator holds of one cluster, as of one moment. */
export interface ClusterView {
  /** Absent: the cluster has never had a primary. */
  readonly primary?: PrimaryRecord;
  /** What a swap of the record has to name; 0 while there is none. */
  readonly revision: bigint;
  /** Sorted by name. */
  readonly members: readonly Member[];
  /** Automatic failover is off, for as long as the operator wants. */
  readonly paused: boolean;
}

/**
 * `view`: what the coordinator holds. `undefined`: that is not known at the moment, `why` says why: it cannot be reached,
 * or it holds what walship did not write.
 */
export type WatchListener = (view: ClusterView | undefined, why?: WalshipError) => void;

/** The store that holds who is primary: etcd, or a file for nodes on one machine. */
export interface Coordinator {
  readonly kind: 'etcd' | 'embedded';
  /** What it does not protect against; empty if nothing. */
  readonly caveat: string;
  /**
   * Never older than the last change that anybody was told of (linearizable).
   *
   * @throws {WalshipError} `WALSHIP_ERR_COORDINATOR`: it cannot be reached, or refuses.
   */
  read(): Promise<ClusterView>;
  /**
   * Replaces the record if its revision still is `expected`.
   *
   * @returns the record's new revision; undefined: it had another revision, nothing was changed.
   * @throws {WalshipError} `WALSHIP_ERR_COORDINATOR`: whether it was replaced is not known; read() tells.
   */
  swap(expected: bigint, next: PrimaryRecord): Promise<bigint | undefined>;
  /** Adds or replaces a member. @throws {WalshipError} `WALSHIP_ERR_COORDINATOR` */
  register(member: Member): Promise<void>;
  /** Removes a member. @throws {WalshipError} `WALSHIP_ERR_COORDINATOR` */
  forget(node: string): Promise<void>;
  /** @throws {WalshipError} `WALSHIP_ERR_COORDINATOR` */
  setPaused(paused: boolean): Promise<void>;
  /**
   * Tells of every change until it is stopped, sooner or later, through broken connections. The first call comes with
   * the present state, or with why it is not known.
   *
   * @returns what stops it
   */
  watch(listener: WatchListener): () => void;
  close(): Promise<void>;
}

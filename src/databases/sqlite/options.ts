import { z } from 'zod';
import { WalshipError } from '../../engine/errors.js';
import type { NativeReplicaSettings } from '../../engine/native.js';
import {
  type EngineOptions,
  nativeSettings,
  parseAddress,
  problemsOf,
  type Upstream,
} from '../../engine/options.js';
import { type MembershipSettings, membershipProblems } from '../../failover/membership.js';

/** What {@link openReplicated} takes: the options of the engine, and those of the database. */
export interface ReplicatedOptions extends Omit<EngineOptions, 'dir' | 'applied'> {
  /** The database file; made on the primary if missing. Its `-wal` and `-shm` lie beside it, as always. */
  readonly path: string;
  /** Directory of the log. Default: the database file's name with `-log` behind it. */
  readonly dir?: string;
  /** Follow this node: open as a standby. Without it the node opens as the primary, in a new epoch. */
  readonly upstream?: Upstream;
  /**
   * Without `upstream`: the epoch that this primary begins. Default: the next after the newest that this node knows of.
   * Give it where another node may have been the primary meanwhile: no epoch may have two.
   */
  readonly epoch?: bigint;
  /**
   * `async` (default): a statement returns when SQLite has committed; {@link Replicated.committed} waits for the commit
   * rule. `wait`: a commit of this process returns, and is visible to anybody, only when the commit rule holds for it.
   */
  readonly commitMode?: 'async' | 'wait';
  /**
   * With `upstream`: begin anew from a snapshot in the upstream's log, for a node that is refused with
   * `WALSHIP_ERR_TOO_FAR_BEHIND` or whose log is damaged. The log so far is renamed, not removed; the database stays
   * readable, as it was, until the snapshot has come.
   */
  readonly reseed?: boolean;
  /**
   * How long a commit waits in mode `wait`; it then returns although the rule does not hold, and a
   * `sqlite-commit-timeout` event says so. Default 0: without end, and the whole thread waits with it.
   */
  readonly commitTimeoutMs?: number;
  readonly checkpoint?: {
    /** How often the WAL is copied into the database file. Default 1000. */
    readonly everyMs?: number;
    /** A WAL larger than this is copied at once and begun anew. Default 16 MiB. */
    readonly walBytes?: number;
  };
  /** How soon commits of other processes are seen. Default 5. */
  readonly pollMs?: number;
  /**
   * Who is primary is decided by a controller on every node, by way of a coordinator; the node opens as a standby, and
   * `upstream` and `epoch` are left out. `listen` of the engine is then needed, too.
   */
  readonly failover?: MembershipSettings;
}

const ms = (low: number, high: number) => z.number().int().min(low).max(high);

const schema = z.object({
  path: z.string().min(1),
  dir: z.string().min(1).optional(),
  upstream: z
    .strictObject({ address: z.string(), node: z.string().optional(), source: z.string().optional() })
    .check((context) => {
      try {
        parseAddress(context.value.address);
      } catch (error) {
        const { message } = error as WalshipError;
        context.issues.push({ code: 'custom', message, input: context.value, path: ['address'] });
      }
    })
    .optional(),
  epoch: z.bigint().min(1n).optional(),
  commitMode: z.enum(['async', 'wait']).optional(),
  reseed: z.boolean().optional(),
  commitTimeoutMs: ms(0, 3_600_000).optional(),
  checkpoint: z
    .strictObject({
      everyMs: ms(10, 3_600_000).optional(),
      walBytes: z
        .number()
        .int()
        .min(64 << 10)
        .max(0xffff_ffff)
        .optional(),
    })
    .optional(),
  pollMs: ms(1, 10_000).optional(),
});

function failoverProblems(options: ReplicatedOptions, failover: MembershipSettings | undefined): string[] {
  if (!failover) return [];
  const problems = membershipProblems(failover);
  if (options.listen === undefined)
    problems.push('listen: is needed with failover: every node may become the primary');
  if (options.upstream !== undefined || options.epoch !== undefined || options.reseed !== undefined)
    problems.push('failover: leave out upstream, epoch and reseed: the controller decides');
  return problems;
}

function engineProblems(options: EngineOptions): readonly string[] {
  try {
    nativeSettings(options);
    return [];
  } catch (error) {
    const { details } = error as WalshipError;
    if (!Array.isArray(details?.['problems'])) throw error;
    return details['problems'] as string[];
  }
}

/**
 * The engine's part and the database's, with every problem of both told at once.
 *
 * @throws {WalshipError} `WALSHIP_ERR_CONFIG`
 */
export function split(options: ReplicatedOptions): {
  engine: EngineOptions;
  replica: NativeReplicaSettings;
} {
  const {
    path,
    dir,
    upstream: _,
    epoch: _epoch,
    commitMode,
    reseed,
    commitTimeoutMs,
    checkpoint,
    pollMs,
    failover,
    ...rest
  } = options;
  const engine: EngineOptions = { ...rest, dir: dir ?? `${path}-log`, applied: 'manual' };
  const parsed = schema.safeParse(options);
  const problems = [...(parsed.success ? [] : problemsOf(parsed.error)), ...engineProblems(engine)];
  if (reseed === true && options.upstream === undefined)
    problems.push('reseed: needs upstream, whose log has the snapshot to begin from');
  if (options.epoch !== undefined && options.upstream !== undefined)
    problems.push('epoch: only a primary begins one: leave it out, or upstream');
  problems.push(...failoverProblems(options, failover));
  if (problems.length > 0) {
    throw new WalshipError(
      'WALSHIP_ERR_CONFIG',
      `${problems.length} problem(s) in the options:\n  ${problems.join('\n  ')}`,
      { details: { problems } },
    );
  }
  return {
    engine,
    replica: {
      path,
      commitMode: commitMode ?? 'async',
      commitTimeoutMs: commitTimeoutMs ?? 0,
      checkpointMs: checkpoint?.everyMs ?? 1000,
      checkpointBytes: checkpoint?.walBytes ?? 16 << 20,
      pollMs: pollMs ?? 5,
    },
  };
}

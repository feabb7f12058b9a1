import { z } from 'zod';
import { WalshipError } from '../../engine/errors.js';
import type { Lsn } from '../../engine/lsn.js';
import { type EngineOptions, nativeSettings, problemsOf, type Upstream } from '../../engine/options.js';
import { type MembershipSettings, membershipProblems } from '../../failover/membership.js';
import type { NativeReceiverSettings } from './native.js';
import {
  type PostgresServe,
  roleProblems,
  type SenderSettings,
  senderSettings,
  serveSchema,
} from './serve.js';

/** The primary's server, and how walship is its standby. */
export interface PostgresServer {
  /**
   * libpq's connection string or URI of the server, for a role with the attribute REPLICATION: every option of libpq
   * works, passwords from a passfile, service files and TLS among them.
   */
  readonly conninfo: string;
  /** What the server's `synchronous_standby_names` has to name. Default `walship`. */
  readonly applicationName?: string;
  /** Replication slot on the server, made if it is missing. Default `walship`. */
  readonly slot?: string;
  /**
   * A log that is empty begins at the start of the WAL segment that holds this. Default: where the slot begins, which is
   * the server's last checkpoint for a new one. A standby server can begin with a base backup that began behind it.
   */
  readonly startLsn?: Lsn;
  /** For every answer while a connection is set up. Default 10,000. */
  readonly connectTimeoutMs?: number;
  /** Pauses between tries double from the minimum (100) to the maximum (5000). */
  readonly reconnectMsMin?: number;
  readonly reconnectMsMax?: number;
  /** A status is sent at least so often; what moved is told at once in any case. Default 1000. */
  readonly statusMs?: number;
  /** A server that has said nothing for so long, though asked, is given up. Default 60,000. */
  readonly silenceMs?: number;
}

/** A server that is started, promoted, stopped and rewound by walship. */
export interface PostgresManage {
  /** The server's data directory. Its owner is who the server runs as. */
  readonly dataDir: string;
  /** Where `pg_ctl`, `pg_rewind` and `pg_basebackup` are. */
  readonly binDir: string;
  /**
   * How the other nodes reach this server, as a superuser: one that returns is rewound from there. Default:
   * `server.conninfo`.
   */
  readonly advertise?: string;
  /** Where its `postgresql.conf` is, if not in the data directory: Debian has it in `/etc/postgresql/15/main`. */
  readonly configFile?: string;
  /** Where the server writes what it says before its own logging begins. Default `<dataDir>.log`. */
  readonly logFile?: string;
  /** For starting, promoting and stopping the server. Default 60,000. */
  readonly timeoutMs?: number;
}

/** What {@link openPostgres} takes: the options of the engine, and those of the servers beside it. */
export interface PostgresOptions extends Omit<EngineOptions, 'applied'> {
  /** The server that this node gets the WAL from while it is the primary. */
  readonly server?: PostgresServer;
  /** Serve the log to standby servers. */
  readonly serve?: PostgresServe;
  /**
   * With `failover`: the server beside this node. Its `synchronous_standby_names` and `primary_conninfo` are walship's to
   * set, on its command line: nothing of its files is changed.
   */
  readonly manage?: PostgresManage;
  /** The cluster decides by itself who is the primary, and every server becomes what its node is. */
  readonly failover?: MembershipSettings;
  /** Follow this node. Without it the node opens as the primary, in a new epoch, and needs `server`. */
  readonly upstream?: Upstream;
  /** Without `upstream`: the epoch that this primary begins. Default: the next after the newest this node knows of. */
  readonly epoch?: bigint;
}

const ms = (low: number, high: number) => z.number().int().min(low).max(high);
const namePart = z.string().min(1).max(63);

/** What of the options is about PostgreSQL, also as a table of a configuration file. */
export const postgresSchema = z.strictObject({
  server: z
    .strictObject({
      conninfo: z.string(),
      applicationName: namePart.optional(),
      slot: namePart.regex(/^[a-z0-9_]+$/, 'must be of the characters a–z 0–9 _').optional(),
      startLsn: z.bigint().min(1n).optional(),
      connectTimeoutMs: ms(100, 600_000).optional(),
      reconnectMsMin: ms(1, 600_000).optional(),
      reconnectMsMax: ms(1, 600_000).optional(),
      statusMs: ms(10, 60_000).optional(),
      silenceMs: ms(100, 3_600_000).optional(),
    })
    .optional(),
  serve: serveSchema.optional(),
  manage: z
    .strictObject({
      dataDir: z.string().min(1),
      binDir: z.string().min(1),
      advertise: z.string().min(1).optional(),
      configFile: z.string().min(1).optional(),
      logFile: z.string().min(1).optional(),
      timeoutMs: ms(1000, 3_600_000).optional(),
    })
    .optional(),
});
const epochSchema = z.object({ epoch: z.bigint().min(1n).optional() });

/** The servers beside a node. */
export interface PostgresParts {
  readonly server?: PostgresServer | undefined;
  readonly serve?: PostgresServe | undefined;
  readonly manage?: PostgresManage | undefined;
}

/** The same, with every default. */
export interface PostgresSettings {
  readonly receiver: NativeReceiverSettings | undefined;
  readonly sender: SenderSettings | undefined;
  readonly manage: PostgresManage | undefined;
}

/** What a standby server's `primary_conninfo` is, once and for all: walship on its own host. */
export function primaryConninfo(serve: SenderSettings, nodeId: string): string {
  return `host=${serve.directory} port=${serve.port} user=postgres application_name=${nodeId}`;
}

/** What is wrong with the servers beside a node where each setting is right by itself. */
export function partsProblems({ server, serve, manage }: PostgresParts, failover: boolean): string[] {
  if (failover && !(server && serve && manage)) {
    return [
      'failover: needs server, serve and manage: every server may become the primary, or a standby, and walship ' +
        'starts, promotes and stops it',
    ];
  }
  return [
    ...(!failover && manage ? ['manage: belongs to failover'] : []),
    ...(serve ? roleProblems(serve) : []),
  ];
}

export function withDefaults({ server, serve, manage }: PostgresParts): PostgresSettings {
  const reconnectMsMin = server?.reconnectMsMin ?? 100;
  return {
    manage,
    receiver: server && {
      conninfo: server.conninfo,
      applicationName: server.applicationName ?? 'walship',
      slot: server.slot ?? 'walship',
      startLsn: server.startLsn,
      connectTimeoutMs: server.connectTimeoutMs ?? 10_000,
      reconnectMsMin,
      reconnectMsMax: server.reconnectMsMax ?? Math.max(5000, reconnectMsMin),
      statusMs: server.statusMs ?? 1000,
      silenceMs: server.silenceMs ?? 60_000,
    },
    sender: serve && senderSettings(serve, server?.conninfo),
  };
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
 * The engine's part and those of the servers, with every problem told at once.
 *
 * @throws {WalshipError} `WALSHIP_ERR_CONFIG`
 */
export function split(options: PostgresOptions): PostgresSettings & { readonly engine: EngineOptions } {
  const { server, serve, manage, failover, upstream, epoch, ...rest } = options;
  const engine: EngineOptions = { ...rest, applied: 'manual' };
  const parts = { server, serve, manage };
  const problems = [
    ...[postgresSchema.safeParse(parts), epochSchema.safeParse({ epoch })].flatMap(({ error }) =>
      error ? problemsOf(error) : [],
    ),
    ...engineProblems(engine),
    ...partsProblems(parts, failover !== undefined),
  ];
  if (failover !== undefined) {
    problems.push(...membershipProblems(failover));
    if (upstream !== undefined || epoch !== undefined)
      problems.push('failover: leave out upstream and epoch: the controller decides');
    if (rest.listen === undefined) problems.push('listen: is needed with failover');
  } else if (manage === undefined && server === undefined && upstream === undefined)
    problems.push('server: a primary needs the server whose WAL it ships; a standby needs upstream');
  if (epoch !== undefined && upstream !== undefined)
    problems.push('epoch: only a primary begins one: leave it out, or upstream');
  if (problems.length > 0) {
    throw new WalshipError(
      'WALSHIP_ERR_CONFIG',
      `${problems.length} problem(s) in the options:\n  ${problems.join('\n  ')}`,
      { details: { problems } },
    );
  }
  return { engine, ...withDefaults(parts) };
}

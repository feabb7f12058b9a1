import { cpus } from 'node:os';
import { z } from 'zod';
import type { CacheOptions } from '../cache/settings.js';
import type { RailSettings } from '../cluster/rail-keeper.js';
import { WalshipError } from './errors.js';
import type { NativeCommitRule, NativeSettings, NativeTarget } from './native.js';

/** Of `log.retainBytes`. */
export const defaultRetainBytes = 1 << 30;
/** Below, a polling thread takes the core that the flusher or the peer needs: every hop between threads gets slower. */
const spinCoresMin = 4;
const KiB = 1024;
const MiB = 1024 * KiB;

const name = z
  .string()
  .regex(/^[A-Za-z0-9_.-]{1,64}$/, 'must be 1 to 64 of the characters A–Z a–z 0–9 _ . -');
const bytes = z.number().int().min(0).max(Number.MAX_SAFE_INTEGER);
const ms = (least: number, most: number) => z.number().int().min(least).max(most);
const powerOfTwo = (value: number) => Number.isInteger(Math.log2(value));

const commitRule = z
  .strictObject({
    level: z.enum(['async', 'received', 'flushed', 'applied']),
    any: z.number().int().min(1).max(100).optional(),
    first: z.number().int().min(1).max(100).optional(),
    nodes: z.array(name).max(100).optional(),
    ownDisk: z.boolean().optional(),
  })
  .check((context) => {
    const { level, any, first, nodes, ownDisk } = context.value;
    const problem = (message: string) =>
      context.issues.push({ code: 'custom', message, input: context.value, path: [] });
    if (level === 'async') {
      if (any !== undefined || first !== undefined || nodes !== undefined)
        problem('level async waits for no standby: leave out any, first and nodes');
      if (ownDisk === false) problem('level async waits for the own disk alone: ownDisk cannot be false');
      return;
    }
    if ((any === undefined) === (first === undefined)) problem('needs either any: k or first: k');
    if (first !== undefined && nodes === undefined) problem('first: k needs nodes, in order of priority');
    const wanted = any ?? first ?? 0;
    if (nodes && nodes.length < wanted) problem(`needs ${wanted} of only ${nodes.length} nodes`);
    if (nodes && new Set(nodes).size < nodes.length) problem('names a node twice');
  });

/** `host:port` or `[v6]:port`. */
export const address = z.string().check((context) => {
  try {
    parseAddress(context.value);
  } catch (error) {
    context.issues.push({ code: 'custom', message: (error as Error).message, input: context.value });
  }
});

/** The shape of {@link EngineOptions}; what its parts must be to each other, {@link nativeSettings} checks. */
export const optionsSchema = z.strictObject({
  dir: z.string().min(1),
  nodeId: name,
  cluster: z.strictObject({
    id: name,
    secret: z.string().min(16, 'must have at least 16 characters; make one with: openssl rand -hex 32'),
  }),
  listen: address.optional(),
  commitRule: commitRule.optional(),
  log: z
    .strictObject({
      pageBytes: z
        .number()
        .int()
        .min(64 * KiB)
        .max(4 * MiB)
        .refine(powerOfTwo, 'must be a power of two')
        .optional(),
      segmentBytes: z
        .number()
        .int()
        .min(MiB)
        .max(1024 * MiB)
        .optional(),
      startLsn: z.bigint().min(0n).optional(),
      retainBytes: bytes.optional(),
      retainBytesMax: bytes.optional(),
      spareSegments: z.number().int().min(0).max(64).optional(),
      zeroFill: z.boolean().optional(),
      frameBytesMax: z
        .number()
        .int()
        .min(4 * KiB)
        .max(4 * MiB)
        .optional(),
    })
    .optional(),
  durability: z
    .strictObject({
      sync: z.enum(['every-batch', 'interval', 'never']),
      intervalMs: ms(1, 60_000).optional(),
    })
    .optional(),
  arena: z.strictObject({ bytes: bytes.optional(), hugePages: z.boolean().optional() }).optional(),
  cache: z.record(z.string(), z.unknown()).optional(),
  transport: z.enum(['auto', 'tcp', 'verbs']).optional(),
  verbs: z
    .strictObject({
      device: z.string().optional(),
      port: z.number().int().min(0).max(255).optional(),
      gidIndex: z.number().int().min(-1).max(255).optional(),
      address: z.union([z.string(), z.array(z.string()).min(1).max(8)]).optional(),
      pathMtuBytes: z.union([0, 256, 512, 1024, 2048, 4096].map((value) => z.literal(value))).optional(),
      retryCount: z
        .number()
        .int()
        .min(1)
        .max(6, 'must be at most 6: 7 means for ever on some devices')
        .optional(),
      ackTimeoutExponent: z.number().int().min(8).max(20).optional(),
    })
    .optional(),
  links: z
    .strictObject({
      heartbeatMs: ms(2, 60_000).optional(),
      timeoutMs: ms(10, 600_000).optional(),
      setupTimeoutMs: ms(100, 60_000).optional(),
      reconnectMsMin: ms(1, 60_000).optional(),
      reconnectMsMax: ms(1, 600_000).optional(),
      grantPages: z.number().int().min(2).max(100).optional(),
      readAheadPages: z.number().int().min(0).max(64).optional(),
    })
    .optional(),
  rails: z
    .strictObject({
      listen: z.array(address).max(7).optional(),
      dispatch: z.boolean().optional(),
      pin: z.array(z.string().min(1)).max(16).optional(),
      exclude: z.array(z.string().min(1)).max(16).optional(),
      stripe: z.boolean().optional(),
      probeMs: ms(5, 10_000).optional(),
      silenceMs: ms(10, 60_000).optional(),
      bandFactor: z.number().int().min(2).max(1000).optional(),
      bandMs: ms(0, 10_000).optional(),
      lossPerSecond: z.number().int().min(0).max(1_000_000).optional(),
      degradeMs: ms(0, 600_000).optional(),
      returnMs: ms(0, 3_600_000).optional(),
    })
    .optional(),
  completion: z
    .strictObject({
      mode: z.enum(['busy', 'event', 'adaptive']),
      spinUs: z.number().int().min(0).max(100_000).optional(),
    })
    .optional(),
  applied: z.enum(['flushed', 'manual']).optional(),
  stallMs: ms(100, 3_600_000).optional(),
  ruleMs: ms(10, 3_600_000).optional(),
});

/**
 * When an append counts as committed: `async` as soon as the primary has flushed it; else the level that any k, or the
 * first k connected of the named standbys (in that order), must have reached, cascaded ones included. The primary itself
 * must have it too: in memory for `received`, flushed for `flushed` and `applied`; with `ownDisk: false` in memory for all of
 * them. Then its own disk follows some milliseconds later, and a primary that has lost power or was restarted takes over
 * again only with standbys that say it lacks nothing.
 */
export type CommitRule =
  | { readonly level: 'async' }
  | {
      readonly level: 'received' | 'flushed' | 'applied';
      readonly any: number;
      readonly nodes?: readonly string[];
      readonly ownDisk?: boolean;
    }
  | {
      readonly level: 'received' | 'flushed' | 'applied';
      readonly first: number;
      readonly nodes: readonly string[];
      readonly ownDisk?: boolean;
    };

export interface EngineOptions {
  /** Directory of the log; made if missing. One engine at a time. */
  readonly dir: string;
  /** This node's name, unique in the cluster: 1 to 64 of `A–Z a–z 0–9 _ . -`. */
  readonly nodeId: string;
  readonly cluster: {
    /** Nodes of another cluster are refused, and so are its log files. */
    readonly id: string;
    /** Known to every node of the cluster, at least 16 characters; proves a peer's identity and is never sent. */
    readonly secret: string;
  };
  /** `host:port` to accept downstreams on; port 0 for any free one (see `engine.listenPort`). Default: none. */
  readonly listen?: string;
  /** Default `{ level: 'async' }`. */
  readonly commitRule?: CommitRule;
  readonly log?: {
    /** Power of two, 64 KiB to 4 MiB; the same on every node. Default 256 KiB. */
    readonly pageBytes?: number;
    /** Size of a segment file, a multiple of the page size; the same on every node. Default 64 MiB. */
    readonly segmentBytes?: number;
    /** First LSN of a new, empty log. Default 0. */
    readonly startLsn?: bigint;
    /** Kept behind the tail even if nobody needs it. Default 1 GiB. */
    readonly retainBytes?: number;
    /** Kept at most, even for a standby that lags or is away; 0: no bound. Default 16 GiB. */
    readonly retainBytesMax?: number;
    /** Preallocated files kept ready. Default 2. */
    readonly spareSegments?: number;
    /** Write zeros into new segments, which makes later syncs cheaper on disks. Default true. */
    readonly zeroFill?: boolean;
    /** Most payload of one frame. Default 64 KiB. */
    readonly frameBytesMax?: number;
  };
  /**
   * When the log is synced (`fdatasync`): after every batch (default); every `intervalMs` (a crash of the host loses at
   * most that much, and `flushed` moves at that pace); or never (a crash of the host can lose anything; `flushed` then
   * only means written).
   */
  readonly durability?: { readonly sync: 'every-batch' | 'interval' | 'never'; readonly intervalMs?: number };
  readonly arena?: {
    /** Memory for pages. Default 64 MiB; at least 32 pages. */
    readonly bytes?: number;
    /** Ask for huge pages: explicit ones if the system has some reserved, else transparent ones. Default true. */
    readonly hugePages?: boolean;
  };
  /** The two-queue cache policy of the arena. */
  readonly cache?: CacheOptions;
  /** `auto` (default): verbs where both sides have a device, else TCP. `verbs`: nothing else. `tcp`: nothing else. */
  readonly transport?: 'auto' | 'tcp' | 'verbs';
  readonly verbs?: {
    /** Default: every device with an active port and a RoCE v2 GID on a network device. */
    readonly device?: string;
    readonly port?: number;
    readonly gidIndex?: number;
    /** The GID of this IP address; of several, a device for each. Default: every device with an active port. */
    readonly address?: string | readonly string[];
    /** Default 0: the port's. */
    readonly pathMtuBytes?: 0 | 256 | 512 | 1024 | 2048 | 4096;
    /** 1 to 6. Default 6. */
    readonly retryCount?: number;
    /** A packet is sent again after 4.096 µs × 2^this. Default 14 (67 ms). */
    readonly ackTimeoutExponent?: number;
  };
  readonly links?: {
    /** Default 20. */
    readonly heartbeatMs?: number;
    /** A link that is silent for so long is given up. Default 1000. */
    readonly timeoutMs?: number;
    readonly setupTimeoutMs?: number;
    /** Back-off of reconnection: doubles from the minimum (50) to the maximum (2000), ± 25 %. */
    readonly reconnectMsMin?: number;
    readonly reconnectMsMax?: number;
    /** Pages granted to the upstream in advance: the window of a link. Default: a quarter of the arena, at most 16. */
    readonly grantPages?: number;
    /** Pages read from disk in advance for a lagging downstream. Default 4. */
    readonly readAheadPages?: number;
  };
  /** The network paths between this node and its upstream, and which of them is used. */
  readonly rails?: RailOptions;
  /**
   * How the data plane waits: `busy` polls for ever (a core of its own), `event` sleeps, `adaptive` (default) polls for
   * `spinUs` (default 20; 0 with fewer than 4 cores, where a polling thread takes the core that its peers need) and then
   * sleeps.
   */
  readonly completion?: { readonly mode: 'busy' | 'event' | 'adaptive'; readonly spinUs?: number };
  /** `flushed` (default): nothing is applied here, the position follows. `manual`: `engine.applied()` moves it. */
  readonly applied?: 'flushed' | 'manual';
  /** A standby that is behind and whose position has not moved for so long is reported as stalled. Default 2000. */
  readonly stallMs?: number;
  /** When an append has not been committed for so long, `rule-failing` is reported. Default 1000. */
  readonly ruleMs?: number;
}

/**
 * A node that can be reached by several addresses (`listen` and `rails.listen`, or a wildcard) tells its downstreams of all
 * of them. A downstream keeps a spare link over each rail, and goes on over another one within a few milliseconds when the
 * one in use fails; the dispatcher (`src/cluster/dispatcher.ts`) decides which are used.
 */
export interface RailOptions {
  /** Further addresses, `host:port`, to accept downstreams on. */
  readonly listen?: readonly string[];
  /** Keep spare links and move between rails. Default true. */
  readonly dispatch?: boolean;
  /** Use these, as long as one of them is up: names of rails, `*` stands for anything. Default: none. */
  readonly pin?: readonly string[];
  /** Never use these. Default: none. */
  readonly exclude?: readonly string[];
  /** Ship over all rails that are equally good at once. Default true. */
  readonly stripe?: boolean;
  /** How often a spare link is probed. Default 50. */
  readonly probeMs?: number;
  /**
   * The link in use is given up when it is silent for so long although another one is not. Default 100, or three times
   * `links.heartbeatMs` if that is more. A rail so slow that what stands in its queue takes longer needs more.
   */
  readonly silenceMs?: number;
  /**
   * A rail is degraded when its round trip is longer than `bandFactor` (3) times that of the best other one plus `bandMs`
   * (1), or when more than `lossPerSecond` (20) packets a second had to be sent again, for `degradeMs` (500).
   */
  readonly bandFactor?: number;
  readonly bandMs?: number;
  readonly lossPerSecond?: number;
  readonly degradeMs?: number;
  /** A better rail is used once it has been well for so long; longer after each time that it was left. Default 10000. */
  readonly returnMs?: number;
}

/** Who to get the WAL from. */
export interface Upstream {
  /** `host:port` */
  readonly address: string;
  /** Refuse any other node. */
  readonly node?: string;
  /** Local address to connect from. */
  readonly source?: string;
  /**
   * An operator's consent to lose what was committed synchronously: if this node's log and the upstream's have diverged,
   * this one is cut back even below that (`WALSHIP_ERR_DIVERGED_COMMITTED` otherwise). What is cut is set aside in a
   * `diverged-…` file all the same. It ends when an upstream has accepted this node. Default false.
   */
  readonly discardCommitted?: boolean;
}

const configError = (problems: readonly string[]) =>
  new WalshipError(
    'WALSHIP_ERR_CONFIG',
    `${problems.length} problem(s) in the options:\n  ${problems.join('\n  ')}`,
    {
      details: { problems },
    },
  );

/** Every problem of a zod result, one line each: where and what. */
export function problemsOf(error: z.ZodError): string[] {
  return error.issues.map((issue) => {
    const where = issue.path.join('.');
    return where ? `${where}: ${issue.message}` : issue.message;
  });
}

/** `host:port` or `[v6]:port`. @throws {WalshipError} `WALSHIP_ERR_ADDRESS` */
export function parseAddress(text: string): { host: string; port: number } {
  const match = /^(?:\[([0-9A-Fa-f:.%a-z0-9]+)\]|([^:[\]]*)):(\d{1,5})$/.exec(text);
  const port = Number(match?.[3]);
  if (!match || port > 65535) {
    throw new WalshipError(
      'WALSHIP_ERR_ADDRESS',
      `'${text}' is not an address; write host:port or [ipv6]:port`,
    );
  }
  return { host: match[1] ?? match[2] ?? '', port };
}

/** How much of a log is kept, and in what pieces: what is set, or holds otherwise. */
export function retentionOf(log: NonNullable<EngineOptions['log']> = {}) {
  const { segmentBytes = 64 * MiB, spareSegments = 2, retainBytes = defaultRetainBytes } = log;
  const { retainBytesMax = Math.max(16 * 1024 * MiB, retainBytes) } = log;
  return { segmentBytes, spareSegments, retainBytes, retainBytesMax };
}

/** Every address that downstreams may come to; the first is that of `listen`. */
export function listensOn({ listen, rails }: EngineOptions): { host: string; port: number }[] {
  return [...(listen === undefined ? [] : [listen]), ...(rails?.listen ?? [])].map(parseAddress);
}

/** What the dispatcher decides by: what is set, or holds otherwise. */
export function dispatchSettings(rails: RailOptions = {}): RailSettings {
  const { pin = [], exclude = [], stripe = true, bandFactor = 3, bandMs = 1 } = rails;
  const { lossPerSecond = 20, degradeMs = 500, returnMs = 10_000 } = rails;
  return { pin, exclude, stripe, bandFactor, bandMs, lossPerSecond, degradeMs, returnMs };
}

export function nativeTarget(upstream: Upstream): NativeTarget {
  const { address, node = '', source = '', discardCommitted = false } = upstream;
  return { ...parseAddress(address), node, source, discardCommitted };
}

export function nativeCommitRule(rule: CommitRule): NativeCommitRule {
  const parsed = commitRule.safeParse(rule);
  if (!parsed.success) throw configError(problemsOf(parsed.error).map((problem) => `commitRule: ${problem}`));
  const { level, any, first, nodes, ownDisk } = parsed.data;
  return {
    level,
    choice: first === undefined ? 'any' : 'first',
    count: any ?? first ?? 1,
    nodes: nodes ?? [],
    ownDisk: ownDisk ?? true,
  };
}

/** Checks everything at once and fills in the defaults. @throws {WalshipError} `WALSHIP_ERR_CONFIG` */
export function nativeSettings(options: EngineOptions): NativeSettings {
  const parsed = optionsSchema.safeParse(options);
  if (!parsed.success) throw configError(problemsOf(parsed.error));
  const { log = {}, arena = {}, verbs = {}, links = {}, rails = {}, durability, completion } = options;
  const pageBytes = log.pageBytes ?? 256 * KiB;
  const arenaBytes = arena.bytes ?? 64 * MiB;
  const arenaSlots = Math.floor(arenaBytes / pageBytes);
  const heartbeatMs = links.heartbeatMs ?? 20;
  const linkTimeoutMs = links.timeoutMs ?? 1000;
  const silenceMs = rails.silenceMs ?? Math.max(100, 3 * heartbeatMs);
  const reconnectMsMin = links.reconnectMsMin ?? 50;
  const reconnectMsMax = links.reconnectMsMax ?? Math.max(2000, reconnectMsMin);
  const grantPages = links.grantPages ?? Math.min(16, Math.floor(arenaSlots / 4));
  const { segmentBytes, spareSegments, retainBytes, retainBytesMax } = retentionOf(log);

  const problems: string[] = [];
  if (segmentBytes % pageBytes !== 0) problems.push('log.segmentBytes: must be a multiple of log.pageBytes');
  if (arenaSlots < 32) {
    problems.push(
      `arena.bytes: holds ${arenaSlots} pages of ${pageBytes} bytes; must be at least ${32 * pageBytes}`,
    );
  } else if (grantPages > arenaSlots / 2) {
    problems.push(`links.grantPages: at most half of the arena's ${arenaSlots} pages`);
  }
  if (linkTimeoutMs < 3 * heartbeatMs)
    problems.push('links.timeoutMs: must be at least three times links.heartbeatMs');
  if ((rails.listen?.length ?? 0) > 0 && options.listen === undefined)
    problems.push('rails.listen: further addresses need a first one in listen');
  if (silenceMs < 3 * heartbeatMs)
    problems.push('rails.silenceMs: must be at least three times links.heartbeatMs');
  if (reconnectMsMax < reconnectMsMin)
    problems.push('links.reconnectMsMax: is less than links.reconnectMsMin');
  if (retainBytesMax !== 0 && retainBytesMax < retainBytes) {
    problems.push('log.retainBytesMax: is less than log.retainBytes');
  }
  if (problems.length > 0) throw configError(problems);

  return {
    nodeId: options.nodeId,
    cluster: options.cluster.id,
    secret: options.cluster.secret,
    dir: options.dir,
    pageBytes,
    segmentPages: segmentBytes / pageBytes,
    startLsn: log.startLsn ?? 0n,
    retainBytes: BigInt(retainBytes),
    retainBytesMax: BigInt(retainBytesMax),
    spareSegments,
    zeroFill: log.zeroFill ?? true,
    syncMode: durability?.sync ?? 'every-batch',
    syncIntervalMs: durability?.intervalMs ?? 10,
    arenaSlots,
    hugePages: arena.hugePages ?? true,
    frameBytesMax: Math.min(log.frameBytesMax ?? 64 * KiB, pageBytes / 2),
    listen: listensOn(options),
    railEnds: [],
    transports: { auto: 3, tcp: 1, verbs: 2 }[options.transport ?? 'auto'],
    verbs: {
      device: verbs.device ?? '',
      port: verbs.port ?? 0,
      gidIndex: verbs.gidIndex ?? -1,
      addresses: [verbs.address ?? []].flat(),
      pathMtuBytes: verbs.pathMtuBytes ?? 0,
      retryCount: verbs.retryCount ?? 6,
      ackTimeoutExponent: verbs.ackTimeoutExponent ?? 14,
    },
    setupTimeoutMs: links.setupTimeoutMs ?? 3000,
    reconnectMsMin,
    reconnectMsMax,
    heartbeatMs,
    linkTimeoutMs,
    probeMs: rails.probeMs ?? 50,
    railSilenceMs: silenceMs,
    grantPages,
    readAheadPages: links.readAheadPages ?? 4,
    rangeBytesMax: 128 * KiB,
    commitRule: nativeCommitRule(options.commitRule ?? { level: 'async' }),
    appliedByHand: options.applied === 'manual',
    stallMs: options.stallMs ?? 2000,
    ruleMs: options.ruleMs ?? 1000,
    completion: completion?.mode ?? 'adaptive',
    spinUs: completion?.spinUs ?? (cpus().length >= spinCoresMin ? 20 : 0),
    wakeWindowUs: 100,
  };
}

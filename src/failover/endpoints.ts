import { createHash } from 'node:crypto';
import { z } from 'zod';
import { encodeNodeView, type NodeView } from '../cluster/view.js';
import type { ReplicaMonitor } from '../consistency/replica-monitor.js';
import type { Engine, EngineEvent } from '../engine/engine.js';
import { WalshipError } from '../engine/errors.js';
import { optionsSchema } from '../engine/options.js';
import { parseSize } from '../engine/sizes.js';
import type { Agent } from './agent.js';
import { type Answer, checked, JsonServer, Refusal, type Routes } from './http.js';

/** Whose endpoints these are. */
export interface Endpointed {
  readonly engine: Engine;
  /** Undefined without failover, and before it has begun. */
  readonly agent?: Agent | undefined;
  /** What it knows of itself and of the replicas below it. Default: nothing, and the router trusts them all. */
  readonly monitor?: ReplicaMonitor | undefined;
  /** Whether it does what its role asks of it. Default: {@link healthOf}. */
  health?(): Health;
  /** `GET /status`. Default: the engine's status, and the controller's as `failover`. */
  status?(): unknown;
}

export interface Health {
  readonly ok: boolean;
  /** Why not, in plain words. */
  readonly problems: readonly string[];
}

const longPollMs = 10_000;
/** Beyond the events, which tell at once: what a view is made of has no event for each of its parts. */
const recheckMs = 200;
/** Requests that wait at once. One more is answered without waiting, and asks again later. */
const waitingMax = 512;
/** Each router holds one connection for its long poll and one for its checks; load balancers and people come on top. */
const connectionsMax = 2 * waitingMax + 128;

const nodeName = optionsSchema.shape.nodeId;
const switchoverBody = z.strictObject({ to: nodeName.optional() });
const failoverBody = z.strictObject({ to: nodeName.optional(), acceptDataLoss: z.boolean().optional() });
const rejoinBody = z.strictObject({ discard: z.literal(true).optional() });
const forgetBody = z.strictObject({ node: nodeName });
const emptyBody = z.strictObject({});

/**
 * What clients, load balancers and operators ask a node of a cluster.
 *
 * - `GET /cluster[?after=version]`: the {@link NodeView}, what a `Router` follows.
 * - `GET /primary`: 200 while this node is the primary and may commit (its lease is valid), else 503.
 * - `GET /standby`, `GET /replica`: 200 while this node is a standby that gets the log, with `?lag=1MB` only if it lacks no
 *   more than that of what its upstream has; else 503.
 * - `GET /health`: 200 while it does what its role asks of it, else 503. `GET /status`: everything.
 * - `POST /switchover` `{ to? }`, `/failover` `{ to?, acceptDataLoss? }`, `/pause`, `/resume`, `/rejoin` `{ discard? }`,
 *   `/forget` `{ node }`; answered with `{ message }`.
 *
 * GET may be HEAD or OPTIONS, as HAProxy's `option httpchk` asks. Codes and `lag` mean what they mean in Patroni's REST API
 * (https://patroni.readthedocs.io/en/latest/rest_api.html, "Health check endpoints"); its `/standby-leader` and tags have
 * no counterpart.
 */
export class ClusterEndpoints {
  readonly routes: Routes;
  /** What a server of these routes on a port is to allow. */
  readonly connectionsMax = connectionsMax;
  #node: Endpointed | undefined;
  #upstreamProblem: { readonly code: string; readonly message: string } | undefined;
  /** Long polls; each is called with the version of now. */
  readonly #waiting = new Set<(version: string | undefined) => void>();
  #recheck: NodeJS.Timeout | undefined;
  readonly #wake = () => {
    if (this.#waiting.size === 0) return;
    const version = this.#version();
    for (const look of [...this.#waiting]) look(version);
  };
  readonly #onEngine = ({ type, code, message }: EngineEvent) => {
    if (type === 'upstream-unreachable' || type === 'upstream-down')
      this.#upstreamProblem = { code, message };
    if (type === 'upstream-up' || type === 'promoted') this.#upstreamProblem = undefined;
    this.#wake();
  };

  constructor() {
    this.routes = this.#routesOf();
  }

  /** From here on requests are answered for this node. Call it again when it has got its agent. */
  serve(node: Endpointed): void {
    this.close();
    this.#node = node;
    node.engine.on('event', this.#onEngine);
    node.agent?.on('change', this.#wake);
    node.monitor?.on('finding', this.#wake);
    this.#wake();
  }

  /** Ends the waiting of long polls, and listening to the node. */
  close(): void {
    this.#node?.engine.off('event', this.#onEngine);
    this.#node?.agent?.off('change', this.#wake);
    this.#node?.monitor?.off('finding', this.#wake);
    this.#node = undefined;
    this.#wake();
  }

  #routesOf(): Routes {
    const get = (
      run: (node: Endpointed, query: URLSearchParams, gone: AbortSignal) => Answer | Promise<Answer>,
    ) => ({
      method: 'GET' as const,
      run: async (query: URLSearchParams, _: unknown, gone: AbortSignal) => run(this.#served(), query, gone),
    });
    const post = <Body>(schema: z.ZodType<Body>, run: (agent: Agent, body: Body) => Promise<string>) => ({
      method: 'POST' as const,
      run: async (_: URLSearchParams, given: unknown) => {
        const body = checked(schema, given);
        const { agent } = this.#served();
        if (!agent) {
          throw new WalshipError(
            'WALSHIP_ERR_FAILOVER',
            'this node runs without [failover]: use promote and follow, or configure it',
          );
        }
        return { status: 200, body: { message: await run(agent, body) } };
      },
    });
    const standby = get((node, query) => checkStandby(node, query.get('lag')));
    return {
      '/status': get((node) => ({ status: 200, body: statusOf(node) })),
      '/health': get((node) => {
        const health = node.health?.() ?? healthOf(node);
        return { status: health.ok ? 200 : 503, body: health };
      }),
      '/cluster': get((node, query, gone) => this.#cluster(node, query.get('after'), gone)),
      '/primary': get((node) => checkPrimary(node)),
      '/standby': standby,
      '/replica': standby,
      '/switchover': post(switchoverBody, (agent, { to }) => agent.switchover(to)),
      '/failover': post(failoverBody, (agent, { to, acceptDataLoss }) =>
        agent.failover(to, acceptDataLoss === true),
      ),
      '/pause': post(emptyBody, async (agent) => {
        await agent.setPaused(true);
        return 'paused: no node is promoted by itself until resume';
      }),
      '/resume': post(emptyBody, async (agent) => {
        await agent.setPaused(false);
        return 'automatic failover is on';
      }),
      '/rejoin': post(rejoinBody, (agent, { discard }) => this.#rejoin(agent, discard === true)),
      '/forget': post(forgetBody, async (agent, { node }) => {
        await agent.forget(node);
        return `'${node}' is no member any more; nobody keeps the log for it`;
      }),
    };
  }

  #served(): Endpointed {
    if (this.#node) return this.#node;
    throw new Refusal(503, 'WALSHIP_ERR_CLOSED', 'the node is starting or stopping');
  }

  async #cluster(node: Endpointed, after: string | null, gone: AbortSignal): Promise<Answer> {
    if (after !== null) await this.#versionBut(after, gone);
    const view = viewOf(this.#node ?? node);
    return { status: 200, body: encodeNodeView(view) };
  }

  #version(): string | undefined {
    return this.#node && viewOf(this.#node).version;
  }

  /** Until the view has another version, or time is over, or nobody waits any more. */
  #versionBut(after: string, gone: AbortSignal): Promise<void> {
    if (this.#waiting.size >= waitingMax || this.#version() !== after) return Promise.resolve();
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        gone.removeEventListener('abort', done);
        this.#waiting.delete(look);
        if (this.#waiting.size === 0) clearInterval(this.#recheck);
        resolve();
      };
      const look = (version: string | undefined) => {
        if (version !== after) done();
      };
      const timer = setTimeout(done, longPollMs);
      gone.addEventListener('abort', done);
      if (this.#waiting.size === 0) this.#recheck = setInterval(this.#wake, recheckMs);
      this.#waiting.add(look);
    });
  }

  async #rejoin(agent: Agent, discard: boolean): Promise<string> {
    const problem = this.#upstreamProblem;
    if (discard) {
      await agent.rejoin();
      return 'follows again; what the cluster’s log has not was set aside in a diverged-… file of the log directory';
    }
    if (problem === undefined) return 'there is nothing to discard: this node is not refused by its upstream';
    if (problem.code !== 'WALSHIP_ERR_DIVERGED_COMMITTED') {
      throw new WalshipError(
        'WALSHIP_ERR_FAILOVER',
        `there is nothing to discard: this node comes back by itself once it can connect: ${problem.message}`,
      );
    }
    throw new WalshipError(
      problem.code,
      `${problem.message}; consent with walship rejoin --discard-committed`,
    );
  }
}

/** {@link ClusterEndpoints} on a port of their own, for a database that runs without a `Node`. */
export class ClusterServer {
  /** `host:port` with the port in use. */
  readonly address: string;
  readonly #endpoints: ClusterEndpoints;
  readonly #server: JsonServer;

  /**
   * @param address `host:port`
   * @throws {WalshipError} `WALSHIP_ERR_ADMIN`: it cannot listen
   */
  static async open(address: string): Promise<ClusterServer> {
    const endpoints = new ClusterEndpoints();
    const server = new JsonServer(endpoints.routes, connectionsMax);
    return new ClusterServer(await server.listen({ address }), endpoints, server);
  }

  private constructor(address: string, endpoints: ClusterEndpoints, server: JsonServer) {
    this.address = address;
    this.#endpoints = endpoints;
    this.#server = server;
  }

  /** Until then every request is answered 503. */
  serve(node: Endpointed): void {
    this.#endpoints.serve(node);
  }

  async close(): Promise<void> {
    this.#endpoints.close();
    await this.#server.close();
  }
}

// ---- what is answered ----

/** What the data plane and the controller agree on: a node that merely believes it is primary takes no writes. */
function roleOf({ engine, agent }: Endpointed): 'primary' | 'standby' {
  const reigns = agent === undefined || agent.primary?.node === engine.nodeId;
  return engine.role === 'primary' && reigns ? 'primary' : 'standby';
}

function viewOf(node: Endpointed): NodeView {
  const { engine, agent, monitor } = node;
  // Before the positions: if no epoch was joined meanwhile, they are of this history.
  const { history } = engine.status();
  const { positions, appliedAgeMs, logEpoch } = engine;
  const role = roleOf(node);
  const members = agent?.status().members ?? [];
  const known = agent?.primary;
  const epoch = role === 'primary' ? engine.epoch : larger(engine.epoch, known?.epoch ?? 0n);
  const primary = members.find((member) => member.node === known?.node);
  const view = {
    node: engine.nodeId,
    role,
    epoch,
    ...(known &&
      primary && {
        primary: {
          node: primary.node,
          log: primary.log,
          ...(primary.http && { http: primary.http }),
          epoch: known.epoch,
        },
      }),
    members: members.map((member) => ({
      node: member.node,
      log: member.log,
      ...(member.http && { http: member.http }),
      ...(member.role && { role: member.role }),
    })),
    health: { ok: (node.health?.() ?? healthOf(node)).ok },
    ...(monitor && {
      distrusted: [...monitor.distrust()].map(([who, why]) => ({ node: who, why: [...why] })),
    }),
  };
  // Made of the contents alone, so that a version of an earlier run of this node means the same.
  const text = JSON.stringify(view, (_, value) => (typeof value === 'bigint' ? String(value) : value));
  const version = createHash('sha256').update(text).digest('base64url').slice(0, 22);
  return {
    version,
    ...view,
    positions,
    // The engine's status is a moment older than its counters.
    history: (history.at(-1)?.epoch ?? 0n) === logEpoch ? [...history] : [],
    ...(Number.isFinite(appliedAgeMs) && { lagMs: appliedAgeMs }),
  };
}

function larger(a: bigint, b: bigint): bigint {
  return a > b ? a : b;
}

function statusOf(node: Endpointed): unknown {
  if (node.status) return node.status();
  const { engine, agent, monitor } = node;
  return {
    ...engine.status(),
    health: node.health?.() ?? healthOf(node),
    ...(agent && { failover: agent.status() }),
    ...(monitor && { monitor: monitor.report() }),
  };
}

/** Of a node about which only its engine and its controller are known. */
export function healthOf({ engine, agent }: Endpointed): Health {
  const { role, storageProblem, ruleFailing, links } = engine.status();
  const problems: string[] = [];
  const waiting = agent?.status().waiting ?? '';
  if (storageProblem !== '') problems.push(`the log cannot be written: ${storageProblem}`);
  if (waiting !== '') problems.push(waiting);
  else if (ruleFailing) problems.push('commits wait: the commit rule is not met');
  else if (role === 'standby' && !links.some((link) => link.direction === 'upstream' && link.streaming))
    problems.push('not connected to an upstream');
  return { ok: problems.length === 0, problems };
}

/** 200 tells a load balancer to send writes here: not a moment longer than the lease. */
function checkPrimary(node: Endpointed): Answer {
  const { engine, agent } = node;
  const role = roleOf(node);
  const leaseMs = agent?.status().leaseMs;
  const ok = role === 'primary' && (agent === undefined || (leaseMs ?? 0) > 0);
  const body = { node: engine.nodeId, role, epoch: engine.epoch, ...(leaseMs !== undefined && { leaseMs }) };
  return { status: ok ? 200 : 503, body };
}

function checkStandby(node: Endpointed, limit: string | null): Answer {
  const { engine } = node;
  const lagBytesMax = limit === null ? Number.POSITIVE_INFINITY : lagLimit(limit);
  const { role, links, upstreamTailLsn, positions, epoch } = engine.status();
  const streaming = links.some((link) => link.direction === 'upstream' && link.streaming);
  const lag = upstreamTailLsn - positions.applied;
  const lagBytes = lag > 0n ? Number(lag) : 0;
  const ok = role === 'standby' && streaming && lagBytes <= lagBytesMax;
  const body = { node: engine.nodeId, role, epoch, streaming, lagBytes };
  return { status: ok ? 200 : 503, body };
}

/** Bytes, or as Patroni takes it: 16kB, 64MB, 1GB, which are multiples of 1024 there, too. */
function lagLimit(text: string): number {
  const bytes = parseSize(text.replace(/([kKMGT])B$/, (_, unit) => `${unit.toUpperCase()}iB`));
  if (bytes !== undefined) return bytes;
  throw new Refusal(
    400,
    'WALSHIP_ERR_ARGUMENT',
    `lag: '${text}' is no size; write bytes, or 16kB, 64MB, 1GB`,
  );
}

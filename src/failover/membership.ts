import { ReplicaMonitor } from '../consistency/replica-monitor.js';
import { type CommitRule, type EngineOptions, parseAddress, problemsOf } from '../engine/options.js';
import { Agent, type Subject } from './agent.js';
import type { HybridClock } from './clock.js';
import type { Coordinator } from './coordinator/coordinator.js';
import { type CoordinatorSettings, coordinatorSchema, openCoordinator } from './coordinator/settings.js';
import { ClusterServer } from './endpoints.js';
import { controllerSettings, type FailoverSettings, failoverSchema } from './settings.js';

/** How a node takes part in deciding who is primary. */
export interface MembershipSettings extends FailoverSettings {
  readonly coordinator: CoordinatorSettings;
  /** `host:port` for what clients and load balancers ask: `/cluster`, `/primary`, `/standby`, `/health`. Default: none. */
  readonly http?: string;
}

/** What is wrong with the settings, each with its place. */
export function membershipProblems({ coordinator, http: _, ...settings }: MembershipSettings): string[] {
  const parts = [
    ['failover.coordinator.', coordinatorSchema.safeParse(coordinator)],
    ['failover.', failoverSchema.safeParse(settings)],
  ] as const;
  return parts.flatMap(([place, { error }]) => (error ? problemsOf(error).map((each) => place + each) : []));
}

export interface MembershipOptions {
  /** The engine must have been opened with `listen`, and be left alone: the controller promotes it and has it follow. */
  readonly subject: Subject;
  readonly cluster: { readonly id: string; readonly secret: string };
  /** What the engine listens on. */
  readonly listen: string;
  readonly commitRule: CommitRule;
  readonly failover: MembershipSettings;
  /** How the other nodes reach the database server beside this one. */
  readonly database?: string;
  /** The engine's options, with which the replicas are watched for what clients ask on `http`. Default: they are not. */
  readonly watch?: Pick<EngineOptions, 'dir' | 'log'>;
  /** As in `AgentOptions`. */
  readonly clock?: HybridClock;
}

/** An engine's, or a database's, part in its cluster: the coordinator, the controller, and what clients ask. */
export class Membership {
  readonly agent: Agent;
  readonly #coordinator: Coordinator;
  readonly #server: ClusterServer | undefined;
  readonly #monitor: ReplicaMonitor | undefined;

  /**
   * @throws {WalshipError} `WALSHIP_ERR_CONFIG`, `WALSHIP_ERR_COORDINATOR` (a directory that cannot be used),
   * `WALSHIP_ERR_LISTEN`, `WALSHIP_ERR_ADMIN`
   */
  static async join(options: MembershipOptions): Promise<Membership> {
    const { coordinator: chosen, http, ...settings } = options.failover;
    const { subject, cluster, database, clock } = options;
    const { engine } = subject;
    const coordinator = await openCoordinator(chosen, cluster.id);
    let server: ClusterServer | undefined;
    try {
      server = http === undefined ? undefined : await ClusterServer.open(http);
      const reachedAt = settings.advertiseHttp ?? server?.address;
      const agent = await Agent.start({
        subject,
        coordinator,
        cluster,
        settings: controllerSettings(settings, engine.nodeId, options.commitRule),
        listen: settings.listen,
        ...(clock && { clock }),
        member: {
          node: engine.nodeId,
          log: settings.advertiseLog ?? `${parseAddress(options.listen).host}:${engine.listenPort}`,
          ...(settings.advertiseControl && { control: settings.advertiseControl }),
          ...(reachedAt !== undefined && { http: reachedAt }),
          ...(database !== undefined && { database }),
        },
      });
      const monitor = server && options.watch && new ReplicaMonitor(engine, { engine: options.watch });
      server?.serve({ agent, engine, monitor });
      return new Membership(agent, coordinator, server, monitor);
    } catch (error) {
      await server?.close();
      await coordinator.close();
      throw error;
    }
  }

  private constructor(
    agent: Agent,
    coordinator: Coordinator,
    server: ClusterServer | undefined,
    monitor: ReplicaMonitor | undefined,
  ) {
    this.agent = agent;
    this.#coordinator = coordinator;
    this.#server = server;
    this.#monitor = monitor;
  }

  /**
   * For a planned stop: hands over to a standby if this node is the primary, so that the stop is no outage. Undefined if it
   * is not; else what became of it, in a sentence. Never fails.
   */
  async stepBack(timeoutMs: number): Promise<string | undefined> {
    if (this.agent.primary?.node !== this.agent.member.node) return undefined;
    let timer: NodeJS.Timeout | undefined;
    const tooLong = new Promise<string>((resolve) => {
      timer = setTimeout(() => resolve(`no standby has taken over within ${timeoutMs} ms`), timeoutMs);
    });
    const handedOver = this.agent.switchover().catch((error: Error) => error.message);
    try {
      return await Promise.race([handedOver, tooLong]);
    } finally {
      clearTimeout(timer);
    }
  }

  /** The engine stays open, and as it is. */
  async leave(): Promise<void> {
    this.#monitor?.close();
    await this.#server?.close();
    await this.agent.close();
    await this.#coordinator.close();
  }
}

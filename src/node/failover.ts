import type { Engine } from '../engine/engine.js';
import { WalshipError } from '../engine/errors.js';
import { type CommitRule, type EngineOptions, parseAddress } from '../engine/options.js';
import { Agent, type Subject } from '../failover/agent.js';
import type { Coordinator } from '../failover/coordinator/coordinator.js';
import { type CoordinatorSettings, openCoordinator } from '../failover/coordinator/settings.js';
import {
  controllerSettings,
  defaultControllerSettings,
  type FailoverSettings,
} from '../failover/settings.js';

/** What of a node's other settings matters to its failover. */
export interface FailoverSurroundings {
  /** Where standbys connect. */
  readonly listen: string | undefined;
  /** Where the HTTP endpoints listen, if they are on a port. */
  readonly http: string | undefined;
  readonly links?: EngineOptions['links'] | undefined;
}

/** What is wrong with addresses and times where each is right by itself; in the options' own words. */
export function failoverProblems(
  settings: FailoverSettings,
  { listen, http, links }: FailoverSurroundings,
): string[] {
  const problems: string[] = [];
  const { leaseMs = defaultControllerSettings.leaseMs, suspectMs = defaultControllerSettings.suspectMs } =
    settings;
  const { heartbeatMs = 20, timeoutMs = 1000 } = links ?? {};
  if (listen === undefined)
    problems.push('listen: is missing; with [failover] any node may have to serve the others');
  const reached = (name: string, at: string | undefined, advertised: string | undefined, from: string) => {
    if (advertised !== undefined) {
      if (at === undefined) problems.push(`failover.${name}: there is no ${from} that it could stand for`);
      else if (isWildcard(advertised) || parseAddress(advertised).port === 0)
        problems.push(`failover.${name}: '${advertised}' must name a host and a port that others can reach`);
    } else if (at !== undefined && isWildcard(at)) {
      problems.push(
        `failover.${name}: is missing; ${from} = "${at}" is no address that others could connect to: ` +
          'write the host:port at which they reach this node',
      );
    }
  };
  reached('advertiseLog', listen, settings.advertiseLog, 'listen');
  reached('advertiseControl', settings.listen, settings.advertiseControl, 'failover.listen');
  reached('advertiseHttp', http, settings.advertiseHttp, 'admin_listen');
  if (suspectMs < 5 * heartbeatMs) {
    problems.push(
      `failover.suspectMs: ${suspectMs} ms is less than five times links.heartbeatMs (${heartbeatMs} ms): ` +
        'a live primary would be taken for dead',
    );
  }
  if (leaseMs < 4 * suspectMs) {
    problems.push(
      `failover.leaseMs: ${leaseMs} ms is less than four times failover.suspectMs (${suspectMs} ms): ` +
        'a lease is renewed four times before it runs out, and each try takes its time',
    );
  }
  if (timeoutMs > leaseMs) {
    problems.push(
      `links.timeoutMs: ${timeoutMs} ms is more than failover.leaseMs (${leaseMs} ms): a standby would ` +
        'hold on to an upstream that has fallen silent when the cluster has long gone on',
    );
  }
  return problems;
}

/** Nobody can connect to it. */
function isWildcard(address: string): boolean {
  const { host } = parseAddress(address);
  return host === '' || host === '0.0.0.0' || /^[0:]+$/.test(host);
}

/** What a node's failover is about. */
export interface FailoverTask {
  readonly settings: FailoverSettings;
  readonly coordinator: CoordinatorSettings;
  readonly subject: Subject;
  readonly cluster: { readonly id: string; readonly secret: string };
  /** As configured for the node. */
  readonly rule: CommitRule;
  /** With the port in use. */
  readonly surroundings: FailoverSurroundings & { readonly listen: string };
}

/** A node's controller and its coordinator, at work. */
export class Failover {
  readonly agent: Agent;
  readonly #coordinator: Coordinator;
  readonly #engine: Engine;

  /**
   * The engine is to be a standby that follows nobody yet.
   *
   * @throws {WalshipError} `WALSHIP_ERR_CONFIG`, `WALSHIP_ERR_COORDINATOR` (the directory of an embedded one cannot be
   * used), `WALSHIP_ERR_LISTEN`
   */
  static async start(task: FailoverTask): Promise<Failover> {
    const { settings, subject, cluster, rule, surroundings } = task;
    const problems = failoverProblems(settings, surroundings);
    if (problems.length > 0) {
      throw new WalshipError('WALSHIP_ERR_CONFIG', problems.join('\n'), { details: { problems } });
    }
    const node = subject.engine.nodeId;
    const { advertiseControl: control, advertiseHttp: http = surroundings.http } = settings;
    const coordinator = await openCoordinator(task.coordinator, cluster.id);
    try {
      const agent = await Agent.start({
        subject,
        coordinator,
        cluster,
        listen: settings.listen,
        settings: controllerSettings(settings, node, rule),
        member: {
          node,
          log: settings.advertiseLog ?? surroundings.listen,
          ...(control !== undefined && { control }),
          ...(http !== undefined && { http }),
        },
      });
      return new Failover(agent, coordinator, subject.engine);
    } catch (error) {
      await coordinator.close();
      throw error;
    }
  }

  private constructor(agent: Agent, coordinator: Coordinator, engine: Engine) {
    this.agent = agent;
    this.#coordinator = coordinator;
    this.#engine = engine;
  }

  /** Hands over to a standby, if this node is the primary and somebody is there; tells what became of it. */
  async stepBack(timeoutMs: number): Promise<string | undefined> {
    if (this.#engine.role !== 'primary') return undefined;
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

  /** Ends the part of this node in the cluster's decisions; the engine stays as it is. */
  async close(): Promise<void> {
    await this.agent.close();
    await this.#coordinator.close();
  }
}

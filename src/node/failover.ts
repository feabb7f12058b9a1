import { type EngineOptions, parseAddress } from '../engine/options.js';
import { defaultControllerSettings, type FailoverSettings } from '../failover/settings.js';

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

import { setTimeout as sleep } from 'node:timers/promises';
import { defaultControllerSettings } from '../src/failover/settings.js';
import { type Client, FailoverCluster } from '../test/lib/failover.js';
import { type MemberProcess, monotonicMs } from '../test/lib/member.js';
import { type Network, tcpNetwork } from '../test/lib/network.js';
import { databaseFailover } from './failover/database.js';
import type { Bench, BenchOptions } from './lib/bench.js';
import { memoryFolder, scratch } from './lib/hosts.js';
import { Report } from './lib/report.js';
import type { BenchResult } from './result.js';

type Fault = 'kill' | 'stop' | 'cut' | 'switchover';
/** With etcd or without, under a synchronous rule; or under `async`, with etcd, where a promotion waits for the lease's end. */
type Kind = 'embedded' | 'etcd' | 'async';

/** What is asked of each: the limit beside the value. */
const bounds: Record<Fault, { p50: number; p99: number }> = {
  kill: { p50: 150, p99: 400 },
  stop: { p50: 600, p99: 600 },
  cut: { p50: 600, p99: 600 },
  switchover: { p50: 100, p99: 100 },
};
const asyncMs = defaultControllerSettings.leaseMs + 300;
const boundMs = 20_000;

interface Times {
  /** From the fault to the first node that takes the primary for dead. */
  readonly detectedMs: number;
  /** To the new primary's first instant. */
  readonly promotedMs: number;
  /** To the first append that the new primary acknowledged; of a switchover: the longest time without any. */
  readonly acknowledgedMs: number;
  /** Appends whose outcome the client never learned. */
  readonly unanswered: number;
}

/** How long nobody can commit when the primary dies, freezes, is cut off or hands over; as its clients see it. */
export const failoverBench: Bench = {
  name: 'failover',
  summary: 'from the death of the primary to the first append acknowledged by its successor',

  async run(options: BenchOptions): Promise<BenchResult> {
    if (options.database !== undefined) return await databaseFailover(options);
    const report = new Report('failover', options);
    const network = tcpNetwork(3);
    try {
      for (const kind of ['embedded', 'etcd', 'async'] as const)
        await measure(report, options, network, kind);
    } finally {
      network.close();
    }
    return report.result();
  },
};

async function measure(report: Report, options: BenchOptions, network: Network, kind: Kind): Promise<void> {
  const cluster = await FailoverCluster.start({
    nodes: 3,
    network,
    dir: scratch(options.dir ?? memoryFolder),
    coordinator: kind === 'embedded' ? kind : { etcd: 1 },
    rule: kind === 'async' ? { level: 'async' } : { level: 'flushed', any: 1 },
  });
  const client = cluster.client('client');
  client.start();
  try {
    const unreachable: Fault[] = ['stop', ...(network.wires ? ['cut' as const] : [])];
    const faults: Fault[] = kind === 'async' ? unreachable : ['kill', ...unreachable, 'switchover'];
    const times = new Map<Fault, Times[]>(faults.map((fault) => [fault, []]));
    for (let round = 0; round < options.rounds; round++) {
      for (const fault of faults) times.get(fault)?.push(await once(cluster, client, network, fault));
    }
    await cluster.well();
    for (const [fault, all] of times) tell(report, kind, fault, all);
  } finally {
    await client.stop();
    await cluster.close();
  }
  const { acknowledged, unknown } = await cluster.audit([client], { lossAccepted: kind === 'async' });
  report.note(
    `${kind}: ${acknowledged} appends acknowledged, ${kind === 'async' ? 'what is there' : 'all there and'} in order; ${unknown} without an answer`,
  );
}

async function once(
  cluster: FailoverCluster,
  client: Client,
  network: Network,
  fault: Fault,
): Promise<Times> {
  await cluster.well();
  await sleep(300);
  const primary = await cluster.primary();
  if (!primary) throw new Error('there is no primary');
  const index = cluster.members.indexOf(primary);
  const unansweredBefore = client.unknown.length;
  const at = monotonicMs();
  let end = async (): Promise<unknown> => undefined;
  let change: Promise<unknown> = Promise.resolve();
  if (fault === 'kill') {
    change = primary.kill();
    end = () => primary.start();
  } else if (fault === 'stop') {
    primary.signal('SIGSTOP');
    end = async () => primary.signal('SIGCONT');
  } else if (fault === 'cut') {
    change = network.cut(index);
    end = () => network.heal(index);
  } else {
    change = primary.call('switchover');
  }
  const { at: acknowledgedAt } = await client.acknowledgedSince(at, primary.name, boundMs);
  await change;
  const others = cluster.members.filter((member) => member !== primary);
  const times = {
    detectedMs: (first(others, at, 'primary-lost') ?? at) - at,
    promotedMs:
      Math.min(
        ...others.flatMap(({ reigns }) => reigns.filter((reign) => reign.at >= at).map((reign) => reign.at)),
      ) - at,
    acknowledgedMs: fault === 'switchover' ? await longestPause(client, at) : acknowledgedAt - at,
  };
  await end();
  return { ...times, unanswered: client.unknown.length - unansweredBefore };
}

function first(members: readonly MemberProcess[], since: number, event: string): number | undefined {
  const found = members.flatMap(({ events }) =>
    events.filter((each) => each.event === event && each.at >= since),
  );
  return found.length === 0 ? undefined : Math.min(...found.map((each) => each.at));
}

/** Between two acknowledgements, from shortly before the change to half a second behind it. */
async function longestPause(client: Client, since: number): Promise<number> {
  await sleep(500);
  const ats = client.acknowledged.map(({ at }) => at).filter((at) => at >= since - 50);
  let longest = 0;
  for (let i = 1; i < ats.length; i++)
    longest = Math.max(longest, (ats[i] as number) - (ats[i - 1] as number));
  return longest;
}

function tell(report: Report, kind: Kind, fault: Fault, all: readonly Times[]): void {
  const at = (share: number, of: (times: Times) => number) => {
    const sorted = all.map(of).sort((x, y) => x - y);
    return sorted[Math.min(sorted.length - 1, Math.ceil(share * sorted.length) - 1)] as number;
  };
  const unanswered = all.reduce((sum, times) => sum + times.unanswered, 0);
  for (const [name, share] of [
    ['p50', 0.5],
    ['p99', 0.99],
  ] as const) {
    const value = at(share, (times) => times.acknowledgedMs);
    report.add({
      id: `failover/${kind}/${fault}/${name}`,
      value,
      unit: 'ms',
      limit: { name: 'asked', value: kind === 'async' ? asyncMs : bounds[fault][name] },
      remark: `detected ${at(share, (times) => times.detectedMs).toFixed(0)}, promoted ${at(share, (times) => times.promotedMs).toFixed(0)}; ${all.length} times; ${unanswered} appends without an answer`,
      times: all.length,
      unanswered,
    });
  }
}

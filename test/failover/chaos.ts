// Clusters of real processes that are killed, stopped, cut off, hung and filled up while clients append, in rounds; after
// each burst everything is healed and the cluster must be well again, and at the end of each round its logs are audited.
//
//   node --import tsx test/failover/chaos.ts --seed 1 --rounds 40 --bursts 12 --minutes 30
//
// A seed gives the same shapes and faults again; the processes keep real time, and may do otherwise.
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import type { CommitRule } from '../../src/index.js';
import type { Audited } from '../lib/audit.js';
import { type Client, FailoverCluster, type FailoverOptions } from '../lib/failover.js';
import { monotonicMs } from '../lib/member.js';
import { type Network, tcpNetwork } from '../lib/network.js';
import { Random } from '../simulation/random.js';
import { type Counts, Turmoil } from './chaos-faults.js';

/** Nodes and, behind them, members of etcd. */
export const places = { nodes: 5, etcd: 3 };

export interface Shape {
  readonly nodes: number;
  readonly rule: CommitRule;
  readonly etcd: 0 | 1 | 3;
  readonly fanOut: number;
  readonly clients: number;
}

export interface Round extends Audited {
  readonly shape: Shape;
  readonly counts: Counts;
  /** From the time that everything was healed to the time that all was well, of the worst burst. */
  readonly wellMs: number;
  readonly epochs: number;
}

export function shapeOf(seed: number): Shape {
  const random = new Random(seed ^ 0x5eed);
  const nodes = random.pick([3, 3, 3, 4, 5]);
  const any = nodes === 5 && random.chance(0.5) ? 2 : 1;
  return {
    nodes,
    rule: { level: random.chance(0.8) ? 'flushed' : 'received', any },
    etcd: random.pick([0, 0, 1, 3] as const),
    fanOut: random.pick([4, 1, 2]),
    clients: 2 + random.below(3),
  };
}

/**
 * Bursts of faults; behind each of them the cluster must be well again, and take what every client writes.
 *
 * @param also what else must be true then
 * @returns from the time that everything was healed to the time that all was well, in ms, of the worst burst
 */
export async function endure(
  cluster: FailoverCluster,
  clients: readonly Client[],
  turmoil: Turmoil,
  bursts: number,
  also: () => Promise<void> = async () => {},
): Promise<number> {
  let wellMs = 0;
  for (let burst = 0; burst < bursts; burst++) {
    await turmoil.burst();
    const healed = monotonicMs();
    await cluster.well();
    wellMs = Math.max(wellMs, monotonicMs() - healed);
    for (const client of clients)
      await client.acknowledgedSince(healed, undefined, 10_000 * cluster.network.slow);
    await also();
  }
  return wellMs;
}

/** One cluster's life. */
export async function runRound(
  seed: number,
  network: Network,
  how: { bursts: number; shape?: Shape; dir: string },
): Promise<Round> {
  const shape = how.shape ?? shapeOf(seed);
  const etcdAt = shape.etcd > 0 && network.wires ? places.nodes : undefined;
  const options: FailoverOptions = {
    nodes: shape.nodes,
    network,
    dir: how.dir,
    coordinator: shape.etcd === 0 ? 'embedded' : { etcd: shape.etcd, ...(etcdAt && { at: etcdAt }) },
    rule: shape.rule,
    failover: { fanOut: shape.fanOut },
    // Small ones, so that the disk is asked for more all the time.
    engine: { log: { segmentBytes: 1 << 20, spareSegments: 0 } },
    ...(process.getuid?.() === 0 && { diskMebibytes: 256 }),
  };
  const cluster = await FailoverCluster.start(options);
  const clients = Array.from({ length: shape.clients }, (_, index) =>
    cluster.client(`client${index}`, 5 * network.slow, 1000),
  );
  const turmoil = new Turmoil(cluster, new Random(seed), {
    onlyInMemory: shape.rule.level === 'received',
    etcdAt,
    slow: network.slow,
  });
  let wellMs = 0;
  try {
    try {
      for (const client of clients) client.start();
      wellMs = await endure(cluster, clients, turmoil, how.bursts);
    } finally {
      await Promise.all(clients.map((client) => client.stop()));
      await cluster.close();
    }
    const audited = await cluster.audit(clients);
    const epochs = Math.max(
      ...cluster.members.flatMap(({ reigns }) => reigns.map(({ epoch }) => Number(epoch))),
    );
    cluster.remove();
    return { ...audited, shape, counts: turmoil.counts, wellMs, epochs };
  } catch (error) {
    cluster.keep();
    const { message } = error as Error;
    const faults = turmoil.said.slice(-20).join('\n');
    throw new Error(
      `seed ${seed}, ${JSON.stringify(shape)}, logs in ${how.dir}: ${message}\nfaults:\n${faults}`,
      { cause: error },
    );
  }
}

function add(into: Record<string, number>, counts: Readonly<Record<string, number | undefined>>): void {
  for (const [name, count] of Object.entries(counts)) into[name] = (into[name] ?? 0) + (count ?? 0);
}

export interface Told {
  readonly said: string;
  /** Added up over the rounds. */
  readonly sums: Readonly<Record<string, number>>;
  readonly counts: Counts;
}

/** Rounds by the command line's options, each with its own seed, until they or the time are over; and the tally. */
export async function runMany(
  round: (seed: number, network: Network, how: { bursts: number; dir: string }) => Promise<Told>,
): Promise<number> {
  const { values } = parseArgs({
    options: {
      seed: { type: 'string', default: String(Date.now() % 1_000_000) },
      rounds: { type: 'string', default: '1000000' },
      bursts: { type: 'string', default: '12' },
      minutes: { type: 'string', default: '10' },
      dir: { type: 'string', default: mkdtempSync(join(tmpdir(), 'walship-chaos-')) },
    },
  });
  const seed = Number(values.seed);
  const until = performance.now() + Number(values.minutes) * 60_000;
  const network = tcpNetwork(places.nodes + places.etcd);
  const counts: Record<string, number> = {};
  const sums: Record<string, number> = {};
  let failed = 0;
  let rounds = 0;
  try {
    for (; rounds < Number(values.rounds) && performance.now() < until; rounds++) {
      const dir = join(values.dir, String(seed + rounds));
      try {
        const told = await round(seed + rounds, network, { bursts: Number(values.bursts), dir });
        add(counts, told.counts);
        add(sums, told.sums);
        console.log(`seed ${seed + rounds} ${told.said}, ${JSON.stringify(told.counts)}`);
      } catch (error) {
        failed += 1;
        console.error((error as Error).message);
      }
    }
  } finally {
    network.close();
  }
  console.log(JSON.stringify({ seed, rounds, failed, ...sums, faults: counts }, undefined, 2));
  return failed === 0 ? 0 : 1;
}

async function tellRound(...given: Parameters<typeof runRound>): Promise<Told> {
  const { acknowledged, unknown, lost, late, epochs, wellMs, shape, counts } = await runRound(...given);
  const said =
    `${JSON.stringify(shape)}: ${acknowledged} acknowledged, ${unknown} unknown, ${late} late, ` +
    `${epochs} epochs, well after at most ${wellMs.toFixed(0)} ms`;
  return { said, sums: { acknowledged, unknown, lost, late, epochs }, counts };
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) process.exit(await runMany(tellRound));

// Replicated databases in processes that are killed, stopped, cut off, hung and asked to hand over while clients write rows,
// in rounds: test/failover/chaos.ts with SQLite on top. After each burst everything is healed, the cluster must be well again,
// and every node must show what was acknowledged last; at the end of a round all files are the same, and hold every
// acknowledged row once. Readers look at every node all along, in its own process and in another one.
//
//   node --import tsx test/databases/sqlite/chaos.ts --seed 1 --rounds 20 --bursts 12 --minutes 15
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { endure, places, runMany, type Told } from '../../failover/chaos.js';
import { type Counts, Turmoil } from '../../failover/chaos-faults.js';
import { type Client, FailoverCluster } from '../../lib/failover.js';
import type { MemberProcess } from '../../lib/member.js';
import type { Network } from '../../lib/network.js';
import { Random } from '../../simulation/random.js';
import { type AuditedRows, auditRows, readEntries } from './chaos-audit.js';
import { Reader } from './chaos-reader.js';
import { checkpoint, differenceOf } from './files.js';
import { schema } from './ledger.mjs';

export interface Shape {
  readonly etcd: 0 | 1 | 3;
  readonly fanOut: number;
  /** So many whose commits wait for the rule, and so many who await `committed()`. */
  readonly clients: { readonly waits: number; readonly awaits: number };
  readonly checkpoint: { readonly everyMs: number; readonly walBytes: number };
}

export interface Round extends AuditedRows {
  readonly shape: Shape;
  readonly counts: Counts;
  /** Consistent states that readers have seen: in the nodes' processes, and in another one. */
  readonly seen: { readonly inside: number; readonly outside: number };
  readonly wellMs: number;
  /** How often what a node had, and its successor had not, was taken back. */
  readonly cuts: number;
  readonly epochs: number;
}

const nodes = 3;
const program = fileURLToPath(new URL('member.mjs', import.meta.url));

export function shapeOf(seed: number): Shape {
  const random = new Random(seed ^ 0x5eed);
  return {
    etcd: random.pick([0, 0, 1, 3] as const),
    fanOut: random.pick([4, 1]),
    clients: random.pick([
      { waits: 1, awaits: 2 },
      { waits: 2, awaits: 1 },
      { waits: 0, awaits: 3 },
    ]),
    checkpoint: {
      everyMs: random.pick([20, 100, 1000]),
      walBytes: random.pick([64 << 10, 256 << 10, 4 << 20]),
    },
  };
}

/** One cluster's life. */
export async function runRound(
  seed: number,
  network: Network,
  how: { bursts: number; shape?: Shape; dir: string },
): Promise<Round> {
  const shape = how.shape ?? shapeOf(seed);
  const etcdAt = shape.etcd > 0 && network.wires ? places.nodes : undefined;
  const pathOf = (name: string) => join(how.dir, `${name}.db`);
  const cluster = await FailoverCluster.start({
    nodes,
    network,
    dir: how.dir,
    coordinator: shape.etcd === 0 ? 'embedded' : { etcd: shape.etcd, ...(etcdAt && { at: etcdAt }) },
    rule: { level: 'flushed', any: 1 },
    failover: { fanOut: shape.fanOut },
    engine: { log: { segmentBytes: 1 << 20, spareSegments: 0 } },
    database: { program, of: (name) => ({ path: pathOf(name), checkpoint: shape.checkpoint }) },
  });
  const { waits, awaits } = shape.clients;
  const names = [
    ...Array.from({ length: waits }, (_, index) => `waits${index}`),
    ...Array.from({ length: awaits }, (_, index) => `awaits${index}`),
  ];
  const clients = names.map((name) => cluster.client(name, 5 * network.slow));
  const paths = cluster.members.map(({ name }) => pathOf(name));
  const turmoil = new Turmoil(cluster, new Random(seed), { onlyInMemory: false, etcdAt, slow: network.slow });
  const readers: Reader[] = [];
  let inside = 0;
  try {
    let wellMs = 0;
    try {
      await (await cluster.primary())?.call('exec', schema);
      readers.push(...paths.map((path, index) => new Reader(path, new Random(seed + index))));
      for (const client of clients) client.start();
      wellMs = await endure(cluster, clients, turmoil, how.bursts, async () => {
        for (const reader of readers) reader.check();
        for (const member of cluster.members) inside += Number(await member.call('looks'));
        await expectShown(cluster, clients);
      });
    } finally {
      await Promise.all(clients.map((client) => client.stop()));
    }
    for (const reader of readers) await reader.stop();
    await expectSameFiles(cluster, paths);
    const audited = auditAll(paths, clients);
    const told = cluster.members.flatMap(({ events }) => events);
    const epochs = cluster.members.flatMap(({ reigns }) => reigns.map(({ epoch }) => Number(epoch)));
    await cluster.close();
    cluster.remove();
    return {
      ...audited,
      shape,
      counts: turmoil.counts,
      seen: { inside, outside: readers.reduce((sum, { snapshots }) => sum + snapshots, 0) },
      wellMs,
      cuts: told.filter(({ event }) => event === 'log-cut').length,
      epochs: Math.max(...epochs),
    };
  } catch (error) {
    await Promise.allSettled(readers.map((reader) => reader.stop()));
    await cluster.close();
    const { message } = error as Error;
    const faults = turmoil.said.slice(-20).join('\n');
    throw new Error(
      `seed ${seed}, ${JSON.stringify(shape)}, files in ${how.dir}: ${message}\nfaults:\n${faults}\n${cluster.story(80)}`,
      { cause: error },
    );
  }
}

/** What was acknowledged last to each client is on every node that has come as far as its LSN. */
async function expectShown(cluster: FailoverCluster, clients: readonly Client[]): Promise<void> {
  for (const { id, acknowledged } of clients) {
    const last = acknowledged.at(-1);
    if (!last) throw new Error(`nothing was acknowledged to client ${id}`);
    for (const member of cluster.members) {
      const count = await member.call('shows', last.lsn, id, last.number);
      if (count !== 1)
        throw new Error(
          `${member.name} shows record ${last.number} of ${id} ${count} times at LSN ${last.lsn}`,
        );
    }
  }
}

/** Nobody writes any more: every node applies what the primary has, and then all files are equal. */
async function expectSameFiles(cluster: FailoverCluster, paths: readonly string[]): Promise<void> {
  const lsn = await committedLsn(cluster);
  for (const member of cluster.members) await member.call('shows', lsn, '', 0);
  for (const path of paths) await checkpoint(path);
  for (const path of paths.slice(1)) {
    const difference = differenceOf(paths[0] as string, path);
    if (difference !== '') throw new Error(`at LSN ${lsn}: ${difference}`);
  }
}

/** A switchover that was asked for in the last burst may still come. */
async function committedLsn(cluster: FailoverCluster): Promise<bigint> {
  for (let tries = 0; ; tries++) {
    await cluster.well();
    const primary = (await cluster.primary()) as MemberProcess;
    try {
      return (await primary.call('committed')) as bigint;
    } catch (error) {
      if ((error as { code?: string }).code !== 'WALSHIP_ERR_NOT_PRIMARY' || tries === 5) throw error;
    }
  }
}

function auditAll(paths: readonly string[], clients: readonly Client[]): AuditedRows {
  const audits = paths.map((path) => {
    const { entries, problem } = readEntries(path);
    const audited = auditRows(entries, clients);
    const { lost, doubled, wrong } = audited;
    const problems = [
      ...(problem === '' ? [] : [problem]),
      ...lost.map((key) => `${key}, acknowledged, is lost`),
      ...doubled.map((key) => `${key} is doubled`),
      ...wrong,
    ];
    if (problems.length > 0)
      throw new Error(
        `${path}: ${lost.length} lost, ${doubled.length} doubled:\n${problems.slice(0, 20).join('\n')}`,
      );
    return audited;
  });
  return audits[0] as AuditedRows;
}

async function tellRound(...given: Parameters<typeof runRound>): Promise<Told> {
  const round = await runRound(...given);
  const { acknowledged, unknown, unknownThere, cuts, epochs, seen, wellMs } = round;
  const said =
    `${JSON.stringify(round.shape)}: ${acknowledged} acknowledged, ${unknown} unknown (${unknownThere} there), ` +
    `${epochs} epochs, ${cuts} logs cut, ${seen.inside}+${seen.outside} reads, well after at most ${wellMs.toFixed(0)} ms`;
  const sums = {
    acknowledged,
    unknown,
    unknownThere,
    lost: round.lost.length,
    doubled: round.doubled.length,
    epochs,
    cuts,
    readsInside: seen.inside,
    readsOutside: seen.outside,
  };
  return { said, sums, counts: round.counts };
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) process.exit(await runMany(tellRound));

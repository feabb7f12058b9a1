// What must be true of a cluster's logs at the end, whatever has happened meanwhile: pure, of what was found.
import { closeSync, openSync, readFileSync, rmSync } from 'node:fs';
import { exportLog, inspectLog } from '../../src/index.js';
import type { Acknowledgement } from './appender.js';

export interface FoundLog {
  readonly node: string;
  /** From LSN 0 on: a character is a byte. */
  readonly text: string;
  readonly epochs: readonly { readonly epoch: bigint; readonly firstLsn: bigint }[];
}

export interface History {
  readonly id: string;
  readonly acknowledged: readonly Acknowledgement[];
  readonly unknown: readonly number[];
  readonly refused: readonly number[];
}

export interface Audited {
  readonly acknowledged: number;
  readonly unknown: number;
  /** Acknowledged, and not there: 0 unless loss was accepted. */
  readonly lost: number;
  /**
   * Acknowledged after a newer primary had acknowledged something. It is in that one's log, from before its epoch: an old
   * primary that stood still found the word of standbys waiting that they had given before they promised.
   */
  readonly late: number;
}

export async function readLog(node: string, dir: string): Promise<FoundLog> {
  const { firstLsn, tail, epochs } = await inspectLog(dir);
  if (firstLsn !== 0n) throw new Error(`the log of ${node} begins at LSN ${firstLsn}: it cannot be audited`);
  const file = `${dir}.payload`;
  const fd = openSync(file, 'w');
  try {
    await exportLog(dir, { from: firstLsn, to: tail.lsn }, fd);
    return { node, text: readFileSync(file, 'latin1'), epochs };
  } finally {
    closeSync(fd);
    rmSync(file);
  }
}

/**
 * Everything acknowledged is there, on every node, once, where the client was told it is, and in its client's order; what
 * was refused is not; all nodes hold the same; in every epoch one node has acknowledged, and only of its own epoch.
 */
export function audit(
  logs: readonly FoundLog[],
  clients: readonly History[],
  reigns: readonly { readonly node: string; readonly epoch: bigint }[],
  lossAccepted: boolean,
): Audited {
  const [first] = logs;
  if (!first) throw new Error('there is no log');
  for (const log of logs) {
    if (log.text !== first.text) throw new Error(`the logs of ${first.node} and ${log.node} differ`);
  }
  const found = recordsOf(first, new Set(clients.map(({ id }) => id)));
  let lost = 0;
  for (const client of clients) lost += auditClient(client, found, lossAccepted);
  const there = clients.flatMap(({ id, acknowledged }) =>
    acknowledged.filter(({ number, lsn }) => found.get(`${id} ${number}`) === Number(lsn)),
  );
  return {
    acknowledged: clients.reduce((sum, { acknowledged }) => sum + acknowledged.length, 0),
    unknown: clients.reduce((sum, { unknown }) => sum + unknown.length, 0),
    lost,
    late: auditEpochs(first, there, reigns),
  };
}

/**
 * Where each record ends. An append that nobody has acknowledged may have reached the next primary in part: the log is a
 * stream of bytes, and what is sent of it ends where it may. Then a new epoch begins within it.
 */
function recordsOf(log: FoundLog, clients: ReadonlySet<string>): Map<string, number> {
  const { text, epochs } = log;
  const found = new Map<string, number>();
  const ends = [...epochs.map(({ firstLsn }) => Number(firstLsn)), text.length];
  for (let at = 0; at < text.length; ) {
    const cut = ends.find((each) => each > at) as number;
    const end = text.indexOf('\n', at);
    if ((end < 0 || end >= cut) && cut < text.length) {
      at = cut;
      continue;
    }
    const line = text.slice(at, end < 0 ? undefined : end);
    const key = /^\w+ \d+(?= |$)/.exec(line)?.[0];
    if (end < 0 || key === undefined || !clients.has(key.slice(0, key.indexOf(' '))))
      throw new Error(`no client's record, at LSN ${at}: ${line.slice(0, 60)}`);
    if (found.has(key))
      throw new Error(`record ${key} is doubled: it ends at ${found.get(key)} and ${end + 1}`);
    found.set(key, end + 1);
    at = end + 1;
  }
  return found;
}

function auditClient(client: History, found: ReadonlyMap<string, number>, lossAccepted: boolean): number {
  const { id } = client;
  const acknowledged = new Map(client.acknowledged.map((each) => [each.number, each]));
  let lost = 0;
  let behind = 0;
  const numbers = [...acknowledged.keys(), ...client.unknown].sort((x, y) => x - y);
  for (const number of numbers) {
    const end = found.get(`${id} ${number}`);
    const told = acknowledged.get(number);
    if (end === undefined) {
      if (told && !lossAccepted)
        throw new Error(`client ${id}: record ${number}, acknowledged by ${told.node}, is lost`);
      if (told) lost += 1;
      continue;
    }
    if (told && !lossAccepted && told.lsn !== BigInt(end))
      throw new Error(
        `client ${id}: record ${number} was acknowledged at LSN ${told.lsn} and ends at ${end}`,
      );
    // One without an answer may come after those that were sent later; but after those that were acknowledged before.
    if (end <= behind)
      throw new Error(`client ${id}: record ${number} comes before one acknowledged earlier`);
    if (told) behind = end;
  }
  for (const number of client.refused) {
    if (found.has(`${id} ${number}`))
      throw new Error(`client ${id}: record ${number} was refused and is there`);
  }
  return lost;
}

/** @returns how many acknowledgements came late */
function auditEpochs(
  log: FoundLog,
  acknowledged: readonly Acknowledgement[],
  reigns: readonly { readonly node: string; readonly epoch: bigint }[],
): number {
  const owners = new Map<bigint, string>();
  const own = (epoch: bigint, node: string) => {
    const owner = owners.get(epoch) ?? node;
    if (owner !== node) throw new Error(`${owner} and ${node} were both primary in epoch ${epoch}`);
    owners.set(epoch, node);
  };
  for (const { epoch, node } of reigns) own(epoch, node);
  const sorted = [...acknowledged].sort((x, y) => Number(x.lsn - y.lsn));
  const begun = new Map<bigint, number>();
  const epochOf = new Map<Acknowledgement, bigint>();
  let at = 0;
  for (const each of sorted) {
    while ((log.epochs[at + 1]?.firstLsn ?? each.lsn) < each.lsn) at += 1;
    const epoch = log.epochs[at]?.epoch;
    if (epoch === undefined) throw new Error(`LSN ${each.lsn} is of no epoch`);
    own(epoch, each.node);
    epochOf.set(each, epoch);
    begun.set(epoch, Math.min(begun.get(epoch) ?? Number.POSITIVE_INFINITY, each.committedAt));
  }
  /** When anything newer than an epoch was first acknowledged. */
  const ended = new Map<bigint, number>();
  let earliest = Number.POSITIVE_INFINITY;
  for (const [epoch, when] of [...begun].reverse()) {
    ended.set(epoch, earliest);
    earliest = Math.min(earliest, when);
  }
  return sorted.filter((each) => each.committedAt > (ended.get(epochOf.get(each) as bigint) as number))
    .length;
}

// How fast the primary's WAL gets into a log on another host, and what processor time that takes.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { until } from '../../test/databases/postgres/support.js';
import type { Stage } from './stage.js';
import { type Shipping, threadSeconds } from './ways.js';

/** Acknowledged from memory, and from the disk; what `synchronous_commit` is then. */
export const shippingLevels = { received: 'remote_write', flushed: 'on' } as const;
export type ShippingLevel = keyof typeof shippingLevels;

/**
 * `message`: large messages in one transaction, as fast as the server writes them; `copy`: rows; `backlog`: the same messages,
 * which are all there before anything of them is shipped, so that nothing but the shipping takes time.
 */
export const workloads = ['message', 'copy', 'backlog'] as const;
export type Workload = (typeof workloads)[number];

export interface Shipped {
  readonly bytesPerSecond: number;
  /** Processor time per 10^9 bytes of WAL: of every process that has to do with the shipping, by name. */
  readonly cpuPerGb: Readonly<Record<string, number>>;
}

const messageBytes = 1_000_000;
const rowBytes = 1000;

/** A table for `copy`, and the file of its rows. */
export async function prepareCopy(stage: Stage, bytes: number): Promise<void> {
  const row = `1\t${'x'.repeat(rowBytes)}\n`;
  writeFileSync(rowsFile(stage), row.repeat(Math.ceil(bytes / row.length)));
  await stage.primary.sql('create table copied (id int, body text)');
  await stage.primary.sql('alter table copied alter body set storage plain');
}

/** One transaction that writes `bytes` of WAL: from its begin, or from when shipping begins, to its acknowledged commit. */
export async function ship(
  stage: Stage,
  way: Shipping,
  workload: Workload,
  level: ShippingLevel,
  bytes: number,
): Promise<Shipped> {
  const { primary } = stage;
  await stage.use(way);
  await primary.sql('truncate copied');
  await primary.sql('checkpoint');
  const walsender = await stage.walsender();
  const cpu = async () => ({
    ...(await way.cpuSeconds()),
    walsender: threadSeconds(walsender),
  });
  const position = async () => BigInt(await primary.sql("select pg_current_wal_insert_lsn() - '0/0'"));
  const before = { lsn: await position(), cpu: await cpu() };

  const held = workload === 'backlog';
  if (held) way.hold(true);
  let start = performance.now();
  const commit = primary.sql(
    `set synchronous_commit = ${shippingLevels[level]}; ${textOf(stage, workload, bytes)}`,
    120_000,
  );
  commit.catch(() => {});
  if (held) {
    try {
      await until(
        'the transaction waits for its acknowledgement',
        async () => {
          const text = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'";
          return (await primary.sql(text)) === '1';
        },
        120_000,
      );
    } finally {
      start = performance.now();
      way.hold(false);
    }
  }
  await commit;
  const seconds = (performance.now() - start) / 1000;
  const written = Number((await position()) - before.lsn);
  // What is in memory alone goes to the disk, too.
  await primary.sql("set synchronous_commit = on; select pg_logical_emit_message(true, 'bench', 'flushed')");
  await sleep(200);
  const spent = Object.entries(await cpu()).map(([name, at]) => {
    return [name, (at - (before.cpu[name as keyof typeof before.cpu] as number)) / (written / 1e9)] as const;
  });
  return { bytesPerSecond: written / seconds, cpuPerGb: Object.fromEntries(spent) };
}

function textOf(stage: Stage, workload: Workload, bytes: number): string {
  if (workload === 'copy') return `copy copied from '${rowsFile(stage)}'`;
  const count = Math.ceil(bytes / messageBytes);
  const message = `pg_logical_emit_message(true, 'bench', repeat('x', ${messageBytes}))`;
  return `select count(${message}) from generate_series(1, ${count})`;
}

function rowsFile(stage: Stage): string {
  return join(stage.dir, 'rows');
}

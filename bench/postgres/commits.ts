// What one commit takes that waits for a standby, and how many of them pgbench gets done.
import { execFile } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { inLab } from '../lib/hosts.js';
import { quantile } from '../lib/statistics.js';
import type { Stage } from './stage.js';

export const levels = ['remote_write', 'on', 'remote_apply'] as const;
export type Level = (typeof levels)[number];

/**
 * One transaction after the other that writes one small record and its commit: the median of the times that psql takes
 * around each of them. Not pgbench's log of transactions: pgbench reads its clock once for all that it finds done in one
 * turn, and on few processors an answer is often there when it gets one.
 */
export async function commitP50Us(stage: Stage, level: Level, seconds: number): Promise<number> {
  // A second's worth on a disk, less in memory.
  const count = seconds * (inLab ? 100 : 1000);
  const script = join(stage.dir, 'commits.sql');
  const lines = [
    `set synchronous_commit = ${level};`,
    '\\timing on',
    ...Array.from({ length: count }, () => "select pg_logical_emit_message(true, 'bench', 'one commit');"),
  ];
  writeFileSync(script, lines.join('\n'));
  const { bin, conninfo } = stage.primary;
  const args = ['-X', '-q', '-v', 'ON_ERROR_STOP=1', '-o', '/dev/null', '-f', script];
  const { stdout } = await promisify(execFile)(join(bin, 'psql'), [...args, `${conninfo} dbname=postgres`], {
    env: { ...process.env, LC_ALL: 'C' },
    maxBuffer: 64 << 20,
  });
  const times = [...stdout.matchAll(/^Time: ([0-9.]+) ms/gm)].map(([, ms]) => Number(ms) * 1000);
  if (times.length !== count) throw new Error(`psql timed ${times.length} of ${count} commits`);
  return quantile(Float64Array.from(times), 0.5);
}

/** Transactions of pgbench that update one row and insert one, with `clients` at once and `synchronous_commit = on`. */
export async function transactionsPerSecond(stage: Stage, clients: number, seconds: number): Promise<number> {
  await stage.primary.sql('alter role postgres set synchronous_commit = on');
  try {
    const args = ['-n', '-M', 'prepared', '-N', '-c', String(clients), '-T', String(seconds)];
    const said = await stage.primary.pgbench(args);
    const found = /^tps = ([0-9.]+)/m.exec(said)?.[1];
    if (found === undefined) throw new Error(`pgbench gave no tps:\n${said}`);
    return Number(found);
  } finally {
    await stage.primary.sql('alter role postgres reset synchronous_commit');
  }
}

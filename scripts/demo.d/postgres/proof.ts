// The proof: what was acknowledged is there, on every server, once; and every server is whole, and has the same WAL.
import { chmodSync, copyFileSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Host } from './host.js';

export interface Account {
  /** Numbers in the table `ledger` that a client was told are there. */
  readonly acknowledged: readonly number[];
  /** pgbench's transactions that were done, and those of which it never learned. */
  readonly done: number;
  readonly unknown: number;
  tell(text: string): void;
}

const segmentBytes = 16 * 1024 * 1024;

/** @param hosts the primary first; they are stopped in the course of it @returns everything that is wrong, in words */
export async function prove(hosts: readonly Host[], account: Account): Promise<string[]> {
  const wrong: string[] = [];
  const [primary] = hosts as [Host];
  // The last segment is filled up, so that it can be compared whole, too.
  const upTo = await endOfSegment(primary);
  for (const host of hosts.slice(1)) await replayed(host, upTo);
  await compareRows(hosts, account, wrong);
  await checkTables(hosts, account, wrong);

  // A server that shuts down gives up WAL that it does not need any more.
  for (const host of hosts) keepSegments(host, upTo);
  await primary.walship('pause', '-d', primary.logDir);
  for (const host of [...hosts].reverse()) await host.stopNode();
  for (const host of [...hosts].reverse()) await host.stopServer();
  await checkFiles(hosts, account, wrong);
  await compareWal(hosts, account, wrong);
  return wrong;
}

async function endOfSegment(primary: Host): Promise<number> {
  const at = Number(await primary.sql("select pg_switch_wal() - '0/0'"));
  return Math.ceil(at / segmentBytes) * segmentBytes;
}

async function replayed(host: Host, upTo: number): Promise<void> {
  for (const until = Date.now() + 20_000; Date.now() < until; ) {
    if ((await host.sql(`select pg_last_wal_replay_lsn() - '0/0' >= ${upTo}`)) === 't') return;
  }
  throw new Error(`${host.name} has not replayed everything within 20 s`);
}

async function compareRows(
  hosts: readonly Host[],
  { acknowledged, done, unknown, tell }: Account,
  wrong: string[],
) {
  const seen = new Set<string>();
  let rows = 0;
  for (const host of hosts) {
    const counts = (await host.sql('select n, count(*) from ledger group by n')).split('\n');
    const there = new Set(counts.map((line) => Number(line.split('|')[0])));
    const missing = acknowledged.filter((n) => !there.has(n));
    const doubled = counts.filter((line) => line !== '' && !line.endsWith('|1'));
    if (missing.length > 0)
      wrong.push(`${host.name}: ${missing.length} acknowledged rows are missing: ${missing.slice(0, 5)}`);
    if (doubled.length > 0) wrong.push(`${host.name}: rows are doubled: ${doubled.slice(0, 5)}`);
    rows = Number(await host.sql('select count(*) from pgbench_history'));
    if (rows < done || rows > done + unknown)
      wrong.push(
        `${host.name}: ${rows} rows of pgbench, which was told of ${done} and not told of up to ${unknown}`,
      );
    const [accounts, tellers, branches, history] = (
      await host.sql(
        'select (select sum(abalance) from pgbench_accounts), (select sum(tbalance) from pgbench_tellers), ' +
          '(select sum(bbalance) from pgbench_branches), (select coalesce(sum(delta), 0) from pgbench_history)',
      )
    ).split('|');
    if (new Set([accounts, tellers, branches, history]).size !== 1)
      wrong.push(
        `${host.name}: balances differ: accounts ${accounts}, tellers ${tellers}, branches ${branches}, history ${history}`,
      );
    const tables = ['ledger', 'pgbench_accounts', 'pgbench_tellers', 'pgbench_branches', 'pgbench_history'];
    const sums = tables.map(
      (name) => `(select count(*) || ':' || sum(hashtextextended(t::text, 0)) from ${name} t)`,
    );
    seen.add(await host.sql(`select ${sums.join(', ')}`));
  }
  if (seen.size > 1) wrong.push(`the tables differ: ${[...seen].join(' and ')}`);
  if (wrong.length > 0) return;
  tell(
    `${acknowledged.length} rows of one client: every one that was acknowledged is on all three servers, once`,
  );
  tell(
    `${done} transactions of pgbench acknowledged, ${rows} there; ${unknown} were under way when a server died, and are ` +
      'there or not',
  );
  tell('accounts, tellers, branches and history agree, and every table is the same on all three servers');
}

async function checkTables(hosts: readonly Host[], { tell }: Account, wrong: string[]) {
  const before = wrong.length;
  for (const host of hosts) {
    await host
      .program('pg_amcheck', '--heapallindexed', ...host.options, 'postgres')
      .catch((error: { stdout?: string; message: string }) =>
        wrong.push(`${host.name}: pg_amcheck: ${error.stdout || error.message}`),
      );
  }
  if (wrong.length === before) tell('pg_amcheck: every table and index of all three servers is sound');
}

async function checkFiles(hosts: readonly Host[], { tell }: Account, wrong: string[]) {
  let blocks = 0;
  const before = wrong.length;
  for (const host of hosts) {
    try {
      const said = await host.program('pg_checksums', '--check', '-D', host.dataDir);
      blocks += Number(/Blocks scanned:\s+(\d+)/.exec(said)?.[1] ?? 0);
    } catch (error) {
      wrong.push(`${host.name}: pg_checksums: ${(error as Error).message}`);
    }
  }
  if (wrong.length === before)
    tell(`pg_checksums: ${blocks} pages of the three data directories, every checksum right`);
}

/** The newest file of every segment that a server has whole below `upTo`. */
function segmentsIn(dir: string, upTo: number): Map<number, string> {
  const found = new Map<number, string>();
  const perLog = 2 ** 32 / segmentBytes;
  for (const name of readdirSync(dir).sort()) {
    if (!/^[0-9A-F]{24}$/.test(name)) continue;
    const number = Number.parseInt(name.slice(8, 16), 16) * perLog + Number.parseInt(name.slice(16), 16);
    // Files ahead are there for later; of two timelines the later name wins.
    if ((number + 1) * segmentBytes <= upTo) found.set(number, name);
  }
  return found;
}

const walOf = (host: Host) => join(host.dataDir, '..', 'pg_wal');

function keepSegments(host: Host, upTo: number): void {
  const from = join(host.dataDir, 'pg_wal');
  mkdirSync(walOf(host));
  for (const name of segmentsIn(from, upTo).values()) {
    copyFileSync(join(from, name), join(walOf(host), name));
    chmodSync(join(walOf(host), name), 0o644); // pg_waldump may be run by another user.
  }
}

/** The WAL that walship kept, beside that of the servers: the bytes, and as pg_waldump reads them. */
async function compareWal(hosts: readonly Host[], { tell }: Account, wrong: string[]) {
  const before = wrong.length;
  let [compared, records] = [0, 0];
  for (const host of hosts) {
    const [own, exported] = [walOf(host), join(host.dataDir, '..', 'exported')];
    mkdirSync(exported);
    const segments = segmentsIn(own, Number.POSITIVE_INFINITY);
    for (const [number, name] of segments) {
      const [from, file] = [number * segmentBytes, join(exported, name)];
      const range = ['--from', String(from), '--to', String(from + segmentBytes)];
      try {
        await host.walship('log', 'export', host.logDir, ...range, '--out', file);
      } catch (error) {
        // The server has WAL of before its host had a log.
        if (!/WALSHIP_ERR_LOG_(TRIMMED|POSITION)/.test(String(error))) throw error;
        continue;
      }
      if (!readFileSync(file).equals(readFileSync(join(own, name))))
        wrong.push(`${host.name}: the segment ${name} is not what walship's log has`);
      compared++;
    }
    const newest = [...segments.values()].at(-1);
    if (newest === undefined) continue;
    const [logged, there] = await Promise.all(
      [exported, own].map((dir) => host.program('pg_waldump', '-p', dir, newest, newest)),
    );
    if (logged !== there)
      wrong.push(`${host.name}: pg_waldump reads something else in walship's log than in pg_wal`);
    records += (logged ?? '').split('\n').length - 1;
  }
  if (compared < hosts.length) wrong.push(`only ${compared} segments of the WAL could be compared`);
  if (wrong.length === before) {
    tell(`walship's logs beside the servers' pg_wal: ${compared} segments, the same bytes`);
    tell(`pg_waldump over both: ${records} records of the newest segments, the same`);
  }
}

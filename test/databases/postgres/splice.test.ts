import { existsSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { openPostgres } from '../../../src/databases/postgres/postgres.js';
import type { PostgresServe } from '../../../src/databases/postgres/serve.js';
import { cleanUp, hasWal, nodeOptions, type Scene, scene } from './scene.js';
import { background, Server, until } from './support.js';

let now: Scene | undefined;
afterEach(async () => {
  await cleanUp(now);
  now = undefined;
});

/** A primary server, its node `a`, and behind it node `b` with a standby server that replays from it. */
async function standbyHost(
  serve: (now: Scene) => Partial<PostgresServe>,
  options: Parameters<typeof scene>[1] = {},
) {
  now = await scene(15, options);
  const { dir, a } = now;
  const b = await now.follow('b', a, {
    serve: { directory: dir, port: 6000, server: `host=${dir}/standby user=postgres`, ...serve(now) },
  });
  const standby = await now.standby('standby', 'b');
  return { now, b, standby, walship: `host=${dir} port=6000 user=postgres` };
}

describe('pg_basebackup of a standby host', () => {
  it('gives a standby that starts, and replays through walship', async () => {
    const { now, standby, walship, b } = await standbyHost(() => ({}));
    const { primary, dir } = now;
    await primary.pgbench(['-i', '-s', '2', '-q']);
    const load = primary.pgbench(['-c', '2', '-T', '6', '-n']);
    await until('the standby replays', async () =>
      Number(await standby.sql('select count(*) from pgbench_history').catch(() => '0')),
    );
    const second = await Server.create(dir, 'second', primary.bin);
    now.servers.push(second);
    await second.baseBackup(walship, ['-D', second.data, '-X', 'stream']);
    await second.follow(`${walship} application_name=second`);
    await second.start();
    await load;
    await primary.sql('set synchronous_commit = remote_apply; insert into mark values (1)');
    const rows =
      'select sum(abalance), count(*) from pgbench_accounts union all select sum(delta), count(*) from pgbench_history';
    const want = await primary.sql(rows);
    await until('both have it all', async () => {
      const seen = await Promise.all([standby, second].map((each) => each.sql('select count(*) from mark')));
      return seen.every((count) => count === '1');
    });
    expect(await second.sql(rows)).toBe(want);
    expect(await second.sql('select status, sender_port from pg_stat_wal_receiver')).toBe('streaming|6000');
    expect(b.status().postgres.sender?.sessions.map((each) => each.applicationName)).toContain('second');
  }, 90_000);

  it('passes what the server can do, and its errors', async () => {
    const { now, standby, walship } = await standbyHost(() => ({}));
    const { dir } = now;
    const args = (name: string, ...more: string[]) => ['-D', join(dir, 'standby', name), ...more];
    await standby.baseBackup(walship, args('fetched', '-X', 'fetch', '--progress'));
    expect(existsSync(join(dir, 'standby', 'fetched', 'backup_label'))).toBe(true);
    expect(
      (await readdir(join(dir, 'standby', 'fetched', 'pg_wal'))).some((name) => /^0000/.test(name)),
    ).toBe(true);
    await standby.baseBackup(walship, args('tar', '-Ft', '-X', 'stream'));
    expect((await readdir(join(dir, 'standby', 'tar'))).sort()).toEqual([
      'backup_manifest',
      'base.tar',
      'pg_wal.tar',
    ]);
    await standby.baseBackup(walship, args('gzip', '-Ft', '-X', 'fetch', '--compress=server-gzip:1'));
    expect(await readdir(join(dir, 'standby', 'gzip'))).toContain('base.tar.gz');
    const nowhere = standby.baseBackup(walship, ['-X', 'fetch', '-t', 'server:/nowhere']);
    await expect(nowhere).rejects.toThrow(/ERROR: +could not create directory "\/nowhere"/);
    // The same session goes on behind an error of the server's.
    const session = background(join(standby.bin, 'psql'), [
      ...['-X', '-A', '-t', '-d', `${walship} replication=true`],
      ...['-c', 'BASE_BACKUP (NONSENSE)', '-c', 'SHOW wal_segment_size'],
    ]);
    expect(await session.ended).toMatch(/ERROR: +unrecognized base backup option: "nonsense"[\s\S]*16MB/);
  }, 60_000);

  it('is refused with what to do about it, and works again when the server is back', async () => {
    const { now, standby, walship } = await standbyHost(() => ({}));
    const { dir } = now;
    await standby.stop();
    const backup = (name: string, ...more: string[]) =>
      standby.baseBackup(walship, ['-D', join(dir, 'standby', name), '-X', 'fetch', ...more]);
    await expect(backup('one')).rejects.toThrow(
      /the server beside the walship node cannot be asked[\s\S]*No such file or directory[\s\S]*HINT: +Look at serve\.server/,
    );
    await standby.start();
    await backup('two');
    // It dies under way.
    const slow = backup('three', '--max-rate=32k').catch((error) => String(error));
    await until('it is under way', async () => {
      const seen = await standby.sql('select phase from pg_stat_progress_basebackup').catch(() => '');
      return seen === 'streaming database files';
    });
    await standby.stop();
    expect(await slow).toMatch(/ERROR: +the server beside the walship node closed the connection/);
    await standby.start();
    // The client dies under way: the server is left alone.
    const left = background(join(standby.bin, 'pg_basebackup'), [
      ...['-D', join(dir, 'standby', 'four'), '-d', walship, '-X', 'fetch', '-c', 'fast', '--max-rate=32k'],
    ]);
    const phase = () => standby.sql('select phase from pg_stat_progress_basebackup').catch(() => '');
    await until('it is under way', async () => (await phase()) === 'streaming database files');
    await left.stop();
    await until('the server has given it up', async () => (await phase()) === '');
  }, 90_000);

  it('needs to know the server, which is that of server by default', async () => {
    now = await scene(15);
    const { dir, a, primary } = now;
    await hasWal(await now.follow('b', a));
    const walship = `host=${dir} port=6000 user=postgres`;
    const into = ['-D', join(dir, 'primary', 'backup'), '-X', 'stream'];
    await expect(primary.baseBackup(walship, into)).rejects.toThrow(
      /knows of no server[\s\S]*HINT: +Set serve\.server/,
    );
    await a.close();
    now.a = await openPostgres({
      ...nodeOptions(dir, 'a'),
      server: { conninfo: primary.conninfo },
      serve: { directory: dir, port: 6009 },
    });
    now.nodes.push(now.a);
    await hasWal(now.a);
    await primary.baseBackup(`host=${dir} port=6009 user=postgres`, into);
    expect(existsSync(join(dir, 'primary', 'backup', 'backup_label'))).toBe(true);
  }, 60_000);
});

describe('a history file older than the log', () => {
  it('comes from the server beside the node, and stays', async () => {
    const { now, standby, walship, b } = await standbyHost(() => ({}), { timeline: 3 });
    const { dir, primary } = now;
    const theirs = await readFile(join(primary.data, 'pg_wal', '00000003.history'), 'utf8');
    const ours = join(dir, 'log-b', '00000003.history');
    await hasWal(b);
    expect(existsSync(ours)).toBe(false);
    const ask = () => standby.psql(`${walship} replication=true`, 'TIMELINE_HISTORY 3');
    expect(await ask()).toBe(`00000003.history|${theirs}`.trim());
    expect(await readFile(ours, 'utf8')).toBe(theirs);
    await standby.stop();
    expect(await ask()).toBe(`00000003.history|${theirs}`.trim());
    const older = standby.psql(`${walship} replication=true`, 'TIMELINE_HISTORY 2');
    await expect(older).rejects.toThrow(
      /could not open file "pg_wal\/00000002.history"[\s\S]*DETAIL: .*\.s\.PGSQL\.5432/,
    );
  }, 60_000);
});

describe('an ordinary connection', () => {
  const passedOn = () =>
    standbyHost(({ dir }) => ({ ordinary: { host: join(dir, 'standby'), sessionsMax: 2 } }));

  it('is passed on to the server, with cancel requests', async () => {
    const { standby, walship, b } = await passedOn();
    const sql = (text: string) => standby.psql(`${walship} dbname=postgres`, text);
    expect(await sql('select pg_is_in_recovery(), inet_server_port()')).toBe('t|');
    // More than every buffer on the way holds.
    const wide = await sql("select repeat('x', 1000000) from generate_series(1, 20)");
    expect(wide.length).toBe(20 * 1_000_001 - 1);
    const sleeper = background(join(standby.bin, 'psql'), [
      '-X',
      '-d',
      `${walship} dbname=postgres application_name=sleeper`,
      '-c',
      'select pg_sleep(60)',
    ]);
    const sleeping =
      "select count(*) from pg_stat_activity where application_name = 'sleeper' and wait_event = 'PgSleep'";
    await until('it sleeps', async () => (await standby.sql(sleeping)) === '1');
    expect(b.status().postgres.sender?.ordinary).toBe(1);
    expect(await sleeper.stop()).toMatch(/canceling statement due to user request/);
    await until('its place is free', () => b.status().postgres.sender?.ordinary === 0);
  }, 60_000);

  it('has its password asked for by the server', async () => {
    const { now, standby, walship } = await passedOn();
    await now.primary.sql("create role app login password 'the right one'");
    await now.primary.sql('set synchronous_commit = remote_apply; insert into mark values (1)');
    await until('the standby has it', async () => (await standby.sql('select count(*) from mark')) === '1');
    await standby.trustNobody('app');
    const as = (rest: string) =>
      standby.psql(`${walship.replace('postgres', 'app')} dbname=postgres ${rest}`, 'select current_user');
    expect(await as("password='the right one'")).toBe('app');
    await expect(as("password='a wrong one'")).rejects.toThrow(
      /password authentication failed for user "app"/,
    );
  }, 60_000);

  it('is refused when there are too many, when the server is gone, and when nothing is said about it', async () => {
    const { now, standby, walship, b } = await passedOn();
    const sql = (text: string) => standby.psql(`${walship} dbname=postgres`, text);
    const sleepers = [1, 2].map(() =>
      background(join(standby.bin, 'psql'), [
        '-X',
        '-d',
        `${walship} dbname=postgres`,
        '-c',
        'select pg_sleep(60)',
      ]),
    );
    await until('both are there', () => b.status().postgres.sender?.ordinary === 2);
    await expect(sql('select 1')).rejects.toThrow(/FATAL: +sorry, too many clients already/);
    await Promise.all(sleepers.map((each) => each.stop()));
    await until('there is room', () => b.status().postgres.sender?.ordinary === 0);
    await standby.stop();
    await expect(sql('select 1')).rejects.toThrow(
      /FATAL: +the server beside the walship node cannot be reached: .*No such file/,
    );
    await standby.start();
    expect(await sql('select 1')).toBe('1');
    await now.follow('c', b);
    await expect(standby.psql(`host=${now.dir} port=6001 user=postgres`, 'select 1')).rejects.toThrow(
      /physical replication only[\s\S]*HINT: +Set serve\.ordinary/,
    );
  }, 60_000);
});

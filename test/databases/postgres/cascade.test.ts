import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { openPostgres } from '../../../src/databases/postgres/postgres.js';
import { cleanUp, nodeOptions, type Scene, scene } from './scene.js';
import { background, binDirOf, Server, scratch, until } from './support.js';

let now: Scene | undefined;
afterEach(async () => {
  await cleanUp(now);
  now = undefined;
});

const rows = (server: Server) =>
  server.sql(
    'select sum(abalance), count(*) from pgbench_accounts union all select sum(tbalance), count(*) from pgbench_tellers ' +
      'union all select sum(delta), count(*) from pgbench_history',
  );

describe.each([15, 17, 18])('PostgreSQL %i', (major) => {
  const bin = binDirOf(major);

  it.skipIf(bin === undefined)(
    'streams through two nodes into a real standby while pgbench runs',
    async () => {
      now = await scene(major);
      const { primary, a } = now;
      const b = await now.follow('b', a);
      const c = await now.follow('c', b);
      const standby = await now.standby('standby', 'c');
      // More at once than a message takes, and than a socket does.
      await primary.pgbench(['-i', '-s', '5', '-q']);
      const done = primary.pgbench(['-c', '4', '-T', '3', '-M', 'prepared', '-n']);
      // A reader on the standby sees it come.
      const first = Number(await standby.sql('select count(*) from pgbench_history').catch(() => '0'));
      await until('the standby replays', async () => {
        return Number(await standby.sql('select count(*) from pgbench_history').catch(() => '0')) > first;
      });
      await done;
      await primary.sql('set synchronous_commit = remote_apply; insert into mark values (1)');
      expect(await rows(standby)).toBe(await rows(primary));
      expect(await standby.sql('select count(*) from mark')).toBe('1');

      // One stream, of whole records: a record that comes in two messages is a broken one to a standby, which begins anew.
      const log = await standby.log();
      expect(log).not.toMatch(/incorrect resource manager data checksum|invalid magic number/);
      expect(log.match(/started streaming WAL/g)).toHaveLength(1);

      // Both servers think that they talk to PostgreSQL.
      await until('pg_stat_replication shows everything replayed', async () => {
        const seen = await primary.sql(
          'select application_name, state, sync_state, sent_lsn = write_lsn and sent_lsn = flush_lsn and ' +
            "sent_lsn = replay_lsn, reply_time > now() - interval '5s' from pg_stat_replication",
        );
        return seen === 'walship|streaming|sync|t|t';
      });
      await until('pg_stat_wal_receiver shows it, too', async () => {
        const seen = await standby.sql(
          'select status, received_tli, sender_port, flushed_lsn = latest_end_lsn from pg_stat_wal_receiver',
        );
        return seen === 'streaming|1|6001|t';
      });
      expect(await primary.sql('select slot_name, active, wal_status from pg_replication_slots')).toBe(
        'walship|t|reserved',
      );
      const status = c.status().postgres.sender;
      expect(status?.majorVersion).toBe(major);
      expect(status?.systemId).toBe(
        BigInt(await primary.sql('select system_identifier from pg_control_system()')),
      );
    },
    60_000,
  );
});

describe('pg_receivewal', () => {
  it('pointed at a node writes the same segment files as the server', async () => {
    now = await scene(15);
    const { primary, a, dir } = now;
    const b = await now.follow('b', a);
    await until('the node has WAL', () => b.status().postgres.sender?.systemId !== undefined);
    const into = await now.folder('received');
    const slot = background(join(primary.bin, 'pg_receivewal'), [
      '-h',
      dir,
      '-p',
      '6000',
      '-U',
      'postgres',
      '-D',
      into,
      '--create-slot',
      '-S',
      'archive',
    ]);
    expect(await slot.ended).toBe('');
    const receiving = background(join(primary.bin, 'pg_receivewal'), [
      '-h',
      dir,
      '-p',
      '6000',
      '-U',
      'postgres',
      '-D',
      into,
      '-S',
      'archive',
      '--synchronous',
    ]);
    await primary.pgbench(['-i', '-s', '4', '-q']);
    for (let i = 0; i < 3; i++) {
      await primary.sql("select pg_logical_emit_message(false, 'x', repeat('y', 1000000))");
      await primary.sql('select pg_switch_wal()');
    }
    const last = await primary.sql('select pg_walfile_name(pg_current_wal_lsn())');
    const files = primary.segments().filter((name) => name < last);
    expect(files.length).toBeGreaterThan(3);
    const wanted = files.slice(-4);
    await until('all segments are written', async () => {
      for (const name of wanted) {
        const [theirs, ours] = await Promise.all([
          readFile(join(primary.data, 'pg_wal', name)),
          readFile(join(into, name)).catch(() => undefined),
        ]);
        if (!ours?.equals(theirs)) return false;
      }
      return true;
    });
    expect(await receiving.stop()).not.toMatch(/error/i);
  }, 60_000);
});

describe('psql in replication mode', () => {
  it('is answered as PostgreSQL answers', async () => {
    now = await scene(15);
    const { primary, dir, a } = now;
    const b = await now.follow('b', a);
    await primary.sql('create table t as select generate_series(1, 1000) n');
    await b.engine.reached(
      'flushed',
      BigInt(await primary.sql("select pg_current_wal_flush_lsn() - '0/0'")),
      10_000,
    );
    const ask = (command: string) =>
      primary.psql(`host=${dir} port=6000 user=postgres replication=true`, command);
    const system = (await ask('IDENTIFY_SYSTEM')).split('|');
    expect(system[0]).toBe(await primary.sql('select system_identifier from pg_control_system()'));
    expect(system[1]).toBe('1');
    expect(await ask('SHOW wal_segment_size')).toBe('16MB');
    expect(await ask('SHOW data_directory_mode')).toBe('0700');
    await expect(ask('SHOW nonsense')).rejects.toThrow(/unrecognized configuration parameter "nonsense"/);
    await expect(ask('TIMELINE_HISTORY 7')).rejects.toThrow(/could not open file "pg_wal\/00000007.history"/);
    await expect(ask('START_REPLICATION FF/0')).rejects.toThrow(
      /ahead of the WAL flush position of this server/,
    );
    await expect(ask('START_REPLICATION 0/0')).rejects.toThrow(/has already been removed/);
    await expect(ask('START_REPLICATION 0/1000000 TIMELINE 9')).rejects.toThrow(
      /not in this server's history/,
    );
    await expect(ask('START_REPLICATION SLOT "none" 0/1000000')).rejects.toThrow(
      /replication slot "none" does not exist/,
    );
    await expect(ask('SELEC 1')).rejects.toThrow(/replication/);
    expect(await ask('CREATE_REPLICATION_SLOT held PHYSICAL RESERVE_WAL')).toMatch(/^held\|0\/0/);
    await expect(ask('CREATE_REPLICATION_SLOT held PHYSICAL')).rejects.toThrow(/already exists/);
    expect(await ask('READ_REPLICATION_SLOT held')).toMatch(/^physical\|0\/\d000000\|1$/);
    await ask('DROP_REPLICATION_SLOT held');
    expect(await ask('READ_REPLICATION_SLOT held')).toBe('||');
    await expect(primary.psql(`host=${dir} port=6000 user=postgres`, 'select 1')).rejects.toThrow(
      /physical replication only/,
    );
  }, 60_000);
});

describe('a receiver', () => {
  it('refuses a server of another cluster', async () => {
    now = await scene(15);
    const { primary, a, dir } = now;
    await primary.sql('create table t as select generate_series(1, 1000) n');
    await until('the log has WAL', () => (a.status().postgres.receiver?.bytes ?? 0) > 8192);
    await a.close();
    const other = await Server.create(dir, 'other', primary.bin);
    now.servers.push(other);
    await other.init();
    await other.start();
    const opening = openPostgres({ ...nodeOptions(dir, 'a'), server: { conninfo: other.conninfo } });
    await expect(opening).rejects.toMatchObject({ code: 'WALSHIP_ERR_POSTGRES_FOREIGN' });
  }, 60_000);

  it('says what libpq says when the server cannot be reached', async () => {
    const dir = await scratch();
    now = { dir, servers: [], nodes: [] } as unknown as Scene;
    const opening = openPostgres({
      ...nodeOptions(dir, 'a'),
      server: { conninfo: `host=${dir} user=nobody` },
    });
    await expect(opening).rejects.toMatchObject({
      code: 'WALSHIP_ERR_POSTGRES_CONNECT',
      message: expect.stringMatching(/\.s\.PGSQL\.5432.*failed/),
    });
  });
});

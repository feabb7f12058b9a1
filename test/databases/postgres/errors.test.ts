// What a DBA reads when the server and the log do not go together.
import { afterEach, describe, expect, it } from 'vitest';
import { openPostgres } from '../../../src/databases/postgres/postgres.js';
import { cleanUp, nodeOptions, type Scene, scene } from './scene.js';
import { Server, until } from './support.js';

let now: Scene | undefined;
afterEach(async () => {
  await cleanUp(now);
  now = undefined;
});

/** Of WAL that nobody needs any more, so much that the server removes what came before. */
async function moveOn(server: Server): Promise<void> {
  for (let i = 0; i < 4; i++) {
    await server.sql(
      "select pg_logical_emit_message(false, 'x', repeat('y', 100000)); select pg_switch_wal()",
    );
  }
  await server.sql('checkpoint');
}

const unready = (scene: Scene) => {
  const port = scene.a.engine.listenPort;
  return { ...nodeOptions(scene.dir, 'a'), listen: `127.0.0.1:${port}` };
};

describe('a receiver that cannot go on', () => {
  it('a wrong password, in the words of libpq, on both ends', async () => {
    now = await scene(15);
    const { primary, a } = now;
    await primary.sql("create role shipper replication login password 'right'");
    const port = 20_000 + (process.pid % 20_000) * 2;
    await primary.configure({ listen_addresses: '127.0.0.1', port: '5432' });
    await primary.replaceHba(
      'local all all trust\nlocal replication all trust\nhost all all 127.0.0.1/32 scram-sha-256\nhost replication all 127.0.0.1/32 scram-sha-256\n',
    );
    await primary.configure({ port: String(port) });
    await a.close();
    await primary.stop('fast');
    await primary.start();
    const conninfo = (password: string) => `host=127.0.0.1 port=${port} user=shipper password=${password}`;
    const open = (password: string) =>
      openPostgres({ ...unready(now as Scene), server: { conninfo: conninfo(password) } });
    await expect(open('wrong')).rejects.toMatchObject({
      code: 'WALSHIP_ERR_POSTGRES_CONNECT',
      message: expect.stringMatching(/FATAL: +password authentication failed for user "shipper"/),
    });
    expect(await primary.log()).toMatch(/FATAL: +password authentication failed for user "shipper"/);
    now.nodes.push(await open('right'));
  }, 60_000);

  it('a slot that was dropped is made again, and nothing is missing', async () => {
    now = await scene(15);
    const { primary, a } = now;
    await now.follow('b', a);
    const standby = await now.standby('standby', 'b');
    const end = () => primary.sql("select pg_current_wal_flush_lsn() - '0/0'").then(BigInt);
    await primary.sql('insert into mark values (1)');
    await a.engine.reached('committed', await end(), 10_000);
    // Its walsender has to go first: the receiver comes back at once.
    await until('the slot is dropped', () =>
      primary
        .sql(
          "select pg_terminate_backend(active_pid) from pg_replication_slots; select pg_sleep(0.02); select pg_drop_replication_slot('walship')",
        )
        .then(() => true)
        .catch(() => false),
    );
    await primary.sql('set synchronous_commit = remote_apply; insert into mark values (2)');
    expect(await standby.sql('select sum(n) from mark')).toBe('3');
    expect(await primary.sql('select active from pg_replication_slots')).toBe('t');
  }, 60_000);

  it('WAL that the server has removed: which, and what to do', async () => {
    now = await scene(15);
    const { primary, a } = now;
    await now.follow('b', a);
    // A log that has nothing yet would begin wherever the server's WAL does.
    const end = BigInt(await primary.sql("select pg_current_wal_flush_lsn() - '0/0'"));
    await a.engine.reached('committed', end, 20_000);
    await a.close();
    await primary.sql("alter system set synchronous_standby_names = ''");
    await primary.stop('fast');
    await primary.start();
    await primary.sql("select pg_drop_replication_slot('walship')");
    await moveOn(primary);
    const back = await openPostgres({ ...unready(now), server: { conninfo: primary.conninfo } });
    now.nodes.push(back);
    const problem = await until('it says so', () => {
      const said = back.status().postgres.receiver?.problem?.message;
      return said?.includes('removed') ? said : undefined;
    });
    expect(problem).toMatch(
      /^58P01: requested WAL segment 0000000100000000000000\w\w has already been removed/,
    );
    expect(problem).toMatch(
      /the log ends at 0\/\w+, and the server has no longer what follows: .* begin a new log/,
    );
  }, 60_000);

  it('a server whose history is another than the log’s', async () => {
    now = await scene(15);
    const { primary, a, dir } = now;
    const other = await Server.create(dir, 'other', primary.bin);
    now.servers.push(other);
    // A copy of before: what comes now was never part of its history.
    await other.cloneFrom(primary, '');
    await primary.sql('insert into mark select generate_series(1, 10000)');
    const end = BigInt(await primary.sql("select pg_current_wal_flush_lsn() - '0/0'"));
    await until('the log has it', () => a.engine.positions.received >= end);
    await a.close();
    await primary.stop('immediate');
    await other.start();
    await other.promote();
    const back = await openPostgres({ ...unready(now), server: { conninfo: other.conninfo } });
    now.nodes.push(back);
    const problem = await until('it says so', () => back.status().postgres.receiver?.problem);
    expect(problem).toMatchObject({ code: 'WALSHIP_ERR_POSTGRES_DIVERGED' });
    expect(problem.message).toMatch(
      /the log holds WAL of timeline 1 up to 0\/\w+, but the server left that timeline at 0\/\w+/,
    );
    // It is as it was: nothing of the wrong history came in.
    expect(back.engine.positions.received).toBeGreaterThanOrEqual(end);
  }, 60_000);
});

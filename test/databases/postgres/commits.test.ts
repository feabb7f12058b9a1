import { afterEach, describe, expect, it } from 'vitest';
import { openPostgres } from '../../../src/databases/postgres/postgres.js';
import { cleanUp, nodeOptions, type Scene, scene } from './scene.js';
import { sleep, until } from './support.js';

let now: Scene | undefined;
afterEach(async () => {
  await cleanUp(now);
  now = undefined;
});

let next = 0;

/** A commit at a level of `synchronous_commit`: whether it has come back is asked for later. */
function commit(level: string) {
  const number = ++next;
  let done = false;
  let failed: unknown;
  const promise = (now as Scene).primary
    .sql(`set synchronous_commit = ${level}; insert into mark values (${number})`)
    .then(
      () => {
        done = true;
      },
      (error) => {
        failed = error;
      },
    );
  return {
    number,
    async waits() {
      await sleep(400);
      if (failed) throw failed;
      expect(done, `a commit with synchronous_commit = ${level} came back`).toBe(false);
    },
    async returns() {
      await promise;
      if (failed) throw failed;
    },
  };
}

describe('synchronous_commit', () => {
  it('remote_write waits for received, on for flushed, remote_apply for applied', async () => {
    now = await scene(15);
    const { primary, a } = now;

    // Nobody there: only what waits for nobody comes back.
    await commit('local').returns();
    await commit('off').returns();
    const early = [commit('remote_write'), commit('on'), commit('remote_apply')];
    for (const each of early) await each.waits();

    // A node that has it in memory, and syncs only after a long while.
    const b = await now.follow('b', a, { durability: { sync: 'interval', intervalMs: 60_000 } });
    await early[0]?.returns();
    await commit('remote_write').returns();
    await early[1]?.waits();
    await b.close();

    const durable = await now.follow('b', a);
    await early[1]?.returns();
    await commit('on').returns();
    await early[2]?.waits();

    const standby = await now.standby('standby', 'b');
    await early[2]?.returns();
    const last = commit('remote_apply');
    await last.returns();
    // Applied means visible, in this very moment.
    expect(await standby.sql(`select count(*) from mark where n = ${last.number}`)).toBe('1');

    await standby.stop();
    await commit('on').returns();
    const waiting = commit('remote_apply');
    await waiting.waits();
    await standby.start();
    await waiting.returns();
    expect(await standby.sql('select count(*) from mark')).toBe(
      await primary.sql('select count(*) from mark'),
    );
    expect(durable.role).toBe('standby');
  }, 60_000);

  it('waits for the second node of a cascade when the rule names it', async () => {
    now = await scene(15, { commitRule: { level: 'flushed', any: 1, nodes: ['c'] } });
    const b = await now.follow('b', now.a);
    const waiting = commit('on');
    await waiting.waits();
    const c = await now.follow('c', b);
    await waiting.returns();
    await c.close();
    const again = commit('on');
    await again.waits();
    await now.follow('c', b);
    await again.returns();
  }, 60_000);
});

describe('an outage', () => {
  it('of the primary’s node: commits wait, and go on when it is back, without a restart of PostgreSQL', async () => {
    now = await scene(15);
    const { primary, a, dir } = now;
    const port = a.engine.listenPort;
    await now.follow('b', a);
    const standby = await now.standby('standby', 'b');
    await commit('on').returns();
    await a.close();
    const waiting = [commit('on'), commit('remote_apply')];
    for (const each of waiting) await each.waits();
    const back = await openPostgres({
      ...nodeOptions(dir, 'a'),
      listen: `127.0.0.1:${port}`,
      server: { conninfo: primary.conninfo },
    });
    now.nodes.push(back);
    for (const each of waiting) await each.returns();
    await primary.pgbench(['-i', '-s', '1', '-q']);
    await commit('remote_apply').returns();
    expect(await standby.sql('select count(*) from pgbench_accounts')).toBe('100000');
  }, 60_000);

  it('of a standby’s node, and of the primary server: everything goes on', async () => {
    now = await scene(15);
    const { primary, a } = now;
    let b = await now.follow('b', a);
    const standby = await now.standby('standby', 'b');
    await commit('remote_apply').returns();
    await b.close();
    const waiting = commit('on');
    await waiting.waits();
    b = await now.follow('b', a);
    await waiting.returns();
    for (const mode of ['immediate', 'fast'] as const) {
      await primary.stop(mode);
      await primary.start();
      await commit('remote_apply').returns();
    }
    expect(await standby.sql('select count(*) from mark')).toBe(
      await primary.sql('select count(*) from mark'),
    );
    expect(a.status().postgres.receiver?.connects).toBe(3);
    await until('the slot keeps no more WAL than it must', async () => {
      const kept = await primary.sql('select pg_current_wal_lsn() - restart_lsn from pg_replication_slots');
      return Number(kept) === 0;
    });
  }, 60_000);

  it('PostgreSQL keeps its WAL until the log has flushed it', async () => {
    now = await scene(15);
    const { primary, a } = now;
    await now.follow('b', a);
    await commit('on').returns();
    await a.close();
    const kept = await primary.sql('select restart_lsn from pg_replication_slots');
    for (let i = 0; i < 3; i++) {
      await primary.sql(
        "select pg_logical_emit_message(false, 'x', repeat('y', 100000)); select pg_switch_wal()",
      );
    }
    await primary.sql('checkpoint');
    expect(await primary.sql('select restart_lsn, wal_status from pg_replication_slots')).toBe(
      `${kept}|reserved`,
    );
  }, 60_000);
});

import { join } from 'node:path';
import { afterEach, expect, it } from 'vitest';
import { cleanUp, type Scene, scene } from './scene.js';
import { background, until } from './support.js';

let now: Scene | undefined;
afterEach(async () => {
  await cleanUp(now);
  now = undefined;
});

it('what a query on a cascaded standby still has to see stays on the primary, and no longer', async () => {
  now = await scene(15, { statusMs: 100 });
  const { primary, a } = now;
  await now.follow('c', await now.follow('b', a));
  const standby = await now.standby('standby', 'c', {
    max_standby_streaming_delay: '0',
    wal_receiver_status_interval: '1',
    hot_standby_feedback: 'on',
  });
  const held = async () =>
    Number(await primary.sql("select coalesce(xmin::text, '0') from pg_replication_slots"));
  /** Its rows go, and are vacuumed, while a reader on the standby has a snapshot that sees them. What the reader says. */
  const deleteUnderReader = async (table: string, known: () => Promise<boolean>) => {
    await primary.sql(`create table ${table} as select generate_series(1, 1000) n`);
    await primary.sql('set synchronous_commit = remote_apply; insert into mark values (1)');
    await until('the standby has it', async () => {
      return (await standby.sql(`select count(*) from ${table}`).catch(() => '')) === '1000';
    });
    const reader = background(join(standby.bin, 'psql'), [
      ...['-X', '-q', '-A', '-t', '-d', `${standby.conninfo} dbname=postgres application_name=reader`],
      ...['-c', 'begin isolation level repeatable read', '-c', `select count(*) from ${table}`],
      ...['-c', 'select pg_sleep(4)', '-c', `select count(*) from ${table}`],
    ]);
    const asleep =
      "select count(*) from pg_stat_activity where application_name = 'reader' and wait_event = 'PgSleep'";
    await until('it has its snapshot', async () => (await standby.sql(asleep)) === '1');
    await until('the primary knows what it has to', known);
    await primary.sql(`delete from ${table}`);
    await primary.sql(`vacuum ${table}`);
    return reader.ended;
  };

  const last = async () => Number(await primary.sql('select txid_current()'));
  let since = 0;
  const kept = await deleteUnderReader('t', async () => {
    since ||= await last();
    return (await held()) > 0 && (await held()) <= since;
  });
  expect(kept).toBe('1000\n\n1000\n');

  // Nobody says any more what it needs: the slot forgets it, and the server may clean up.
  await standby.sql('alter system set hot_standby_feedback = off');
  await standby.reload();
  const lost = await deleteUnderReader('u', async () => (await held()) === 0);
  expect(lost).toMatch(/conflict with recovery/);
}, 90_000);

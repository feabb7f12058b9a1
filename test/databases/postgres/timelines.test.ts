import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { cleanUp, type Scene, scene } from './scene.js';
import { background, binDirOf, until } from './support.js';

let now: Scene | undefined;
afterEach(async () => {
  await cleanUp(now);
  now = undefined;
});

describe.each([15, 17, 18])('PostgreSQL %i', (major) => {
  it.skipIf(binDirOf(major) === undefined)(
    'a standby follows the new timeline of a promoted one, through its own node, and again',
    async () => {
      now = await scene(major);
      const { primary, a, dir } = now;
      const b = await now.follow('b', a, { server: { conninfo: `host=${dir}/next user=postgres` } });
      const c = await now.follow('c', b, { server: { conninfo: `host=${dir}/last user=postgres` } });
      await now.follow('d', c);
      const next = await now.standby('next', 'b');
      const last = await now.standby('last', 'c');
      const third = await now.standby('third', 'd');
      await primary.pgbench(['-i', '-s', '1', '-q']);
      await primary.sql('set synchronous_commit = remote_apply; insert into mark values (1)');
      const end = BigInt(await primary.sql("select pg_current_wal_flush_lsn() - '0/0'"));
      await primary.stop('immediate');
      await b.engine.reached('applied', end, 10_000);
      await a.close();

      await next.promote();
      await b.promote();
      await next.sql('set synchronous_commit = remote_apply; insert into mark values (2)');
      // The rule wants one of the two.
      await until('both standbys have it', async () => {
        const seen = await Promise.all([last, third].map((each) => each.sql('select count(*) from mark')));
        return seen.every((count) => count === '2');
      });
      await until('the standbys are on timeline 2', async () => {
        const seen = await Promise.all(
          [last, third].map((each) => each.sql('select received_tli, status from pg_stat_wal_receiver')),
        );
        return seen.every((each) => each === '2|streaming');
      });
      const history = (server: { data: string }, name: string) =>
        readFile(join(server.data, 'pg_wal', name), 'utf8');
      expect(await history(last, '00000002.history')).toBe(await history(next, '00000002.history'));
      expect(c.status().postgres.sender?.sessions[0]?.timeline).toBe(2);

      // pg_receivewal goes over the switch, from the beginning of the log.
      const into = await now.folder('received');
      const args = ['-h', dir, '-p', '6001', '-U', 'postgres', '-D', into];
      if (major === 15) {
        const receiving = background(join(primary.bin, 'pg_receivewal'), args);
        await until('it has come to the new timeline', async () =>
          (await readFile(join(into, '00000002.history'), 'utf8').catch(() => '')).startsWith('1\t'),
        ).catch(async (error) => {
          throw new Error(`${error}; ${await receiving.stop()}`);
        });
        expect(await receiving.stop()).not.toMatch(/error/i);
      }

      await b.engine.reached('flushed', c.engine.positions.flushed, 10_000);
      const second = BigInt(await next.sql("select pg_current_wal_flush_lsn() - '0/0'"));
      await next.stop('immediate');
      await c.engine.reached('applied', second, 10_000);
      await b.close();
      await last.promote();
      await c.promote();
      await last.sql('set synchronous_commit = remote_apply; insert into mark values (3)');
      expect(await third.sql('select count(*), sum(n) from mark')).toBe('3|6');
      expect(await history(third, '00000003.history')).toBe(await history(last, '00000003.history'));
    },
    90_000,
  );
});

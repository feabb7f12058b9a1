// A server that was the primary becomes a standby of the next one, whatever state it was left in.
import { chownSync, existsSync } from 'node:fs';
import { cp, mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { PostgresServerControl } from '../../../src/databases/postgres/managed.js';
import { assertBuilt } from '../../lib/process.js';
import { background, binDirOf, gid, remove, Server, scratch, uid, until } from './support.js';

let dir = '';
let old: Server;
let next: Server;

beforeEach(async () => {
  assertBuilt();
  dir = await scratch();
  const bin = binDirOf(15) as string;
  old = await Server.create(dir, 'old', bin);
  // Of the segments that a checkpoint has no use for, none is kept.
  await old.init({ min_wal_size: '32MB' });
  await old.start();
  await old.sql('create table mark (n int)');
  next = await Server.create(dir, 'next', bin);
  await next.cloneFrom(old, old.conninfo);
  await next.start();
});

afterEach(async () => {
  await old.stop();
  await next.stop();
  await remove(dir);
});

/** Several segments behind the last checkpoint. */
async function moveOn(): Promise<void> {
  for (let n = 1; n <= 4; n++) await old.sql(`insert into mark values (${n}); select pg_switch_wal()`);
}

const replayed = () =>
  until('the standby has it all', () => next.sql('select count(*) = 4 from mark').then((is) => is === 't'));

const control = () =>
  new PostgresServerControl(
    { conninfo: old.conninfo, dataDir: old.data, binDir: old.bin, logFile: join(old.dir, 'log') },
    { primary_conninfo: next.conninfo },
  );

async function returns(): Promise<string> {
  const server = control();
  const how = await server.follow(next.conninfo);
  await server.start();
  await next.sql('insert into mark values (100)');
  const rows = 'select string_agg(n::text, chr(32) order by n) from mark';
  await until('it follows', async () => (await old.sql(rows)) === (await next.sql(rows)));
  return how;
}

it('that was killed long after its last checkpoint, ahead of the other: it is rewound', async () => {
  await moveOn();
  await replayed();
  await next.stop('fast');
  await old.sql('insert into mark values (50)');
  await old.stop('immediate');
  await next.start();
  await next.promote();
  expect(await returns()).toBe('rewound by pg_rewind');
}, 120_000);

it('that was killed and has nothing of its own but the end of its recovery', async () => {
  await moveOn();
  await replayed();
  await old.stop('immediate');
  await next.promote();
  await next.sql('insert into mark values (50)');
  expect(await returns()).toBe('rewound by pg_rewind');
}, 120_000);

it('that was shut down, with all that it had written in the other one', async () => {
  await moveOn();
  await replayed();
  await old.stop('fast');
  await next.promote();
  await next.sql('insert into mark values (50)');
  expect(await returns()).toBe('it had nothing that the other has not');
}, 120_000);

it('whose WAL is gone: it is made anew, and the old data directory is kept', async () => {
  await next.stop('fast');
  await moveOn();
  await old.sql('checkpoint');
  await old.stop('immediate');
  await next.start();
  await next.promote();
  await next.sql('insert into mark values (50)');
  expect(await returns()).toMatch(
    /^made anew by pg_basebackup, the old one is \S+\/data\.aside: pg_rewind -D: .*/,
  );
  expect(existsSync(join(`${old.data}.aside`, 'PG_VERSION'))).toBe(true);
}, 120_000);

it('whose rewinding was broken off: it is made anew, with its own settings', async () => {
  await moveOn();
  await replayed();
  await old.stop('immediate');
  await next.promote();
  await next.sql('insert into mark values (50)');
  const server = control();
  // As the other server's death leaves it: its settings are there, and not all of its files.
  await mkdir(`${old.data}.rewinding`);
  await cp(join(old.data, 'postgresql.conf'), join(`${old.data}.rewinding`, 'postgresql.conf'));
  await cp(join(next.data, 'postgresql.conf'), join(old.data, 'postgresql.conf'));
  await rm(join(old.data, 'global', 'pg_control'));
  expect(server.isRewinding).toBe(true);
  expect(await returns()).toMatch(/^made anew by pg_basebackup, .*: it was not rewound to the end$/);
  expect(server.isRewinding).toBe(false);
}, 120_000);

it('whose new primary cannot be reached: nothing is changed, and it is tried again', async () => {
  await moveOn();
  await replayed();
  await old.stop('immediate');
  await expect(control().follow(next.conninfo)).rejects.toThrow(/is not the primary yet/);
  await next.promote();
  await next.stop('fast');
  await expect(control().follow(next.conninfo)).rejects.toThrow(/connection to server .* failed/);
  expect(control().isRewinding).toBe(false);
  await next.start();
  expect(await returns()).toBe('rewound by pg_rewind');
}, 120_000);

it('whose process is not gone yet: it is tried again, not copied', async () => {
  await old.stop('immediate');
  await next.promote();
  const lockFile = join(old.data, 'postmaster.pid');
  // Another process of the same user, as one that nobody has buried is.
  const other = background('/bin/sleep', ['60']);
  await writeFile(lockFile, `${other.pid}\n${old.data}\n1\n5432\n${old.dir}\n\n`, { mode: 0o600 });
  chownSync(lockFile, uid, gid);
  await expect(control().follow(next.conninfo)).rejects.toThrow(/lock file "postmaster.pid" already exists/);
  await other.stop();
  expect(await returns()).toBe('rewound by pg_rewind');
  expect(existsSync(`${old.data}.aside`)).toBe(false);
}, 120_000);

import { z } from 'zod';
import { settled } from '../../engine/native.js';
import type { CommitRule } from '../../engine/options.js';
import { nativePostgres } from './native.js';

/** What a server says of itself; the names are PostgreSQL's own. */
export interface ServerFacts {
  /** 150018 is 15.18. */
  readonly server_version_num: number;
  readonly system_identifier: string;
  readonly timeline: number;
  readonly in_recovery: boolean;
  readonly data_directory: string;
  readonly wal_level: string;
  readonly wal_log_hints: string;
  readonly data_checksums: string;
  readonly full_page_writes: string;
  readonly fsync: string;
  readonly hot_standby: string;
  readonly synchronous_commit: string;
  readonly synchronous_standby_names: string;
  readonly max_wal_senders: string;
  readonly max_replication_slots: string;
  readonly max_slot_wal_keep_size: string;
  readonly primary_conninfo: string;
  readonly role: string;
  readonly may_replicate: boolean;
  readonly superuser: boolean;
  /** What its WAL ends with: written by a primary, replayed by a standby. */
  readonly lsn: string;
  /** Of a standby: what it streams from, if it does. */
  readonly streams_from: string | null;
}

/** Something of a server's settings that walship needs otherwise. */
export interface Finding {
  /** `error`: it cannot work. `warn`: it works, with less than one might think. */
  readonly level: 'warn' | 'error';
  readonly message: string;
  /** What to do about it. */
  readonly remedy: string;
}

const settings = [
  'data_directory',
  'wal_level',
  'wal_log_hints',
  'data_checksums',
  'full_page_writes',
  'fsync',
  'hot_standby',
  'synchronous_commit',
  'synchronous_standby_names',
  'max_wal_senders',
  'max_replication_slots',
  'max_slot_wal_keep_size',
  'primary_conninfo',
];

// A setting that only superusers may read is NULL for others, in place of an error.
const query = `
  select json_build_object(
    'server_version_num', current_setting('server_version_num')::int,
    'system_identifier', (select system_identifier::text from pg_control_system()),
    'timeline', coalesce((select received_tli from pg_stat_wal_receiver), (select timeline_id from pg_control_checkpoint())),
    'in_recovery', pg_is_in_recovery(),
    'role', current_user,
    'may_replicate', (select rolreplication or rolsuper from pg_roles where rolname = current_user),
    'superuser', (select rolsuper from pg_roles where rolname = current_user),
    'lsn', case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end,
    'streams_from', (select coalesce(sender_host, '?') || ':' || sender_port from pg_stat_wal_receiver
                     where status = 'streaming' limit 1)
  )::jsonb || (select jsonb_object_agg(name, coalesce(setting, '')) from pg_settings
               where name in (${settings.map((name) => `'${name}'`).join(', ')}))`;

const schema = z.object({
  server_version_num: z.number(),
  system_identifier: z.string(),
  timeline: z.number(),
  in_recovery: z.boolean(),
  role: z.string(),
  may_replicate: z.boolean(),
  superuser: z.boolean(),
  lsn: z.string(),
  streams_from: z.string().nullable(),
  data_directory: z.string().default(''),
  wal_level: z.string(),
  wal_log_hints: z.string(),
  data_checksums: z.string(),
  full_page_writes: z.string(),
  fsync: z.string(),
  hot_standby: z.string(),
  synchronous_commit: z.string(),
  synchronous_standby_names: z.string(),
  max_wal_senders: z.string(),
  max_replication_slots: z.string(),
  max_slot_wal_keep_size: z.string(),
  primary_conninfo: z.string().default(''),
});

/**
 * Asks a running server.
 *
 * @param conninfo libpq's connection string or URI
 * @throws {WalshipError} `WALSHIP_ERR_POSTGRES_CONNECT`, `WALSHIP_ERR_POSTGRES_SERVER`, `WALSHIP_ERR_TIMEOUT`
 */
export async function lookAt(conninfo: string, timeoutMs: number): Promise<ServerFacts> {
  const [row] = await settled(nativePostgres.queryPostgres(`${conninfo} dbname=postgres`, query, timeoutMs));
  return schema.parse(JSON.parse(row as string));
}

/** What a server is to do beside a node. */
export interface Expected {
  /** What its `synchronous_standby_names` has to name while it is the primary. */
  readonly applicationName: string;
  /** It is started by walship, which sets what changes with its role. */
  readonly managed: boolean;
  /** Of the node's commit rule. */
  readonly commitLevel: CommitRule['level'];
  /** What its `primary_conninfo` has to be; undefined: the node serves no standby. */
  readonly conninfo?: string;
}

const oldestMajor = 15;

/** What is wrong with a server's settings, the worst first. */
export function findings(facts: ServerFacts, expected: Expected): Finding[] {
  const found: Finding[] = [];
  const when = (wrong: boolean, level: Finding['level'], message: string, remedy: string) => {
    if (wrong) found.push({ level, message, remedy });
  };
  const restart = 'and restart the server';
  const reload = 'and reload (select pg_reload_conf())';
  const { applicationName, managed, conninfo, commitLevel } = expected;
  const major = Math.floor(facts.server_version_num / 10_000);

  when(
    major < oldestMajor,
    'error',
    `this is PostgreSQL ${major}`,
    `walship needs PostgreSQL ${oldestMajor} or later`,
  );
  when(
    facts.wal_level === 'minimal',
    'error',
    'wal_level is minimal: the WAL lacks what a standby needs',
    `set wal_level = replica ${restart}`,
  );
  when(
    Number(facts.max_wal_senders) < 2,
    'error',
    `max_wal_senders is ${facts.max_wal_senders}: walship takes one, and a base backup or rewind another`,
    `set max_wal_senders = 10 ${restart}`,
  );
  when(
    Number(facts.max_replication_slots) < 1,
    'error',
    'max_replication_slots is 0: walship needs one, so that no WAL is removed before it has it',
    `set max_replication_slots = 10 ${restart}`,
  );
  when(
    !facts.may_replicate,
    'error',
    `the role '${facts.role}' may not replicate`,
    `ALTER ROLE "${facts.role}" REPLICATION`,
  );
  when(
    facts.wal_log_hints === 'off' && facts.data_checksums === 'off',
    'warn',
    'neither wal_log_hints nor data checksums are on: pg_rewind cannot bring this server back as a standby, it is copied anew',
    `set wal_log_hints = on ${restart}, or stop it and run pg_checksums --enable`,
  );
  when(
    facts.full_page_writes === 'off',
    'warn',
    'full_page_writes is off: torn pages after a crash of the host, and pg_rewind refuses',
    `set full_page_writes = on ${reload}`,
  );
  when(
    facts.fsync === 'off',
    'warn',
    'fsync is off: a crash of the host destroys this server’s data',
    `set fsync = on ${reload}`,
  );
  when(
    facts.max_slot_wal_keep_size !== '-1',
    'warn',
    `max_slot_wal_keep_size is ${facts.max_slot_wal_keep_size} MB: the server may remove WAL that walship has not got`,
    `set max_slot_wal_keep_size = -1 ${reload}, or make sure that walship is never away for so much WAL`,
  );
  when(
    managed && !facts.superuser,
    'warn',
    `the role '${facts.role}' is no superuser: pg_rewind by it fails on some files`,
    'let server.conninfo, or manage.advertise for the other nodes, name a superuser',
  );
  const names = facts.synchronous_standby_names;
  if (!facts.in_recovery) {
    when(
      !managed && !mentions(names, applicationName),
      'warn',
      `synchronous_standby_names is '${names}': no commit waits for walship`,
      `set synchronous_standby_names = '${applicationName}' ${reload}`,
    );
    when(
      (managed || mentions(names, applicationName)) && ['off', 'local'].includes(facts.synchronous_commit),
      'warn',
      `synchronous_commit is ${facts.synchronous_commit}: commits wait for walship only where a role, a database or a session sets it higher`,
      `set synchronous_commit = on ${reload}`,
    );
    when(
      facts.synchronous_commit === 'remote_write' && ['flushed', 'applied'].includes(commitLevel),
      'warn',
      `synchronous_commit is remote_write, but the commit rule's level is ${commitLevel}: what a standby has received is told when it has flushed it, or up to 1 ms later`,
      'set level = "received" in commit_rule, on every node',
    );
  } else {
    when(
      facts.hot_standby === 'off',
      'warn',
      'hot_standby is off: nobody can query this standby',
      `set hot_standby = on ${restart}`,
    );
    when(
      !managed && conninfo !== undefined && !sameConninfo(facts.primary_conninfo, conninfo),
      'warn',
      `primary_conninfo is '${facts.primary_conninfo}': this server does not follow walship`,
      `set primary_conninfo = '${conninfo}' ${reload}`,
    );
  }
  return found.sort((x, y) => Number(y.level === 'error') - Number(x.level === 'error'));
}

/** `FIRST 1 (walship, other)`, `"walship"`, `*`. */
function mentions(names: string, name: string): boolean {
  const listed = names.replace(/^\s*(ANY|FIRST)?\s*\d*\s*\(/i, '').replace(/\)\s*$/, '');
  return listed
    .split(',')
    .map((each) => each.trim().replace(/^"(.*)"$/, '$1'))
    .some((each) => each === '*' || each.toLowerCase() === name.toLowerCase());
}

/** The host and port count; where the rest differs, somebody meant it. */
function sameConninfo(found: string, wanted: string): boolean {
  const part = (text: string, key: string) => new RegExp(`\\b${key}\\s*=\\s*'?([^\\s']*)`).exec(text)?.[1];
  return ['host', 'port'].every((key) => part(found, key) === part(wanted, key));
}

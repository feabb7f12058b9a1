import { describe, expect, it } from 'vitest';
import { type Expected, findings, type ServerFacts } from '../../../src/databases/postgres/checks.js';

const primary: ServerFacts = {
  server_version_num: 150018,
  system_identifier: '7',
  timeline: 1,
  in_recovery: false,
  data_directory: '/d',
  wal_level: 'replica',
  wal_log_hints: 'off',
  data_checksums: 'on',
  full_page_writes: 'on',
  fsync: 'on',
  hot_standby: 'on',
  synchronous_commit: 'on',
  synchronous_standby_names: 'walship',
  max_wal_senders: '10',
  max_replication_slots: '10',
  max_slot_wal_keep_size: '-1',
  primary_conninfo: '',
  role: 'walship',
  may_replicate: true,
  superuser: false,
  lsn: '0/1',
  streams_from: null,
};
const attached: Expected = {
  applicationName: 'walship',
  managed: false,
  commitLevel: 'flushed',
  conninfo: 'host=/run/w port=5433 user=postgres',
};
const managed: Expected = { ...attached, managed: true };

const told = (facts: Partial<ServerFacts>, expected = attached) =>
  findings({ ...primary, ...facts }, expected).map(
    ({ level, message, remedy }) => `${level}: ${message}; ${remedy}`,
  );

describe('the settings of a server', () => {
  it.each(['walship', 'FIRST 1 (other, walship)', 'ANY 1 ("walship", b)', '*', 'any 2 (a, WalShip)'])(
    'nothing is wrong when synchronous_standby_names is %s',
    (names) => {
      expect(told({ synchronous_standby_names: names })).toEqual([]);
    },
  );

  const wrong: [Partial<ServerFacts>, RegExp, Expected?][] = [
    [{ server_version_num: 140010 }, /^error: this is PostgreSQL 14; walship needs PostgreSQL 15/],
    [{ wal_level: 'minimal' }, /^error: wal_level is minimal.*; set wal_level = replica and restart/],
    [{ max_wal_senders: '1' }, /^error: max_wal_senders is 1/],
    [{ max_replication_slots: '0' }, /^error: max_replication_slots is 0/],
    [
      { may_replicate: false },
      /^error: the role 'walship' may not replicate; ALTER ROLE "walship" REPLICATION/,
    ],
    [{ data_checksums: 'off' }, /^warn: neither wal_log_hints nor data checksums.*pg_checksums --enable/],
    [{ full_page_writes: 'off' }, /^warn: full_page_writes is off/],
    [{ fsync: 'off' }, /^warn: fsync is off/],
    [{ max_slot_wal_keep_size: '1024' }, /^warn: max_slot_wal_keep_size is 1024 MB/],
    [
      { synchronous_standby_names: 'walship2' },
      /^warn: synchronous_standby_names is 'walship2': no commit waits/,
    ],
    [{ synchronous_commit: 'local' }, /^warn: synchronous_commit is local/],
    [{ synchronous_commit: 'remote_write' }, /^warn: .*rule's level is flushed.*; set level = "received"/],
    [{ synchronous_commit: 'off', superuser: true }, /^warn: synchronous_commit is off/, managed],
    [{}, /^warn: the role 'walship' is no superuser/, managed],
    [
      { in_recovery: true, hot_standby: 'off', primary_conninfo: 'port=5433 host=/run/w' },
      /^warn: hot_standby is off/,
    ],
    [
      { in_recovery: true, primary_conninfo: 'host=a' },
      /^warn: primary_conninfo is 'host=a'.*does not follow walship/,
    ],
  ];
  it.each(wrong)('%j is told', (facts, message, expected) => {
    const all = told(facts, expected);
    expect(all).toHaveLength(1);
    expect(all[0]).toMatch(message);
  });

  it('what walship sets itself is not asked for, and the worst comes first', () => {
    expect(told({ superuser: true, synchronous_standby_names: '' }, managed)).toEqual([]);
    const levels = findings({ ...primary, fsync: 'off', wal_level: 'minimal' }, attached).map(
      ({ level }) => level,
    );
    expect(levels).toEqual(['error', 'warn']);
  });
});

// A node beside a PostgreSQL server, as a DBA sets it up: configuration file, init, node, status.
import { appendFileSync, chmodSync, chownSync, existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test, vi } from 'vitest';
import { PostgresServerControl } from '../../src/databases/postgres/managed.js';
import { binDirOf, gid, uid } from '../databases/postgres/support.js';
import { NodeCommand, scratch, until, walship, writeConfig } from './support.js';

vi.setConfig({ testTimeout: 120_000 });
const bin = binDirOf(15);
const withServer = test.skipIf(bin === undefined);

/** Of a host: its server's directory, and tables for its node. */
function host(dir: string, name: string): { server: string; tables: string } {
  chmodSync(dir, 0o755);
  const server = join(dir, `server-${name}`);
  mkdirSync(server);
  chownSync(server, uid, gid);
  const port = 20_000 + (process.pid % 20_000) * 2 + (name === 'a' ? 0 : 1);
  return {
    server,
    tables: `[failover]
listen = "127.0.0.1:0"
bootstrap = ${name === 'a'}
suspect_ms = "1s"
lease_ms = "4s"
[coordinator]
kind = "embedded"
path = "coordinator"
[postgres.server]
conninfo = "host=${server} port=${port} user=postgres"
[postgres.serve]
directory = "."
port = ${port}
[postgres.manage]
data_dir = "server-${name}/data"
bin_dir = "${bin}"
log_file = "server-${name}/log"
`,
  };
}

const pidFile = ({ server }: { readonly server: string }) => join(server, 'data', 'postmaster.pid');
const rule = 'commit_rule = { level = "flushed", any = 1 }';

withServer('init, two nodes, status; the second host gets its data by itself', async () => {
  const dir = scratch();
  const [a, b] = [host(dir, 'a'), host(dir, 'b')];
  const [configA, configB] = [writeConfig(dir, 'a', rule, a.tables), writeConfig(dir, 'b', rule, b.tables)];
  const servers = [a, b].map(
    ({ server }) =>
      new PostgresServerControl(
        { dataDir: join(server, 'data'), binDir: bin as string, conninfo: `host=${server}` },
        {},
      ),
  );

  const nothing = await walship(['postgres', 'status', '-c', configA]);
  expect(nothing.code).toBe(4);
  expect(nothing.stdout).toMatch(/PROBLEM {2}the server does not answer: .*No such file/);
  expect(nothing.stdout).toContain('the node does not answer');

  // The first primary needs a database.
  const early = await walship(['node', '-c', configA]);
  expect(early.code).toBe(1);
  expect(early.stderr).toMatch(/needs a database, and there is none in .*: walship postgres init makes one/);

  const made = await walship(['postgres', 'init', '-c', configA]);
  expect(made.stderr).toBe('');
  expect(made.stdout).toMatch(
    /an empty database cluster, with checksums\nserver +PostgreSQL 15\.\d+, primary\n/,
  );
  expect(made.stdout).toContain(`next: walship node --config ${configA}`);
  appendFileSync(join(a.server, 'data', 'postgresql.conf'), 'fsync = off\nmax_wal_senders = 1\n');
  const again = await walship(['postgres', 'init', '-c', configA]);
  expect(again.code).toBe(4);
  expect(again.stdout).not.toContain('empty database cluster');
  expect(again.stdout).toMatch(/PROBLEM {2}max_wal_senders is 1.*; set max_wal_senders = 10 and restart/);
  expect(again.stdout).toMatch(/warning {2}fsync is off/);
  expect(existsSync(pidFile(a))).toBe(false);
  appendFileSync(join(a.server, 'data', 'postgresql.conf'), 'max_wal_senders = 10\n');
  const taken = await walship(['postgres', 'clone', '-c', configA, '--from', 'host=x']);
  expect(taken.code).toBe(2);
  expect(taken.stderr).toContain('holds a database: nothing is overwritten');

  const nodes: NodeCommand[] = [];
  try {
    const checked = await walship(['config', 'check', configA]);
    expect(checked.stdout).toMatch(/is right: .*, the WAL of PostgreSQL at 'host=/);
    nodes.push(await NodeCommand.start(dir, 'a', rule, [], a.tables));
    await until(
      'the primary streams',
      () => nodes[0]?.lines.some(({ event }) => event === 'postgres-connected') === true,
    );
    nodes.push(await NodeCommand.start(dir, 'b', rule, [], b.tables));
    await until('the server of b is there', async () =>
      /standby that streams from/.test((await walship(['postgres', 'status', '-c', configB])).stdout),
    );
    expect(nodes[1]?.lines.some(({ message }) => /made by pg_basebackup from/.test(message))).toBe(true);
    // The server's settings are told in the node's log, too.
    expect(
      nodes[0]?.lines.some(({ level, message }) => level === 'warn' && /^fsync is off/.test(message)),
    ).toBe(true);

    const status = await walship(['postgres', 'status', '-c', configA]);
    expect(status.code).toBe(0);
    expect(status.stdout).toMatch(/server +PostgreSQL 15\.\d+, primary\nwal +timeline 1, written up to 0\//);
    expect(status.stdout).toMatch(/receives +streaming; told the server: written 0\/.*, flushed 0\//);
    expect(status.stdout).toMatch(/warning {2}fsync is off/);
    const json = JSON.parse((await walship(['postgres', 'status', '-c', configB, '--json'])).stdout);
    expect(json.server).toMatchObject({ in_recovery: true, timeline: 1 });
    expect(json.node.sender.sessions).toMatchObject([{ applicationName: 'b', streaming: true }]);

    // A server that dies is started again.
    process.kill(Number(readFileSync(pidFile(b), 'utf8').split('\n')[0]), 'SIGQUIT');
    await until('the server of b is there again', async () =>
      /standby that streams from/.test((await walship(['postgres', 'status', '-c', configB])).stdout),
    );
    const handed = await walship(['switchover', '--to', 'b', '-c', configA]);
    expect(handed.stdout).toBe("'b' is the primary in epoch 2\n");
    await until('the server of a follows', async () =>
      /standby that streams from/.test((await walship(['postgres', 'status', '-c', configA])).stdout),
    );
    expect((await walship(['postgres', 'status', '-c', configB])).stdout).toMatch(
      /, primary\nwal +timeline 2/,
    );

    // The last primary takes its server along: nobody would protect what it commits. A standby's goes on.
    await nodes[0]?.stop();
    expect(servers[0]?.isRunning).toBe(true);
    await nodes[1]?.stop();
    expect(servers[1]?.isRunning).toBe(false);
  } finally {
    for (const node of nodes) await node.stop('SIGKILL');
    for (const server of servers) await server.stop('immediate').catch(() => {});
  }
});

test('what does not go together in a configuration is told', async () => {
  const dir = scratch();
  const parts = '[postgres.manage]\ndata_dir = "d"\nbin_dir = "b"\n';
  const alone = await walship([
    'config',
    'check',
    writeConfig(dir, 'a', 'role = "primary"\napplied = "manual"', parts),
  ]);
  expect(alone.code).toBe(2);
  expect(alone.stderr).toContain('postgres: manage: belongs to failover');
  expect(alone.stderr).toContain('postgres.server: is missing; a primary ships the WAL of a server');
  expect(alone.stderr).toContain('applied: with [postgres] the servers say what is applied; leave it out');
  const without = await walship(['postgres', 'status', '-c', writeConfig(dir, 'b')]);
  expect(without.code).toBe(2);
  expect(without.stderr).toContain('has no [postgres.server]');
});

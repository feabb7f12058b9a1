import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parse } from 'smol-toml';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { cacheSettings } from '../../src/cache/settings.js';
import { withDefaults } from '../../src/databases/postgres/options.js';
import { verifierOf } from '../../src/databases/postgres/serve.js';
import { nativeSettings } from '../../src/engine/options.js';
import { coordinatorSchema } from '../../src/failover/coordinator/settings.js';
import { controllerSettings } from '../../src/failover/settings.js';
import { WalshipError } from '../../src/index.js';
import { type NodeFailover, readNodeConfig } from '../../src/node/config.js';
import { exampleConfig } from '../../src/node/example.js';
import { keyOf, settingPaths } from '../../src/node/settings.js';

let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'walship-config-'));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const identity = 'node_id = "a"\ndir = "log"\n';
const cluster = '[cluster]\nid = "c"\nsecret = "0123456789abcdef"\n';

function read(toml: string, env: NodeJS.ProcessEnv = {}) {
  const file = join(dir, 'node.toml');
  writeFileSync(file, toml, { mode: 0o600 });
  chmodSync(file, 0o600);
  return readNodeConfig(file, env);
}

function problemsOf(toml: string, env?: NodeJS.ProcessEnv): readonly string[] {
  try {
    read(toml, env);
  } catch (error) {
    expect(error).toBeInstanceOf(WalshipError);
    expect((error as WalshipError).code).toBe('WALSHIP_ERR_CONFIG');
    return ((error as WalshipError).details as { problems: string[] }).problems;
  }
  return [];
}

test('the least a node needs', () => {
  expect(read(identity + cluster)).toEqual({
    engine: { nodeId: 'a', dir: join(dir, 'log'), cluster: { id: 'c', secret: '0123456789abcdef' } },
    role: 'standby',
    adminSocket: join(dir, 'log/walship.sock'),
    warnings: [],
  });
});

test('sizes, times and LSNs are taken as numbers and as people write them', () => {
  const { engine } = read(`${identity}stall_ms = 700\n${cluster}
[log]
page_bytes = "64KiB"
segment_bytes = 2097152
start_lsn = "1/0"
retain_bytes = "1.5 GiB"
[links]
heartbeat_ms = "20ms"
timeout_ms = "2s"
[cache]
first_window_ms = "1min"
`);
  expect(engine.log).toEqual({
    pageBytes: 65536,
    segmentBytes: 2097152,
    startLsn: 2n ** 32n,
    retainBytes: 1.5 * 1024 ** 3,
  });
  expect(engine.links).toEqual({ heartbeatMs: 20, timeoutMs: 2000 });
  expect(engine).toMatchObject({ stallMs: 700, cache: { firstWindowMs: 60000 } });
});

test('whom to follow, as text and as a table', () => {
  expect(read(`${identity}upstream = "h:1"\n${cluster}`).upstream).toEqual({ address: 'h:1' });
  const table = `${identity}${cluster}[upstream]\naddress = "[::1]:1"\nnode = "b"\nsource = "::1"\n`;
  expect(read(table).upstream).toEqual({ address: '[::1]:1', node: 'b', source: '::1' });
});

test('the secret comes from the file, a file it names, or the environment', () => {
  const bare = `${identity}[cluster]\nid = "c"\n`;
  writeFileSync(join(dir, 'secret'), 'from a secret file\n', { mode: 0o600 });
  const env = { WALSHIP_SECRET: 'from the environment' };
  expect(read(`${bare}secret = "from the node file"\n`, env).engine.cluster.secret).toBe(
    'from the node file',
  );
  expect(read(`${bare}secret_file = "secret"\n`, env).engine.cluster.secret).toBe('from a secret file');
  expect(read(bare, env).engine.cluster.secret).toBe('from the environment');
  expect(problemsOf(bare)).toEqual([expect.stringMatching(/^cluster\.secret: is missing; .*openssl rand/)]);
  expect(problemsOf(bare, { WALSHIP_SECRET: 'short' })).toEqual([
    expect.stringMatching(/^WALSHIP_SECRET .*must have at least 16 characters/),
  ]);
  expect(problemsOf(`${bare}secret_file = "nowhere"\n`, env)).toEqual([
    expect.stringMatching(/^cluster\.secret_file: ENOENT/),
  ]);
  expect(problemsOf(`${bare}secret_file = "secret"\nsecret = "0123456789abcdef"\n`)).toEqual([
    expect.stringMatching(/^cluster\.secret: is there beside cluster\.secret_file/),
  ]);
});

test('a secret that others can read is warned of', () => {
  const file = join(dir, 'open.toml');
  writeFileSync(file, identity + cluster);
  chmodSync(file, 0o644);
  expect(readNodeConfig(file, {}).warnings).toEqual([
    expect.stringMatching(/can be read by others; chmod 600/),
  ]);
});

test('a secret is never part of a message', () => {
  expect(problemsOf(`${identity}[cluster]\nid = "c"\nsecret = "tooshort"\n`).join()).not.toMatch('tooshort');
  expect(problemsOf(`${identity}[cluster]\nid = "c"\nsecret = 12345678\n`).join()).not.toMatch('12345678');
});

test('all problems are told at once, single settings and what they must be to each other', () => {
  const problems = problemsOf(`node = "a"
role = "primary"
upstream = "b:1"
Dir = "log"
arena = { bytes = "1MiB" }
[commit_rule]
level = "flushed"
any = 1
[verbs]
retry_count = 7
[links]
timeout_ms = "30ms"
[cache]
fill_percent = 300
`);
  expect(problems).toEqual([
    'node: is not a setting; did you mean node_id?',
    'Dir: is not a setting; did you mean dir?',
    'dir: is missing; it must be text that is not empty',
    expect.stringMatching(/^node_id: is missing; it must be 1 to 64 of the characters/),
    expect.stringMatching(/^cluster: is missing; it must be a table/),
    'verbs.retry_count: must be at most 6: 7 means for ever on some devices; it is 7',
    'upstream: a primary has none; leave it out, or set role = "standby"',
    'commit_rule: level "flushed" waits for standbys, but without listen none can connect',
    'arena.bytes: holds 4 pages of 262144 bytes; must be at least 8388608',
    'links.timeout_ms: must be at least three times links.heartbeat_ms',
    'cache.fill_percent: must be a percentage from 1 to 100, not 300',
  ]);
});

test.each([
  ['lisen = "h:1"', 'lisen: is not a setting; did you mean listen?'],
  ['page_bytes = 65536', 'page_bytes: is not a setting; did you mean log.page_bytes?'],
  ['pageBytes = 65536', 'pageBytes: is not a setting; did you mean log.page_bytes?'],
  ['admin-listen = "h:1"', 'admin-listen: is not a setting; did you mean admin_listen?'],
  ['[lgo]\nx = 1', 'lgo: is not a setting; did you mean log?'],
  ['colour = "red"', 'colour: is not a setting; `walship config example` lists them all'],
])('an unknown key: %s', (setting, problem) => {
  expect(problemsOf(`${identity}${setting}\n${cluster}`)).toEqual([problem]);
});

test.each([
  [
    'log = { page_bytes = "100KB" }',
    /log\.page_bytes: must be a power of two, a size from 64KiB to 4MiB: .*"100KB"/,
  ],
  ['log = { page_bytes = 100000 }', /log\.page_bytes: must be a power of two; it is 100000/],
  ['log = { start_lsn = "x" }', /log\.start_lsn: must be an LSN: .*; it is "x"/],
  ['log = 5', /log: must be a table, \[log\], with page_bytes, .*; it is 5/],
  ['transport = "udp"', /transport: must be one of "auto", "tcp", "verbs"; it is "udp"/],
  ['verbs = { path_mtu_bytes = 1500 }', /verbs\.path_mtu_bytes: must be one of 0, 256, .*; it is 1500/],
  ['arena = { huge_pages = "yes" }', /arena\.huge_pages: must be true or false; it is "yes"/],
  ['listen = "here"', /listen: 'here' is not an address; write host:port/],
  [
    'links = { heartbeat_ms = "1 day" }',
    /links\.heartbeat_ms: must be a time from 2ms to 1min: .*; it is "1 day"/,
  ],
  ['cache = { review_ms = "soon" }', /cache\.review_ms: must be a time in ms, more than 0, not "soon"/],
  [
    'commit_rule = { level = "received", first = 1 }',
    /commit_rule: first: k needs nodes, in order of priority/,
  ],
  ['stall_ms = 2026-01-01', /stall_ms: must be a time from 100ms to 1h/],
  [
    `admin_socket = "${'x'.repeat(120)}"`,
    /admin_socket: .* is longer than the 107 bytes a socket's path may have/,
  ],
])('a wrong value: %s', (setting, problem) => {
  const listen = setting.includes('listen') ? '' : 'listen = "h:1"\n';
  const problems = problemsOf(`${identity}${listen}${setting}\n${cluster}`);
  expect(problems).toHaveLength(1);
  expect(problems[0]).toMatch(problem);
});

test('what is no TOML is told with its place', () => {
  expect(() => read('node_id = \n')).toThrow(/node\.toml:1:\d+: this is not TOML: .*\n {2}node_id =$/);
});

test('the example names every setting, and its comments the defaults', () => {
  const written: string[] = [];
  const defaults: string[] = [];
  const failover: string[] = [];
  const coordinator: string[] = [];
  const postgres: Record<string, string[]> = {};
  let table = '';
  for (const line of exampleConfig.split('\n')) {
    const header = /^(?:# )?\[([\w.]+)\]/.exec(line)?.[1];
    if (header !== undefined) {
      table = header;
      if (header.startsWith('postgres.')) postgres[header] = [];
      defaults.push(line.startsWith('#') ? '' : `[${header}]`);
    }
    const [, comment, key, rest] = /^(# )?(\w+) = (.*)$/.exec(line) ?? [];
    if (key === undefined) continue;
    written.push(table === '' ? key : `${table}.${key}`);
    // What is not commented out in a table is needed there, and is the default too.
    const chosen = comment === undefined && (table === '' || table === 'cluster');
    const asDefault = !chosen && !/no default|instead of|default: (walship|half)/.test(String(rest));
    if (asDefault && table === 'failover') failover.push(`${key} = ${rest}`);
    else if (asDefault && postgres[table]) postgres[table]?.push(`${key} = ${rest}`);
    else if (asDefault && table === 'coordinator') coordinator.push(`${key} = ${rest}`);
    else if (asDefault && table !== 'upstream') defaults.push(`${key} = ${rest}`);
  }
  // A table of its own at the end of the example; `upstream` itself stands before the first table.
  expect([...new Set(written)].filter((key) => key !== 'upstream').sort()).toEqual(
    settingPaths().map(keyOf).sort(),
  );

  const { stall_ms: stall, ...tables } = parse(defaults.join('\n'));
  expect(stall).toBe('2s');
  expect(Object.keys(tables)).toEqual(expect.arrayContaining(['log', 'arena', 'links', 'verbs']));
  const toml = `${identity}${defaults.join('\n').replace('[cluster]', cluster)}`;
  const { engine } = read(toml);
  const least = { nodeId: 'a', dir: engine.dir, cluster: engine.cluster };
  // On a single core spinUs has another default.
  expect({ ...nativeSettings(engine), spinUs: 20 }).toEqual({ ...nativeSettings(least), spinUs: 20 });
  expect(cacheSettings(256, engine.cache)).toEqual(cacheSettings(256));

  const withFailover = read(
    [
      `${identity}listen = "h:1"\n${cluster}[failover]\nlisten = "h:2"`,
      ...failover,
      '[coordinator]',
      'endpoints = ["http://h:2379"]',
      ...coordinator,
    ].join('\n'),
  ).failover as NodeFailover;
  expect(failover).toHaveLength(10);
  const { coordinator: etcd, onRoleTimeoutMs, ...settings } = withFailover;
  const rule = { level: 'async' } as const;
  expect(controllerSettings(settings, 'a', rule)).toEqual(controllerSettings({ listen: 'h:2' }, 'a', rule));
  expect(onRoleTimeoutMs).toBe(10_000);
  expect(coordinatorSchema.parse(etcd)).toEqual(
    coordinatorSchema.parse({ kind: 'etcd', endpoints: ['http://h:2379'] }),
  );

  const verifier = verifierOf('secret');
  writeFileSync(join(dir, 'p'), 'a password\n');
  const servers = (tables: Readonly<Record<string, readonly string[]>>) => {
    const lines = (name: string) => tables[`postgres.${name}`] ?? [];
    const toml = [
      ...['[postgres.server]', 'conninfo = "host=h"', ...lines('server')],
      ...['[postgres.serve]', 'directory = "/s"', 'listen = "h:1"', ...lines('serve')],
      `roles = [{ name = "r", verifier = "${verifier}" }, { name = "p", password_file = "p" }]`,
      ...['[postgres.serve.tls]', 'cert_file = "c"', 'key_file = "k"', ...lines('serve.tls')],
      ...['[postgres.serve.ordinary]', 'host = "h"', ...lines('serve.ordinary')],
    ];
    return withDefaults(read(`${identity}${cluster}${toml.join('\n')}`).postgres ?? {});
  };
  expect(postgres['postgres.serve']).toHaveLength(6);
  expect(servers(postgres)).toEqual(servers({}));
  expect(servers({}).sender).toMatchObject({
    roles: [{ verifier }, { passwordFile: join(dir, 'p') }],
    tls: { certFile: join(dir, 'c'), keyFile: join(dir, 'k') },
  });
});

const clustered = `${identity}listen = "h:1"\n${cluster}`;
const failover = '[failover]\nlisten = "h:2"\n';
const embedded = '[coordinator]\nkind = "embedded"\npath = "co"\n';

test('a node in a cluster with failover has no role; paths are relative to the file', () => {
  const script = join(dir, 'on-role');
  writeFileSync(script, '#!/bin/sh\n', { mode: 0o755 });
  const config = read(
    `${clustered}${failover}bootstrap = true\nlease_ms = "3s"\nmax_lag_bytes = "2MiB"\non_role = "on-role"\n${embedded}`,
  );
  expect(config).not.toHaveProperty('role');
  expect(config.failover).toEqual({
    listen: 'h:2',
    bootstrap: true,
    leaseMs: 3000,
    maxLagBytes: 2 * 1024 ** 2,
    onRole: script,
    coordinator: { kind: 'embedded', path: join(dir, 'co') },
  });
  const etcd = `[coordinator]\nkind = "etcd"\nendpoints = ["https://h:2379"]\nca_file = "ca.pem"\nuser = "u"\npassword = "p"\n`;
  expect(read(`${clustered}${failover}${etcd}`).failover?.coordinator).toEqual({
    kind: 'etcd',
    endpoints: ['https://h:2379'],
    caFile: join(dir, 'ca.pem'),
    user: 'u',
    password: 'p',
  });
});

test('all problems of failover are told at once', () => {
  const toml = `${identity}listen = "0.0.0.0:1"
admin_listen = "[::]:3"
role = "primary"
upstream = "b:1"
${cluster}
[failover]
listen = ":2"
advertise_log = "0.0.0.0:1"
lease_ms = "900ms"
on_role = "nowhere"
[links]
heartbeat_ms = "100ms"
[coordinator]
kind = "etcd"
path = "co"
cert_file = "c.pem"
`;
  expect(problemsOf(toml)).toEqual([
    expect.stringMatching(/^role: with \[failover\] the controller decides; leave it out/),
    'upstream: with [failover] the controller decides; leave it out',
    "failover.advertise_log: '0.0.0.0:1' must name a host and a port that others can reach",
    expect.stringMatching(/^failover\.advertise_control: is missing; failover\.listen = ":2" is no address/),
    expect.stringMatching(/^failover\.advertise_http: is missing; admin_listen = "\[::\]:3" is no address/),
    expect.stringMatching(
      /^failover\.suspect_ms: 250 ms is less than five times links\.heartbeat_ms \(100 ms\)/,
    ),
    expect.stringMatching(
      /^failover\.lease_ms: 900 ms is less than four times failover\.suspect_ms \(250 ms\)/,
    ),
    expect.stringMatching(/^links\.timeout_ms: 1000 ms is more than failover\.lease_ms \(900 ms\)/),
    expect.stringMatching(/^failover\.on_role: cannot be run: ENOENT/),
    'coordinator.endpoints: is missing; kind = "etcd" needs it',
    'coordinator.path: is no setting of kind = "etcd"',
  ]);
});

test.each([
  [`${clustered}${failover}`, /^coordinator: is missing; \[failover\] needs one: kind = "etcd"/],
  [`${clustered}${embedded}`, /^coordinator: serves failover alone; add \[failover\]/],
  [`${identity}${cluster}${failover}${embedded}`, /^listen: is missing; with \[failover\] any node/],
  [
    `${clustered}${failover}advertise_http = "h:3"\n${embedded}`,
    /^failover\.advertise_http: there is no admin_listen/,
  ],
  [
    `${clustered}${failover}${embedded}prefix = "/x"\n`,
    /^coordinator\.prefix: is no setting of kind = "embedded"/,
  ],
  [
    `${clustered}${failover}[coordinator]\nkind = "etcd"\nendpoints = ["h:2379"]\n`,
    /^coordinator\.endpoints\.0: must be http:\/\/host:port or https:\/\/host:port; it is "h:2379"/,
  ],
  [
    `${clustered}${failover}[coordinator]\nkind = "etcd"\nendpoints = ["http://h:1"]\npassword = "topsecret"\npassword_file = "f"\n`,
    /^coordinator: password or password_file, not both/,
  ],
  [
    `${clustered}${failover}suspekt_ms = 1\n${embedded}`,
    /^failover\.suspekt_ms: is not a setting; did you mean failover\.suspect_ms/,
  ],
])('a wrong combination of tables: %#', (toml, problem) => {
  const problems = problemsOf(toml);
  expect(problems[0]).toMatch(problem);
  expect(problems.join()).not.toMatch('topsecret');
});

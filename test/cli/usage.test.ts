// What a person meets who types something wrong, or asks for help.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { scratch, walship } from './support.js';

test('help and version', async () => {
  const [help, version, node, log] = await Promise.all([
    walship(['--help']),
    walship(['--version']),
    walship(['help', 'node']),
    walship(['log', 'export', '--help']),
  ]);
  expect(help.code).toBe(0);
  for (const name of ['switchover', 'failover', 'pause', 'resume', 'rejoin', 'forget']) {
    expect((await walship([name, '--help'])).stdout).toMatch(
      new RegExp(`Examples?:\\n {2}\\$ walship ${name} `),
    );
  }
  const commands =
    'node status promote follow switchover failover pause resume rejoin forget log sqlite capabilities config';
  for (const command of commands.split(' ')) {
    expect(help.stdout).toMatch(new RegExp(`^ {2}${command} `, 'm'));
  }
  for (const code of [0, 1, 2, 3, 4]) expect(help.stdout).toMatch(new RegExp(`^ {2}${code} {2}\\w`, 'm'));
  const { version: wanted } = JSON.parse(
    readFileSync(new URL('../../package.json', import.meta.url), 'utf8'),
  );
  expect(version).toMatchObject({ code: 0, stdout: `${wanted}\n` });
  expect(node.stdout).toMatch(/Examples:\n {2}\$ walship node/);
  expect(log.stdout).toMatch(/Examples:\n {2}\$ walship log export/);
});

const wrong: [string[], number, RegExp][] = [
  [['sttus'], 2, /unknown command 'sttus'\n\(Did you mean status\?\)/],
  [['status', '--jsn'], 2, /unknown option '--jsn'\n\(Did you mean --json\?\)/],
  [
    ['status', '--dir', 'x', '--url', 'y'],
    2,
    /'-d, --dir <dir>' cannot be used with option '-u, --url <url>'/,
  ],
  [
    ['status', '--watch', 'often', '--dir', 'x'],
    2,
    /'often' is invalid. It must be a number of seconds from 0\.1 to 3600/,
  ],
  [
    ['status'],
    2,
    /which node\? There is no walship\.toml in this directory: give --config FILE, --dir DIR or --url URL/,
  ],
  [
    ['status', '--url', 'https://x/y'],
    2,
    /'https:\/\/x\/y' is no address; write http:\/\/host:port or unix:\/path/,
  ],
  [
    ['status', '--dir', '/nowhere'],
    3,
    /no node answers at \/nowhere\/walship\.sock: there is no such socket/,
  ],
  [
    ['status', '--url', 'http://127.0.0.1:1'],
    3,
    /no node answers at http:\/\/127\.0\.0\.1:1: nobody listens there/,
  ],
  [['promote', '--epoch', '0', '--dir', 'x'], 2, /must be a whole number of 1 or more/],
  [['follow', '--dir', 'x'], 2, /follow whom\? Give either the HOST:PORT of the upstream, or --none/],
  [['forget', '--dir', 'x'], 2, /missing required argument 'node'/],
  [['failover', '--accept', '--dir', 'x'], 2, /unknown option '--accept'/],
  [['switchover', '--dir', '/nowhere'], 3, /no node answers at \/nowhere\/walship\.sock/],
  [['log', 'export', 'x', '--from', '0/x'], 2, /'0\/x' is not an LSN; write 0\/16B3740 or a decimal number/],
  [['log', 'verify'], 2, /missing required argument 'dir'/],
  [['node', '--log-format', 'xml'], 2, /Allowed choices are text, json/],
  [
    ['node', '--config', 'nowhere.toml'],
    2,
    /cannot read the configuration file: ENOENT.*`walship config example` prints one/,
  ],
];

// No walship.toml lies there.
const elsewhere = '/';

test.concurrent.each(wrong)('%j', async (args, code, message) => {
  const outcome = await walship(args, elsewhere);
  expect(outcome.stderr).toMatch(message);
  expect(outcome.stderr).not.toMatch(/^ +at /m);
  expect(outcome.code).toBe(code);
});

test('a configuration with many problems is refused with all of them', async () => {
  const dir = scratch();
  const file = join(dir, 'walship.toml');
  writeFileSync(file, 'node_id = "a b"\ndirr = "x"\nrole = "boss"\n[links]\nheartbeat_ms = "1h"\n');
  const outcome = await walship(['node'], dir);
  expect(outcome.code).toBe(2);
  expect(outcome.stdout).toBe('');
  expect(outcome.stderr.trimEnd().split('\n').slice(1)).toEqual([
    '  dirr: is not a setting; did you mean dir?',
    '  dir: is missing; it must be text that is not empty',
    expect.stringMatching(/^ {2}node_id: must be 1 to 64 of the characters .*; it is "a b"$/),
    expect.stringMatching(
      /^ {2}cluster: is missing; it must be a table, \[cluster\], with id, secret, secret_file$/,
    ),
    expect.stringMatching(/^ {2}links\.heartbeat_ms: must be a time from 2ms to 1min: .*; it is 3600000$/),
    '  role: must be one of "primary", "standby"; it is "boss"',
  ]);
});

test('the example is right as it is, and config check says so', async () => {
  const dir = scratch();
  const { stdout } = await walship(['config', 'example']);
  writeFileSync(join(dir, 'walship.toml'), stdout, { mode: 0o600 });
  expect(await walship(['config', 'check'], dir)).toMatchObject({
    code: 0,
    stdout: `walship.toml is right: node a of cluster example, primary, log in ${join(dir, 'data/a')}\n`,
  });
});

test('config check names the coordinator of a cluster with failover', async () => {
  const dir = scratch();
  const config = (name: string, tables: string) => {
    const base =
      'node_id = "a"\ndir = "a"\nlisten = "h:1"\n[cluster]\nid = "c"\nsecret = "0123456789abcdef"\n';
    writeFileSync(join(dir, name), `${base}[failover]\nlisten = "h:2"\n[coordinator]\n${tables}`, {
      mode: 0o600,
    });
    return walship(['config', 'check', name], dir);
  };
  const etcd = await config('etcd.toml', 'kind = "etcd"\nendpoints = ["http://h:2379"]');
  expect(etcd.stdout).toMatch(/: node a of cluster c, failover by etcd at http:\/\/h:2379, log in /);
  const embedded = await config('embedded.toml', 'kind = "embedded"\npath = "co"');
  expect(embedded.stdout).toMatch(`failover by ${join(dir, 'co')}, log in `);
});

test('capabilities says what there is and what to do', async () => {
  const outcome = await walship(['capabilities']);
  expect(outcome.code).toBe(0);
  expect(outcome.stdout).toMatch(/^walship \d+\.\d+\.\d+\nTCP +ready\nRDMA +(ready|[a-z-]+: \S.*)$/m);
  const { verbs } = JSON.parse((await walship(['capabilities', '--json'])).stdout);
  expect(verbs.state === 'ready' || verbs.detail !== '').toBe(true);
});

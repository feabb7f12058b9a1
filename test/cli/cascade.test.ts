// Nodes as a user would run them: shipping, status, a change of roles, signals.
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test, vi } from 'vitest';
import { AdminClient } from '../../src/index.js';
import { NodeCommand, pattern, scratch, until, walship, walshipUntil } from './support.js';

vi.setConfig({ testTimeout: 60_000 });

const statusOf = (node: NodeCommand) => new AdminClient({ socket: join(node.dir, 'walship.sock') }).status();

async function changed(args: readonly string[], node: NodeCommand): Promise<string> {
  const { code, stdout, stderr } = await walship([...args, '--dir', node.dir]);
  expect(stderr).toBe('');
  expect(code).toBe(0);
  return stdout;
}

test('a cascade of three, its status, a promotion, the return of the old primary', {
  timeout: 60_000,
}, async () => {
  const dir = scratch();
  const [a, b, c] = await Promise.all([
    NodeCommand.start(dir, 'a', 'role = "primary"', ['--stdin']),
    NodeCommand.start(dir, 'b', 'admin_listen = "127.0.0.1:0"'),
    NodeCommand.start(dir, 'c'),
  ]);
  const early = await walship(['status', '--dir', c.dir]);
  expect(early.stdout).toMatch(/PROBLEM {2}this standby follows nobody/);

  expect(await changed(['follow', `127.0.0.1:${a.port}`, '--node', 'a'], b)).toMatch(
    /follows 127\.0\.0\.1:\d+\nnote: the configuration still gives this node another role/,
  );
  await changed(['follow', `127.0.0.1:${b.port}`], c);
  const first = pattern(3_000_000, 1);
  a.write(first);
  await until(
    'c has flushed everything',
    async () => (await statusOf(c)).positions.flushed === String(first.length),
  );

  await until('the tree is whole', async () => (await statusOf(a)).nodes.length === 2);
  const json = JSON.parse((await walship(['status', '--config', join(dir, 'a.toml'), '--json'])).stdout);
  expect(json).toMatchObject({
    nodeId: 'a',
    epoch: '1',
    nodes: [{ parent: 'a' }, { parent: 'b', received: '3000000' }],
  });
  const tree = await walship(['status', '--dir', a.dir]);
  expect(tree.stdout).toMatch(
    /^cluster cli · node a · primary in epoch 1 · listens on 127\.0\.0\.1:\d+ · up /,
  );
  expect(tree.stdout).not.toMatch(/PROBLEM/);
  const at = '0\\/2DC6C0 +0\\/2DC6C0 +0\\/2DC6C0';
  expect(tree.stdout).toMatch(new RegExp(`^a +primary +${at}$`, 'm'));
  expect(tree.stdout).toMatch(
    new RegExp(`^└─ b +standby +${at} +0 B 0 ms +tcp 127\\.0\\.0\\.1:${a.port} → `, 'm'),
  );
  expect(tree.stdout).toMatch(
    new RegExp(`^   └─ c +standby +${at} +0 B 0 ms +tcp 127\\.0\\.0\\.1:${b.port} → `, 'm'),
  );
  expect(tree.stdout).toMatch(/^committed +0\/2DC6C0 · rule: async$/m);
  expect(tree.stdout).toMatch(/^log +from 0\/0 · [\d.]+ MiB on disk in 3 segments · kept for b/m);
  expect(tree.stdout).toMatch(/^cache +\d+ of 64 pages · \d+ hits, \d+ loads, \d+ misses, \d+ evictions$/m);
  for (const what of ['commit', 'flush', 'sync'])
    expect(tree.stdout).toMatch(new RegExp(`^${what} +p50 .*, p99 `, 'm'));

  const http = (await b.said('admin')) && b.lines.filter((line) => line.event === 'admin')[1]?.message;
  const overHttp = await walship(['status', '--url', String(http?.split(' ').at(-1))]);
  expect(overHttp.stdout).toMatch(/^a +upstream +0\/2DC6C0\n└─ b +standby .*\n {3}└─ c +standby /m);

  // b leaves a, a writes on alone, b becomes primary: what a has beyond b goes to a file of its own.
  await changed(['follow', '--none'], b);
  await until('a has lost b', async () => (await statusOf(a)).nodes.length === 0);
  expect((await walship(['status', '--dir', a.dir])).stdout).toMatch(
    /^└─ b +away +last seen .* ago; log kept from 0\/2DC6C0$/m,
  );
  const lost = pattern(200_000, 2);
  a.write(lost);
  a.endInput();
  expect((await a.said('input')).message).toMatch(/end of input: 3200000 bytes appended and committed/);
  expect(await changed(['promote'], b)).toMatch(/^primary in epoch 2\nnote: .* set role = "primary" there/);
  const twice = await walship(['promote', '--dir', b.dir]);
  expect(twice).toMatchObject({
    code: 1,
    stderr: expect.stringMatching(/already \[WALSHIP_ERR_IS_PRIMARY\]/),
  });
  await changed(['follow', `127.0.0.1:${b.port}`], a);
  expect((await a.said('log-cut')).level).toBe('warn');
  await until('b has both', async () => (await statusOf(b)).nodes.length === 2);
  expect((await walship(['status', '--dir', b.dir])).stdout).toMatch(
    /^b +primary .*\n[├└]─ \w +standby .*\n└─ \w +standby /m,
  );

  expect(await Promise.all([a.stop('SIGTERM'), b.stop('SIGINT'), c.stop('SIGHUP')])).toEqual([0, 0, 0]);
  expect(a.lines.at(-1)).toMatchObject({ event: 'stopped', level: 'info' });
  for (const node of [a, b, c]) {
    const exported = await walship(['log', 'export', node.dir]);
    expect(exported.bytes.equals(first)).toBe(true);
  }
  const segments = (node: NodeCommand) =>
    readdirSync(node.dir).filter((name) => /^[0-9a-f]{16}\.wal$/.test(name));
  expect(segments(a)).toHaveLength(3);
  for (const name of segments(a)) {
    for (const node of [b, c]) {
      expect(
        readFileSync(join(node.dir, name)).equals(readFileSync(join(a.dir, name))),
        `${name} of ${node.name}`,
      ).toBe(true);
    }
  }

  const diverged = readdirSync(a.dir).filter((name) => name.startsWith('diverged-'));
  expect(diverged).toHaveLength(1);
  const aside = join(a.dir, String(diverged[0]));
  expect((await walship(['log', 'inspect', a.dir])).stdout).toMatch(`diverged  ${aside}`);
  const saved = await walship(['log', 'export', aside, '--from', '3000000']);
  expect(saved.bytes.equals(lost)).toBe(true);
});

test('a killed node starts again over its stale socket, and tells what recovery found', async () => {
  const dir = scratch();
  const first = await NodeCommand.start(dir, 'a', 'role = "primary"', ['--stdin']);
  first.write(pattern(100_000, 1));
  first.endInput();
  await first.said('input');
  await first.stop('SIGKILL');
  expect(await walship(['status', '--dir', first.dir])).toMatchObject({
    code: 3,
    stdout: '',
    stderr: expect.stringMatching(
      /^walship: no node answers at .*walship\.sock: nobody listens there; start the node/,
    ),
  });
  const inspected = await walship(['log', 'inspect', first.dir]);
  expect(inspected.stdout).toMatch(/^state +not closed cleanly: the next open recovers it/m);
  expect(inspected.stdout).not.toMatch(/stray/);

  const again = await NodeCommand.start(dir, 'a', 'role = "primary"');
  const watched = await walshipUntil(['status', '--dir', again.dir, '--watch', '0.1'], /^rate +0 B\/s$/m);
  expect(watched.match(/^a +primary +0\/186A0 /gm)?.length).toBeGreaterThanOrEqual(2);
  expect((await again.said('recovered')).message).toMatch(/not closed cleanly/);
  expect((await again.said('role')).message).toMatch(/^primary in epoch 2 from LSN 0\/186A0 on$/);
  const second = await walship(['node', '-c', join(dir, 'a.toml')]);
  expect(second).toMatchObject({
    code: 1,
    stderr: expect.stringMatching(/^walship: .*\[WALSHIP_ERR_LOG_LOCKED\]\n$/),
  });
  expect(await again.stop()).toBe(0);
});

test('a node whose storage fails says so and ends with 1', async () => {
  const node = await NodeCommand.start(scratch(), 'a', 'role = "primary"', ['--stdin']);
  // Every write beyond the first byte of a file fails from now on: EFBIG.
  execFileSync('prlimit', ['--pid', String(node.pid), '--fsize=1']);
  node.write(pattern(1000, 1));
  expect(await node.said('failed')).toMatchObject({
    level: 'error',
    message: expect.stringMatching(/failed for good/),
  });
  expect(await node.ended).toBe(1);
  expect(node.errors).toMatch(/^walship: .*\[WALSHIP_ERR_[A-Z_]+\]\n$/);
});

test('the log for people is one line for each event, and a wrong input is refused', async () => {
  const dir = scratch();
  const node = await NodeCommand.start(dir, 'b', 'upstream = "127.0.0.1:1"');
  const unreachable = await node.said('upstream-unreachable');
  expect(unreachable.message).toMatch(/^cannot reach the upstream: .*127\.0\.0\.1:1/);
  await new Promise((resolve) => setTimeout(resolve, 400));
  expect(node.lines.filter((line) => line.event === 'upstream-unreachable')).toHaveLength(1);
  const status = await walship(['status', '--dir', node.dir]);
  expect(status.stdout).toMatch(
    /^PROBLEM {2}not connected to the upstream 127\.0\.0\.1:1: .*127\.0\.0\.1:1/m,
  );
  expect(await node.stop()).toBe(0);
  const stdin = await walship(['node', '--stdin', '-c', join(dir, 'b.toml')]);
  expect(stdin).toMatchObject({
    code: 2,
    stderr: expect.stringMatching(/only a node with role = "primary"/),
  });
});

// A cluster that decides itself who is primary, as an operator, a client and a load balancer see it.
import { existsSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test, vi } from 'vitest';
import { type NodeView, nodeViewSchema } from '../../src/cluster/view.js';
import { AdminClient } from '../../src/index.js';
import { NodeCommand, pattern, scratch, until, walship } from './support.js';

vi.setConfig({ testTimeout: 120_000 });

const leaseMs = 4000;

interface Extra {
  readonly failover?: string;
  readonly rule?: string;
}

/**
 * `a` begins the cluster. What is written to a node's standard input is appended once it is primary. With more patience
 * than by default: on a host with more to do than it can, a live primary must not be taken for dead here.
 */
function startNode(dir: string, name: string, { failover = '', rule = 'any = 1' }: Extra = {}) {
  return NodeCommand.start(
    dir,
    name,
    `admin_listen = "127.0.0.1:0"\ncommit_rule = { level = "flushed", ${rule} }`,
    ['--stdin'],
    `[failover]
listen = "127.0.0.1:0"
bootstrap = ${name === 'a'}
suspect_ms = "1s"
drop_ms = "2s"
lease_ms = "${leaseMs}ms"
${failover}
[coordinator]
kind = "embedded"
path = "coordinator"`,
  );
}

async function startAll(dir: string, extra?: Extra): Promise<Record<'a' | 'b' | 'c', NodeCommand>> {
  const [a, b, c] = await Promise.all(['a', 'b', 'c'].map((name) => startNode(dir, name, extra)));
  const nodes = { a, b, c } as Record<'a' | 'b' | 'c', NodeCommand>;
  await settled(Object.values(nodes), 'a');
  return nodes;
}

const statusOf = (node: NodeCommand) => new AdminClient({ socket: join(node.dir, 'walship.sock') }).status();

/** Everybody takes the same node for the primary, is connected with everybody, and is well. */
async function settled(nodes: readonly NodeCommand[], primary?: string): Promise<string> {
  const alive = nodes.map(({ name }) => name).sort();
  const what = `${alive.join(', ')} agree on ${primary ?? 'a primary'}`;
  let found: string | undefined;
  let all: Awaited<ReturnType<typeof statusOf>>[] = [];
  try {
    await until(what, async () => {
      all = await Promise.all(nodes.map(statusOf));
      const reigns = all.filter(({ role }) => role === 'primary');
      found = reigns.length === 1 ? reigns[0]?.nodeId : undefined;
      const agreed = all.every(({ failover, health }) => {
        const connected = failover?.members.filter((member) => member.connected).map(({ node }) => node);
        return health.ok && failover?.primary?.node === found && connected?.sort().join() === alive.join();
      });
      return found !== undefined && agreed && (primary ?? found) === found;
    });
  } catch (error) {
    const said = nodes.map(
      ({ name, lines }) => `${name}:\n  ${lines.map((line) => line.message).join('\n  ')}`,
    );
    const states = all.map(({ nodeId, role, health, failover }) => ({ nodeId, role, health, failover }));
    throw new Error(`${what}: ${JSON.stringify(states)}\n${said.join('\n')}`, { cause: error });
  }
  return found as string;
}

async function http(
  node: NodeCommand,
  path: string,
  method = 'GET',
): Promise<{ status: number; text: string }> {
  const url = node.lines
    .filter(({ event }) => event === 'admin')[1]
    ?.message.split(' ')
    .at(-1);
  const response = await fetch(`${url}${path}`, { method });
  return { status: response.status, text: await response.text() };
}

async function codes(node: NodeCommand): Promise<string> {
  const asked = ['/primary', '/standby', '/replica?lag=64MB', '/health'];
  const answers = await Promise.all(asked.map((path) => http(node, path, 'OPTIONS')));
  expect(answers.map(({ text }) => text).join('')).toBe('');
  return answers.map(({ status }) => status).join(' ');
}
const ofPrimary = '200 503 503 200';
const ofStandby = '503 200 200 200';

/** As a client: asks, and asks on with the version it has got. Gives back how often, when what is told `holds`. */
async function follow(node: NodeCommand, holds: (view: NodeView) => boolean): Promise<number> {
  let after = '';
  for (let asked = 1; ; asked++) {
    const view = nodeViewSchema.parse(JSON.parse((await http(node, `/cluster${after}`)).text));
    if (holds(view)) return asked;
    after = `?after=${view.version}`;
  }
}

async function command(node: NodeCommand, ...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await walship([...args, '--dir', node.dir]);
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  return stdout;
}

function allPaused(nodes: readonly NodeCommand[]): Promise<void> {
  return until('everybody knows that it is paused', async () =>
    (await Promise.all(nodes.map(statusOf))).every(({ failover }) => failover?.paused === true),
  );
}

async function refused(node: NodeCommand, message: RegExp, ...args: string[]): Promise<void> {
  const { code, stdout, stderr } = await walship([...args, '--dir', node.dir]);
  expect(stderr).toMatch(message);
  expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
}

test('a killed primary is replaced, and returns as a standby by itself', async () => {
  const dir = scratch();
  const script = join(dir, 'on-role');
  writeFileSync(
    script,
    `#!/bin/sh\nsleep 0.1\necho "$@ $WALSHIP_ROLE $WALSHIP_EPOCH $WALSHIP_NODE $WALSHIP_CLUSTER .$WALSHIP_SECRET" >> "${dir}/roles.$3"\n`,
    { mode: 0o755 },
  );
  const roles = (name: string) => {
    const file = join(dir, `roles.${name}`);
    return existsSync(file) ? readFileSync(file, 'utf8').trimEnd().split('\n') : [];
  };
  const nodes = await startAll(dir, { failover: 'on_role = "on-role"' });
  const { a, b, c } = nodes;
  expect(await codes(a)).toBe(ofPrimary);
  expect([await codes(b), await codes(c)]).toEqual([ofStandby, ofStandby]);
  expect((await http(b, '/standby?lag=much')).status).toBe(400);
  expect(JSON.parse((await http(a, '/primary')).text)).toMatchObject({ node: 'a', role: 'primary' });

  const first = pattern(1_000_000, 1);
  a.write(first);
  a.endInput();
  expect((await a.said('input')).message).toMatch(/1000000 bytes appended and committed/);
  const shown = await command(c, 'status');
  expect(shown).toMatch(/^MEMBER +ROLE +UPSTREAM +COMMITS +PRIORITY +LOG +CONTROLLER +HTTP$/m);
  expect(shown).toMatch(/^a +primary +0 +127\.0\.0\.1:\d+ +127\.0\.0\.1:\d+ +127\.0\.0\.1:\d+$/m);
  expect(shown).toMatch(/^b +standby +a +counts +0 +127\.0\.0\.1:\d+ /m);
  expect(shown).toMatch(/^failover +primary a in epoch 1 · automatic$/m);
  expect(shown).toMatch(
    /^coordinator +embedded, answers\nnote +the coordinator is a directory of this machine/m,
  );
  expect(await command(a, 'status')).toMatch(/ · automatic · lease of [\d.]+ m?s$/m);
  expect(
    await walship(['status', '--dir', a.dir, '--json']).then(({ stdout }) => JSON.parse(stdout)),
  ).toMatchObject({
    failover: { primary: { node: 'a', epoch: '1' }, counting: ['b', 'c'], paused: false, waiting: '' },
  });

  const followed = [b, c].map((node) =>
    follow(node, ({ primary }) => ![undefined, 'a'].includes(primary?.node)),
  );
  const second = pattern(500_000, 2);
  for (const node of [b, c]) node.write(second);
  await a.stop('SIGKILL');
  // Each question but the first waits for news, and each of the few changes there are is told.
  for (const asked of await Promise.all(followed)) expect(asked).toBeLessThan(30);
  const next = nodes[(await settled([b, c])) as 'b' | 'c'];
  const other = next === b ? c : b;
  expect([await codes(next), await codes(other)]).toEqual([ofPrimary, ofStandby]);

  const again = await startNode(dir, 'a', { failover: 'on_role = "on-role"' });
  await settled([again, b, c], next.name);
  expect(await codes(again)).toBe(ofStandby);
  await until(
    'the old primary has everything',
    async () => (await statusOf(again)).positions.flushed === '1500000',
  );
  expect((await http(again, '/standby?lag=0')).status).toBe(200);
  for (const node of [again, other, next]) expect(await node.stop()).toBe(0);
  for (const name of ['a', 'b', 'c']) {
    const { bytes } = await walship(['log', 'export', join(dir, name)]);
    expect(bytes.equals(Buffer.concat([first, second])), `the log of ${name}`).toBe(true);
  }
  // The node's own secret is not for the program.
  expect(roles('a').slice(0, 2)).toEqual(['standby 0 a standby 0 a cli .', 'primary 1 a primary 1 a cli .']);
  expect(roles('a')[2]).toMatch(/^standby (\d) a standby \1 a cli \.$/);
  expect(roles(next.name).map((text) => text.split(' ')[0])).toEqual(['standby', 'primary', 'standby']);
});

test('the primary is changed by command, asked at any node, and by a clean stop', async () => {
  const dir = scratch();
  const { a, b, c } = await startAll(dir);
  a.write(pattern(100_000, 1));
  expect(await command(b, 'switchover', '--to', 'c')).toBe("'c' is the primary in epoch 2\n");
  await settled([a, b, c], 'c');
  expect(a.lines.find(({ event }) => event === 'handed-over')?.message).toMatch(/handed over to 'c'/);
  await refused(b, /'c' is the primary already \[WALSHIP_ERR_FAILOVER\]/, 'switchover', '--to', 'c');
  await refused(b, /'x' is not a member that can be promoted; connected: /, 'switchover', '--to', 'x');
  await refused(b, /the controller of this node decides on its role: use walship switchover/, 'promote');
  await refused(b, /the controller of this node decides/, 'follow', '127.0.0.1:1');
  expect(await command(c, 'rejoin')).toBe(
    'there is nothing to discard: this node is not refused by its upstream\n',
  );

  expect(await c.stop()).toBe(0);
  const next = await settled([a, b]);
  expect(c.lines.find(({ event }) => event === 'step-back')?.message).toBe(
    `before it stops: '${next}' is the primary in epoch 3`,
  );
  await refused(a, /'b' is running: stop it first/, 'forget', 'b');
  await refused(a, /'x' is no member of the cluster/, 'forget', 'x');
  expect(await command(a, 'status')).toMatch(/^c +away /m);
  expect(await command(a, 'forget', 'c')).toBe("'c' is no member any more; nobody keeps the log for it\n");
  await until('c is forgotten', async () => {
    const { failover, log } = await statusOf(next === 'a' ? a : b);
    return failover?.members.length === 2 && log.readers.every(({ name }) => name !== 'c');
  });
});

test('paused, nobody is promoted by itself, and status says so', async () => {
  const dir = scratch();
  const { a, b, c } = await startAll(dir);
  expect(await command(b, 'pause')).toBe('paused: no node is promoted by itself until resume\n');
  await allPaused([a, b, c]);
  expect(await codes(a)).toBe(ofPrimary);
  await a.stop('SIGKILL');
  for (const node of [b, c])
    await node.saidThat('waiting', /'a' .*automatic failover is paused: walship resume/);
  await new Promise((resolve) => setTimeout(resolve, 1500));
  const shown = await command(c, 'status');
  expect(shown).toMatch(
    /^PROBLEM {2}.*'a'.*; automatic failover is paused: walship resume, or walship failover$/m,
  );
  expect(shown).toMatch(/^failover +primary a in epoch 1 · PAUSED: nobody is promoted by itself/m);
  // One of them may be getting the log from the other.
  for (const node of [b, c]) expect(await codes(node)).toMatch(/^503 \d+ \d+ 503$/);
  await refused(b, /there is no primary that could hand over; walship failover/, 'switchover');

  expect(await command(b, 'failover', '--to', 'c')).toMatch(/'c' is the primary in epoch \d+\n/);
  await settled([b, c], 'c');
  expect(await command(c, 'resume')).toBe('automatic failover is on\n');
  const again = await startNode(dir, 'a');
  await settled([again, b, c], 'c');
  await c.stop('SIGKILL');
  await settled([again, b]);
});

test('what was committed is given up by consent only, and then set aside', async () => {
  const dir = scratch();
  const { a, b, c } = await startAll(dir);
  await c.stop('SIGKILL');
  const lost = pattern(100_000, 1);
  a.write(lost);
  a.endInput();
  await a.said('input');
  await until('b knows what is committed', async () => (await statusOf(b)).positions.committed === '100000');
  await a.stop('SIGKILL');
  // A clean stop notes it.
  expect(await b.stop()).toBe(0);

  const alone = await startNode(dir, 'c');
  await alone.saidThat('waiting', /\bb\b/);
  await refused(alone, /WALSHIP_ERR_FAILOVER/, 'failover');
  expect(await command(alone, 'failover', '--accept-data-loss')).toMatch(/'c' is the primary/);

  const returned = await startNode(dir, 'b');
  await until('b is refused', async () => !(await statusOf(returned)).health.ok);
  await until('b knows why', async () =>
    (await walship(['rejoin', '--dir', returned.dir])).stderr.includes('WALSHIP_ERR_DIVERGED_COMMITTED'),
  );
  await refused(returned, /consent with walship rejoin --discard-committed/, 'rejoin');
  expect(await command(returned, 'rejoin', '--discard-committed')).toMatch(/^follows again/);
  await settled([alone, returned], 'c');
  const aside = readdirSync(returned.dir).filter((name) => name.startsWith('diverged-'));
  expect(aside).toHaveLength(1);
  expect(await command(returned, 'status')).toMatch(
    new RegExp(`^set aside +${aside[0]} in the log directory`, 'm'),
  );
  const saved = await walship(['log', 'export', join(returned.dir, String(aside[0]))]);
  expect(saved.bytes.equals(lost)).toBe(true);
});

test('a primary whose lease has run out is none for load balancers, and goes on by itself', async () => {
  const dir = scratch();
  const { a, b, c } = await startAll(dir);
  // Nobody is to stand meanwhile who has not heard it for a second: this is about the lease.
  await command(a, 'pause');
  await allPaused([a, b, c]);
  renameSync(join(dir, 'coordinator'), join(dir, 'elsewhere'));
  await until('everybody misses the coordinator', async () =>
    (await Promise.all([a, b, c].map(statusOf))).every(({ failover }) => failover?.coordinator.up === false),
  );
  // The standbys agree that it goes on, for longer than any lease.
  await new Promise((resolve) => setTimeout(resolve, leaseMs + 1000));
  expect(await codes(a)).toBe(ofPrimary);
  expect(a.lines.some(({ event }) => event === 'failsafe')).toBe(true);
  expect(await command(b, 'status')).toMatch(
    /^coordinator +embedded, DOES NOT ANSWER: nobody can be promoted$/m,
  );

  await Promise.all([b.stop('SIGKILL'), c.stop('SIGKILL')]);
  await until('the lease of a has run out', async () => (await http(a, '/primary')).status === 503);
  expect(JSON.parse((await http(a, '/primary')).text)).toMatchObject({ role: 'primary', leaseMs: 0 });
  expect((await statusOf(a)).health.ok).toBe(false);
  renameSync(join(dir, 'elsewhere'), join(dir, 'coordinator'));
  await until('a may commit again', async () => (await http(a, '/primary')).status === 200);
});

test('a node without failover says what to do instead', async () => {
  const node = await NodeCommand.start(scratch(), 'a', 'role = "primary"\nadmin_listen = "127.0.0.1:0"');
  await refused(node, /this node runs without \[failover\]: use promote and follow/, 'switchover');
  expect(await codes(node)).toBe(ofPrimary);
  const view = nodeViewSchema.parse(JSON.parse((await http(node, '/cluster')).text));
  expect(view).toMatchObject({ node: 'a', role: 'primary', epoch: 1n, members: [], health: { ok: true } });
});

import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { request } from 'node:http';
import { networkInterfaces, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { AdminClient, type LogEntry, Node, type NodeConfig, parseAdminAddress } from '../../src/index.js';

let dir: string;
const nodes: Node[] = [];
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'walship-admin-'));
});
afterEach(async () => {
  await Promise.all(nodes.splice(0).map((node) => node.stop()));
  rmSync(dir, { recursive: true, force: true });
});

function configOf(
  name: string,
  more: Partial<NodeConfig> = {},
  engine: Partial<NodeConfig['engine']> = {},
): NodeConfig {
  return {
    engine: {
      dir: join(dir, name),
      nodeId: name,
      cluster: { id: 'admin', secret: 'a secret of the tests' },
      listen: '127.0.0.1:0',
      transport: 'tcp',
      log: { pageBytes: 65536, segmentBytes: 1048576, spareSegments: 0 },
      arena: { bytes: 2097152, hugePages: false },
      ...engine,
    },
    ...more,
  };
}

async function start(config: NodeConfig, log?: (entry: LogEntry) => void): Promise<Node> {
  const node = await Node.start(config, log && { log });
  nodes.push(node);
  return node;
}

interface Answer {
  readonly status: number;
  readonly body: { code?: string; message?: string; ok?: boolean; problems?: string[] };
}

function send(
  port: number,
  method: string,
  path: string,
  body?: string,
  headers = {},
  host = '127.0.0.1',
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const asked = request({ host, port, method, path, headers, agent: false }, (response) => {
      let text = '';
      response.on('data', (part) => {
        text += part;
      });
      response.on('end', () =>
        resolve({ status: response.statusCode ?? 0, body: text === '' ? {} : JSON.parse(text) }),
      );
    });
    asked.on('error', reject);
    asked.end(body);
  });
}

const json = { 'content-type': 'application/json' };
const portOf = (node: Node) => Number(node.status().adminListen?.split(':').at(-1));

test('status and health over the socket, which is for its owner only', async () => {
  const node = await start(configOf('a', { role: 'primary' }));
  const socket = join(dir, 'a/walship.sock');
  expect(statSync(socket).mode & 0o777).toBe(0o600);
  const client = new AdminClient(parseAdminAddress(`unix:${socket}`));
  const status = await client.status();
  expect(status).toMatchObject({
    nodeId: 'a',
    cluster: 'admin',
    role: 'primary',
    epoch: '1',
    pid: process.pid,
    listen: `127.0.0.1:${node.engine.listenPort}`,
    commitRule: { level: 'async' },
    health: { ok: true, problems: [] },
    positions: { received: '0', flushed: '0', applied: '0', committed: '0' },
  });
  expect(JSON.stringify(status)).not.toMatch('a secret of the tests');
  expect(await client.health()).toEqual({ ok: true, problems: [] });
});

test('health says why not: nobody to follow, an upstream that is away, a rule that is not met', async () => {
  const alone = await start(configOf('alone', { adminListen: '127.0.0.1:0' }));
  expect(await send(portOf(alone), 'GET', '/health')).toMatchObject({
    status: 503,
    body: { ok: false, problems: [expect.stringMatching(/follows nobody/)] },
  });
  expect((await send(portOf(alone), 'HEAD', '/health')).status).toBe(503);

  await alone.follow({ address: '127.0.0.1:1' });
  await expect
    .poll(() => alone.health().problems)
    .toEqual([expect.stringMatching(/^not connected to the upstream 127\.0\.0\.1:1: ./)]);

  const rule = { commitRule: { level: 'received', any: 1 }, ruleMs: 50 } as const;
  const primary = await start(configOf('p', { role: 'primary' }, rule));
  primary.engine.append(Buffer.from('x'));
  await expect
    .poll(() => primary.health().problems)
    .toEqual([expect.stringMatching(/^commits wait: the rule needs 1/)]);
  await alone.follow({ address: `127.0.0.1:${primary.engine.listenPort}` });
  await expect.poll(() => [primary.health().ok, alone.health().ok], { timeout: 5000 }).toEqual([true, true]);
});

test('what changes something is taken from this host only, as JSON, and checked', async () => {
  const node = await start(configOf('a', { adminListen: '0.0.0.0:0' }));
  const port = portOf(node);
  const post = (path: string, body: string, headers: object = json) =>
    send(port, 'POST', path, body, headers);
  expect((await post('/promote', '{}', {})).status).toBe(415);
  expect((await post('/promote', '{')).body.message).toMatch(/not JSON/);
  expect((await post('/promote', '{"epoch": 3}')).status).toBe(400);
  expect((await post('/promote', '{"epohc": "3"}')).status).toBe(400);
  expect((await post('/follow', '{}')).status).toBe(400);
  expect((await post('/follow', '{"address": "nowhere"}')).body.message).toMatch(
    /address: 'nowhere' is not an address/,
  );
  expect((await post('/follow', JSON.stringify({ address: 'x'.repeat(70_000) }))).status).toBe(413);
  expect((await post('/status', '{}')).status).toBe(405);
  expect((await send(port, 'GET', '/promote')).status).toBe(405);
  expect((await send(port, 'GET', '/nothing')).body.message).toMatch(
    /only \/status, \/health, \/cluster, .*\/promote, \/follow/,
  );
  expect(node.engine.role).toBe('standby');

  expect(await post('/promote', '{"epoch": "7"}')).toMatchObject({
    status: 200,
    body: { role: 'primary', epoch: '7' },
  });
  expect(await post('/promote', '')).toMatchObject({ status: 409, body: { code: 'WALSHIP_ERR_IS_PRIMARY' } });
});

const outside = Object.values(networkInterfaces())
  .flat()
  .find((address) => address?.family === 'IPv4' && !address.internal)?.address;

test.skipIf(outside === undefined)('from another address one may read but not change', async () => {
  const node = await start(configOf('a', { adminListen: '0.0.0.0:0' }));
  expect((await send(portOf(node), 'GET', '/status', undefined, {}, outside)).status).toBe(200);
  expect(await send(portOf(node), 'POST', '/promote', '{}', json, outside)).toMatchObject({
    status: 403,
    body: { code: 'WALSHIP_ERR_FORBIDDEN' },
  });
  expect(node.engine.role).toBe('standby');
});

test('an interface that cannot listen ends the start, and leaves nothing open', async () => {
  const first = await start(configOf('a', { adminListen: '127.0.0.1:0' }));
  const taken = { adminListen: `127.0.0.1:${portOf(first)}` };
  await expect(Node.start(configOf('b', taken))).rejects.toMatchObject({ code: 'WALSHIP_ERR_ADMIN' });
  const socket = { adminSocket: join(dir, 'a/walship.sock') };
  await expect(Node.start(configOf('b', socket))).rejects.toMatchObject({
    code: 'WALSHIP_ERR_ADMIN',
    message: expect.stringMatching(/another process answers/),
  });
  // Its log is free again.
  await start(configOf('b'));
});

test('a node stops once, says so, and can be started again', async () => {
  const events: string[] = [];
  const node = await start(configOf('a', { role: 'primary' }), (entry) => events.push(entry.event));
  await Promise.all([node.stop(), node.stop()]);
  await node.done;
  expect(events).toEqual(['starting', 'listening', 'admin', 'role', 'stopping', 'stopped']);
  const client = new AdminClient({ socket: join(dir, 'a/walship.sock') });
  await expect(client.status()).rejects.toMatchObject({ code: 'WALSHIP_ERR_UNREACHABLE' });
  const again = await start(configOf('a', { role: 'primary' }));
  expect(again.engine.epoch).toBe(2n);
});

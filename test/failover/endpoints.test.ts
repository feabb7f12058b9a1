import { mkdtempSync, rmSync } from 'node:fs';
import { get } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type NodeView, nodeViewSchema } from '../../src/cluster/view.js';
import { ClusterServer } from '../../src/failover/endpoints.js';
import { AdminClient, Engine, type EngineOptions, Node } from '../../src/index.js';

let dir: string;
const open: { stop(): Promise<void> }[] = [];
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'walship-endpoints-'));
});
afterEach(async () => {
  await Promise.all(open.splice(0).map((each) => each.stop()));
  rmSync(dir, { recursive: true, force: true });
});

const engineOf = (name: string): EngineOptions => ({
  dir: join(dir, name),
  nodeId: name,
  cluster: { id: 'endpoints', secret: 'a secret of the tests' },
  listen: '127.0.0.1:0',
  transport: 'tcp',
  log: { pageBytes: 65536, segmentBytes: 1048576, spareSegments: 0 },
  arena: { bytes: 2097152, hugePages: false },
});

async function standby(name: string): Promise<{ node: Node; address: string }> {
  const node = await Node.start({ engine: engineOf(name), adminListen: '127.0.0.1:0' });
  open.push(node);
  return { node, address: node.status().adminListen as string };
}

/** On a connection of its own. */
function ask(address: string, path: string): Promise<{ status: number; text: string }> {
  return new Promise((resolve, reject) => {
    const asked = get(`http://${address}${path}`, { agent: false }, (response) => {
      let text = '';
      response.on('data', (part) => {
        text += part;
      });
      response.on('end', () => resolve({ status: response.statusCode ?? 0, text }));
    });
    asked.on('error', reject);
  });
}

async function view(address: string, after?: string): Promise<NodeView> {
  const { text } = await ask(address, `/cluster${after === undefined ? '' : `?after=${after}`}`);
  return nodeViewSchema.parse(JSON.parse(text));
}

async function pending(answer: Promise<unknown>, ms: number): Promise<boolean> {
  return (
    (await Promise.race([answer, new Promise((resolve) => setTimeout(resolve, ms, 'waits'))])) === 'waits'
  );
}

test('who asks with the version that it has waits for another one; positions are none', async () => {
  const { node, address } = await standby('a');
  const before = await view(address);
  expect(before).toMatchObject({ node: 'a', role: 'standby', epoch: 0n, health: { ok: false } });
  expect((await view(address, 'of-another-time')).version).toBe(before.version);
  const later = view(address, before.version);
  expect(await pending(later, 500)).toBe(true);
  await node.promote(5n);
  const after = await later;
  expect(after).toMatchObject({ role: 'primary', epoch: 5n, health: { ok: true } });

  const quiet = view(address, after.version);
  await node.engine.committed(node.engine.append(Buffer.from('a position')));
  expect(await pending(quiet, 500)).toBe(true);
  const now = await view(address);
  expect(now.version).toBe(after.version);
  expect(now.positions.committed).toBe(10n);
  await node.follow();
  expect((await quiet).role).toBe('standby');
});

test('after 10 s it is told that nothing is new', { timeout: 30_000 }, async () => {
  const { address } = await standby('a');
  const { version } = await view(address);
  const began = performance.now();
  expect((await view(address, version)).version).toBe(version);
  expect(performance.now() - began).toBeGreaterThan(9_000);
});

test('those who wait keep nobody else from being answered', { timeout: 60_000 }, async () => {
  const { node, address } = await standby('a');
  const { version } = await view(address);
  const waiting = Array.from({ length: 512 }, () => view(address, version));
  expect(await pending(Promise.race(waiting), 1000)).toBe(true);
  // One more than may wait.
  expect(await pending(view(address, version), 5000)).toBe(false);
  expect((await ask(address, '/standby')).status).toBe(503);
  expect(await pending(Promise.race(waiting), 100)).toBe(true);
  const client = new AdminClient({ socket: join(dir, 'a/walship.sock') });
  expect((await client.promote()).role).toBe('primary');
  for (const each of await Promise.all(waiting)) expect(each.role).toBe('primary');
  expect(node.engine.role).toBe('primary');
});

test('an engine without a node has them on a port of their own', async () => {
  const server = await ClusterServer.open('127.0.0.1:0');
  open.push({ stop: () => server.close() });
  expect((await ask(server.address, '/cluster')).status).toBe(503);
  const engine = await Engine.open(engineOf('a'));
  open.push({ stop: () => engine.close() });
  server.serve({ engine });
  expect((await ask(server.address, '/health')).status).toBe(503);
  expect((await ask(server.address, '/primary')).status).toBe(503);
  await engine.promote();
  expect((await ask(server.address, '/health')).status).toBe(200);
  expect((await ask(server.address, '/primary')).status).toBe(200);
  const status = JSON.parse((await ask(server.address, '/status')).text);
  expect(status).toMatchObject({ nodeId: 'a', role: 'primary', health: { ok: true } });
  expect((await ask(server.address, '/promote')).status).toBe(404);
  await expect(ClusterServer.open(server.address)).rejects.toMatchObject({ code: 'WALSHIP_ERR_ADMIN' });
});

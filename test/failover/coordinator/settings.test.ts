import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingHttpHeaders } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { type CoordinatorSettings, openCoordinator } from '../../../src/failover/coordinator/settings.js';

const dir = mkdtempSync(join(tmpdir(), 'walship-settings-'));
afterAll(() => rmSync(dir, { recursive: true }));
const http = { kind: 'etcd', endpoints: ['http://127.0.0.1:2379'] } as const;
const https = { kind: 'etcd', endpoints: ['https://127.0.0.1:2379'] } as const;

test.each<[string, unknown, RegExp]>([
  ['no kind', {}, /kind/],
  ['another kind', { kind: 'zookeeper' }, /kind/],
  ['no path', { kind: 'embedded' }, /path/],
  ['no endpoints', { kind: 'etcd', endpoints: [] }, /endpoints/],
  [
    'an endpoint without a scheme',
    { kind: 'etcd', endpoints: ['127.0.0.1:2379'] },
    /endpoints\.0: must be http/,
  ],
  [
    'an endpoint with a path',
    { kind: 'etcd', endpoints: ['http://127.0.0.1:2379/v3'] },
    /endpoints\.0: must be http/,
  ],
  ['a prefix with a slash behind', { ...http, prefix: '/walship/' }, /prefix: must be like/],
  ['a user alone', { ...http, user: 'u' }, /belong together/],
  ['a password alone', { ...http, password: 'p' }, /belong together/],
  ['two passwords', { ...http, user: 'u', password: 'p', passwordFile: 'f' }, /not both/],
  ['a certificate alone', { ...https, certFile: 'c' }, /certFile and keyFile/],
  ['an authority for plain http', { ...http, caFile: 'c' }, /https:\/\/ endpoints/],
  ['a file that is not there', { ...https, caFile: join(dir, 'none') }, /caFile: ENOENT/],
  ['what is no setting', { ...http, lease: 5 }, /lease/],
])('%s is refused', async (_, settings, message) => {
  const error = await openCoordinator(settings as CoordinatorSettings, 'c').catch((thrown: Error) => thrown);
  expect(error).toMatchObject({ code: 'WALSHIP_ERR_CONFIG' });
  expect((error as Error).message).toMatch(message);
});

test('a password from a file is sent without its line end, and the token with every request', async () => {
  const asked: { url: string | undefined; headers: IncomingHttpHeaders; body: string }[] = [];
  const server = createServer((request, response) => {
    let body = '';
    request.on('data', (chunk) => {
      body += chunk;
    });
    request.on('end', () => {
      asked.push({ url: request.url, headers: request.headers, body });
      const header = { cluster_id: '1', revision: '7' };
      response.end(JSON.stringify(request.url?.includes('auth') ? { header, token: 'a token' } : { header }));
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as { port: number };
  writeFileSync(join(dir, 'password'), 'secret\n');
  const coordinator = await openCoordinator(
    { kind: 'etcd', endpoints: [`http://127.0.0.1:${port}`], user: 'u', passwordFile: join(dir, 'password') },
    'cluster-1',
  );
  expect(await coordinator.read()).toEqual({ revision: 0n, members: [], paused: false });
  await coordinator.close();
  server.close();
  expect(asked.map(({ url }) => url)).toEqual(['/v3/auth/authenticate', '/v3/kv/range']);
  expect(JSON.parse(asked[0]?.body ?? '')).toEqual({ name: 'u', password: 'secret' });
  expect(asked[1]?.headers.authorization).toBe('a token');
  const { key, range_end } = JSON.parse(asked[1]?.body ?? '');
  expect([key, range_end].map((text) => Buffer.from(text, 'base64').toString())).toEqual([
    '/walship/cluster-1/',
    '/walship/cluster-10',
  ]);
});

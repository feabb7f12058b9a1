import { createServer } from 'node:net';
import { expect, test } from 'vitest';
import { known, notApplied, outcomeOf } from '../../src/cluster/outcome.js';
import { WalshipError } from '../../src/engine/errors.js';
import { AdminClient } from '../../src/node/client.js';
import { freePort } from '../lib/etcd.js';

test('only what surely was not done is said to be so', () => {
  expect(outcomeOf(notApplied(new Error('x')))).toBe('not-applied');
  expect(outcomeOf(known(new Error('x')))).toBe('known');
  expect(outcomeOf(new WalshipError('WALSHIP_ERR_NOT_PRIMARY', 'x', { details: { appended: false } }))).toBe(
    'not-applied',
  );
  // The same code is told to an append that waits for its commit.
  expect(outcomeOf(new WalshipError('WALSHIP_ERR_NOT_PRIMARY', 'x'))).toBe('unknown');
  expect(outcomeOf(new WalshipError('WALSHIP_ERR_TIMEOUT', 'x'))).toBe('unknown');
  expect(outcomeOf(new Error('x', { cause: notApplied(new Error('of something else')) }))).toBe('unknown');
  for (const nothing of [undefined, null, 'ECONNREFUSED', 7]) expect(outcomeOf(nothing)).toBe('unknown');
});

test('a refused connection, by whichever client; a broken one is in doubt', async () => {
  const port = await freePort();
  const failure = (promise: Promise<unknown>) =>
    promise.then(
      () => undefined,
      (error) => error,
    );
  const fetched = (host: string, at = port) => failure(fetch(`http://${host}:${at}/`, { method: 'POST' }));
  expect(outcomeOf(await fetched('127.0.0.1'))).toBe('not-applied');
  expect(outcomeOf(await fetched('localhost'))).toBe('not-applied');
  const admin = new AdminClient({ host: '127.0.0.1', port });
  expect(outcomeOf(await failure(admin.status()))).toBe('not-applied');
  const server = createServer((socket) => socket.once('data', () => socket.destroy()));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  expect(outcomeOf(await fetched('127.0.0.1', (server.address() as { port: number }).port))).toBe('unknown');
  server.close();
});

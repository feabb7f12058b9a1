import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import type { Target } from '../../src/cluster/choose.js';
import { known, notApplied } from '../../src/cluster/outcome.js';
import { Router, type RouterOptions } from '../../src/cluster/router.js';
import { freePort } from '../lib/etcd.js';
import { ShownNode, write } from './support.js';

const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0)) await cleanUp();
});
async function start(...parameters: Parameters<typeof ShownNode.start>): Promise<ShownNode> {
  const node = await ShownNode.start(...parameters);
  cleanUps.push(() => node.kill());
  return node;
}
function route(nodes: readonly (ShownNode | string)[], options: Partial<RouterOptions> = {}) {
  const router = new Router({
    nodes: nodes.map((each) => (typeof each === 'string' ? each : each.http)),
    ...options,
  });
  cleanUps.push(() => router.close());
  const changes: { node: string | undefined; at: number }[] = [];
  router.on('change', (primary) => changes.push({ node: primary?.node, at: performance.now() }));
  return { router, changes };
}
const pause = (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds));
async function until(what: string, holds: () => boolean, milliseconds = 5000): Promise<number> {
  const began = performance.now();
  while (!holds()) {
    if (performance.now() - began > milliseconds) throw new Error(`in vain: ${what}`);
    await pause(1);
  }
  return performance.now() - began;
}
const of = (node: ShownNode, epoch: number) => ({ primary: { node: node.name, epoch } });

describe('who is primary', () => {
  test('found, told of when it changes, and not one that was deposed and has not noticed', async () => {
    const a = await start('a', { role: 'primary', epoch: 4 });
    const b = await start('b', { role: 'standby', epoch: 4, ...of(a, 4) });
    const { router, changes } = route([a, b]);
    expect(await router.primary()).toMatchObject({ node: 'a', http: a.http, epoch: 4n });
    await b.show({ role: 'primary', epoch: 5, ...of(b, 5) });
    expect(await until('b is known', () => changes.at(-1)?.node === 'b')).toBeLessThan(200);
    expect(await router.primary()).toMatchObject({ node: 'b', http: b.http, epoch: 5n });
    expect(changes.map(({ node }) => node)).toEqual(['a', 'b']);
  });

  test('killed: noticed at once; there again: found again', async () => {
    const a = await start('a', { role: 'primary', epoch: 4 });
    const { router, changes } = route([a]);
    await router.primary();
    await a.kill();
    expect(await until('a is gone', () => changes.length === 2)).toBeLessThan(200);
    const waiting = router.primary({ timeoutMs: 5000 });
    await start('a', { role: 'primary', epoch: 5 }, a.port);
    expect(await waiting).toMatchObject({ node: 'a', epoch: 5n });
  });

  test('stopped: its connections stay, and it is noticed nevertheless', async () => {
    const a = await start('a', { role: 'primary', epoch: 4 });
    const { router, changes } = route([a], { checkMs: 200, silentMs: 300 });
    await router.primary();
    a.signal('SIGSTOP');
    const took = await until('a is silent', () => changes.at(-1)?.node === undefined && changes.length === 2);
    expect(took).toBeLessThan(900);
    a.signal('SIGCONT');
    expect(await until('a is back', () => changes.at(-1)?.node === 'a')).toBeLessThan(1500);
  });

  test('nobody: an error that says what each has said', async () => {
    const a = await start('a', { role: 'standby', epoch: 4, applied: 7 });
    const g = await start('g', { role: 'primary', epoch: 9 });
    await g.mode('garbage');
    const refusing = `127.0.0.1:${await freePort()}`;
    const { router } = route([a, g, refusing]);
    const error = await router.primary({ timeoutMs: 300 }).catch((thrown: Error) => thrown);
    expect(error).toMatchObject({ code: 'WALSHIP_ERR_NO_PRIMARY' });
    expect((error as Error).message).toMatch(
      /within 300 ms .*a, standby, epoch 4, applied 7;.*no walship node answers: /,
    );
    expect((error as Error).message).toMatch(new RegExp(`http://${refusing}: .*ECONNREFUSED`));
  });

  test('members that were not given are found, and forgotten when they are gone', async () => {
    const b = await start('b', { role: 'primary', epoch: 4 });
    const a = await start('a', { role: 'standby', epoch: 4, members: [b] });
    const { router } = route([a]);
    expect(await router.primary()).toMatchObject({ node: 'b', http: b.http, log: 'log-b:1' });
    expect(router.nodes()).toHaveLength(2);
    await b.kill();
    await a.show({ role: 'standby', epoch: 4 });
    await until('b is forgotten', () => router.nodes().length === 1);
    const { router: narrow } = route([a], { discover: false });
    await expect(narrow.primary({ timeoutMs: 200 })).rejects.toMatchObject({
      code: 'WALSHIP_ERR_NO_PRIMARY',
    });
  });

  test('wrong options and a closed router are said to be so', async () => {
    expect(() => new Router({ nodes: [] })).toThrow(expect.objectContaining({ code: 'WALSHIP_ERR_CONFIG' }));
    expect(() => new Router({ nodes: ['ftp://x'] })).toThrow(/http:\/\/host:port/);
    const { router } = route([`127.0.0.1:${await freePort()}`]);
    const waiting = expect(router.primary()).rejects.toMatchObject({ code: 'WALSHIP_ERR_CLOSED' });
    router.close();
    await waiting;
    await expect(router.replica()).rejects.toMatchObject({ code: 'WALSHIP_ERR_CLOSED' });
  });
});

describe('where to read', () => {
  test('in turns; where it is applied; waiting until it is; the primary if nobody else is there', async () => {
    const a = await start('a', { role: 'primary', epoch: 4, applied: 100 });
    const standby = { role: 'standby', epoch: 4, ...of(a, 4) } as const;
    const b = await start('b', { ...standby, applied: 90 });
    const c = await start('c', { ...standby, applied: 95 });
    const { router } = route([a, b, c]);
    await until('all are known', () => router.nodes().every(({ view }) => view !== undefined));
    const nodes = async (minLsn: bigint) => {
      const found: string[] = [];
      for (let turn = 0; turn < 6; turn++) found.push((await router.replica({ minLsn })).node);
      return found.sort().join('');
    };
    expect(await nodes(0n)).toBe('bbbccc');
    expect(await nodes(93n)).toBe('cccccc');
    const waiting = router.replica({ minLsn: 96n });
    // Positions make no new version.
    setTimeout(() => void b.show({ ...standby, applied: 96 }, true), 100);
    const began = performance.now();
    expect((await waiting).node).toBe('b');
    expect(performance.now() - began).toBeLessThan(400);
    await expect(router.replica({ minLsn: 1000n, timeoutMs: 100 })).rejects.toMatchObject({
      code: 'WALSHIP_ERR_NO_REPLICA',
      message: expect.stringMatching(/LSN 1000 within 100 ms.*b, standby, epoch 4, applied 96/),
    });
    await b.kill();
    await c.kill();
    await until('they are gone', () => router.nodes().filter(({ view }) => view).length === 1);
    expect((await router.replica({ minLsn: 100n })).node).toBe('a');
  });
});

describe('writes', () => {
  test('nothing was done: tried again until somebody takes it', async () => {
    const a = await start('a', { role: 'primary', epoch: 4 });
    const b = await start('b', { role: 'standby', epoch: 4, ...of(a, 4) });
    const { router } = route([a, b]);
    await router.primary();
    await a.mode('refuse');
    let attempts = 0;
    const writing = router.withPrimary((primary) => {
      attempts++;
      return write(primary);
    });
    await pause(100);
    expect(attempts).toBeGreaterThan(1);
    await b.show({ role: 'primary', epoch: 5, ...of(b, 5) });
    expect(await writing).toBe(1);
    expect([await a.written(), await b.written()]).toEqual([0, 1]);
    // Refused by the system, too: nobody listens.
    await b.kill();
    const again = router.withPrimary((primary) => write(primary), { timeoutMs: 5000 });
    await a.mode('ok');
    await a.show({ role: 'primary', epoch: 6, ...of(a, 6) });
    expect(await again).toBe(1);
  });

  test('perhaps done: an error, unless doing it twice does no harm', async () => {
    const a = await start('a', { role: 'primary', epoch: 4 });
    const { router } = route([a]);
    await a.mode('drop');
    let attempts = 0;
    const counted = (primary: Target) => {
      attempts++;
      return write(primary);
    };
    await expect(router.withPrimary(counted)).rejects.toMatchObject({
      code: 'WALSHIP_ERR_UNKNOWN_OUTCOME',
      cause: expect.objectContaining({ code: 'ECONNRESET' }),
    });
    expect(attempts).toBe(1);
    const writing = router.withPrimary(counted, { idempotent: true });
    await until('it is tried again', () => attempts > 3);
    await a.mode('ok');
    expect(await writing).toBeGreaterThan(2);
    await a.mode('drop');
    await expect(router.withPrimary(write, { idempotent: true, timeoutMs: 200 })).rejects.toMatchObject({
      code: 'WALSHIP_ERR_UNKNOWN_OUTCOME',
    });
  });

  test('an answer is an answer, and time has an end', async () => {
    const a = await start('a', { role: 'primary', epoch: 4 });
    const { router } = route([a]);
    const answer = known(new Error('the account is empty'));
    await expect(router.withPrimary(async () => Promise.reject(answer))).rejects.toBe(answer);
    const refusal = notApplied(new Error('not me'));
    await expect(
      router.withPrimary(async () => Promise.reject(refusal), { timeoutMs: 150 }),
    ).rejects.toMatchObject({ code: 'WALSHIP_ERR_NO_PRIMARY', cause: refusal });
    const began = performance.now();
    await expect(router.withPrimary(() => new Promise(() => {}), { timeoutMs: 150 })).rejects.toMatchObject({
      code: 'WALSHIP_ERR_UNKNOWN_OUTCOME',
    });
    expect(performance.now() - began).toBeLessThan(500);
  });

  test('a primary that hangs and is deposed: the write is told, and an idempotent one goes on with the next', async () => {
    const a = await start('a', { role: 'primary', epoch: 4 });
    const b = await start('b', { role: 'standby', epoch: 4, ...of(a, 4) });
    const { router } = route([a, b]);
    await router.primary();
    await a.mode('hang');
    const careful = router.withPrimary(write, { timeoutMs: 5000 });
    // It does not listen to its signal.
    const stubborn = router.withPrimary((primary) => write(primary), { timeoutMs: 5000, idempotent: true });
    const judged = expect(careful).rejects.toMatchObject({ code: 'WALSHIP_ERR_UNKNOWN_OUTCOME' });
    await pause(50);
    const began = performance.now();
    await b.show({ role: 'primary', epoch: 5, ...of(b, 5) });
    await judged;
    expect(await stubborn).toBe(1);
    expect(performance.now() - began).toBeLessThan(500);
  });

  test('primaries killed under writes: what is acknowledged was done once, what is in doubt at most once', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'walship-router-'));
    cleanUps.push(() => rmSync(dir, { recursive: true }));
    const notes = join(dir, 'notes');
    const ports = [await freePort(), await freePort()];
    let epoch = 1;
    let primary = await start('n1', { role: 'primary', epoch }, ports[1], notes);
    const { router } = route(ports.map((port) => `127.0.0.1:${port}`));
    const acknowledged: string[] = [];
    const doubtful: string[] = [];
    let running = true;
    const client = async (name: number) => {
      for (let number = 0; running; number++) {
        const id = `/write?${name}-${number}`;
        await router
          .withPrimary((target, signal) => write(target, signal, `${name}-${number}`))
          .then(
            () => acknowledged.push(id),
            (error) => {
              if (error.code !== 'WALSHIP_ERR_UNKNOWN_OUTCOME') throw error;
              doubtful.push(id);
            },
          );
      }
    };
    const clients = Promise.all([client(0), client(1), client(2), client(3)]);
    for (let kill = 0; kill < 12; kill++) {
      await pause(60 + kill * 3);
      await primary.kill();
      epoch++;
      primary = await start(`n${epoch}`, { role: 'primary', epoch }, ports[epoch % 2], notes);
      await router.primary();
    }
    const before = acknowledged.length;
    await until('writes go on', () => acknowledged.length > before);
    running = false;
    await clients;
    const done = readFileSync(notes, 'utf8').trimEnd().split('\n');
    expect(new Set(done).size).toBe(done.length);
    const undone = new Set(acknowledged);
    for (const id of done) undone.delete(id);
    expect([...undone]).toEqual([]);
    const told = new Set([...acknowledged, ...doubtful]);
    expect(done.filter((id) => !told.has(id))).toEqual([]);
    expect(acknowledged.length).toBeGreaterThan(100);
  }, 30_000);
});

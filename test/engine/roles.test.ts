// What binds a node in its role, as a controller sees and uses it.
import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Engine, type EngineEvent, type EngineOptions } from '../../src/index.js';
import { credentials, pause, smallArena, smallLog } from '../lib/cluster.js';

let base = '';
const engines: Engine[] = [];

beforeEach(() => {
  base = mkdtempSync('/dev/shm/walship-roles-');
});

afterEach(async () => {
  await Promise.all(engines.splice(0).map((engine) => engine.close()));
  rmSync(base, { recursive: true, force: true });
});

async function open(name: string, more: Partial<EngineOptions> = {}): Promise<Engine> {
  const engine = await Engine.open({
    dir: join(base, name),
    nodeId: name,
    cluster: credentials,
    transport: 'tcp',
    listen: '127.0.0.1:0',
    log: smallLog,
    arena: smallArena,
    ...more,
  });
  engines.push(engine);
  return engine;
}

const addressOf = (engine: Engine) => ({ address: `127.0.0.1:${engine.listenPort}` });
const inMs = (ms: number) => process.hrtime.bigint() + BigInt(ms) * 1_000_000n;

function event(engine: Engine, type: EngineEvent['type']): Promise<EngineEvent> {
  return new Promise((resolve) => {
    const listen = (each: EngineEvent) => {
      if (each.type !== type) return;
      engine.off('event', listen);
      resolve(each);
    };
    engine.on('event', listen);
  });
}

/** Nothing of JavaScript runs meanwhile. */
function hang(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}

test('a promise says how far the log is, and what was joined is promised', async () => {
  const upper = await open('a');
  const lower = await open('b');
  await upper.promote(3n);
  const joined = event(lower, 'epoch');
  await lower.follow(addressOf(upper));
  expect((await joined).message).toMatch(/^epoch 3 /);
  const lsn = upper.append(Buffer.alloc(1000));
  await lower.reached('flushed', lsn, 5000);
  expect(lower).toMatchObject({ epoch: 3n, logEpoch: 3n, promisedEpoch: 3n });
  await expect.poll(() => upper.status().nodes[0]?.epoch).toBe(3n);
  expect(lower.upstreamHeardMsAgo).toBeLessThan(1000);
  const down = event(lower, 'upstream-down');
  expect(await lower.promise(5n)).toEqual({ lsn, logEpoch: 3n });
  expect(lower).toMatchObject({ epoch: 3n, logEpoch: 3n, promisedEpoch: 5n });
  expect((await down).node).toBe('a');
  expect(await lower.promote(5n)).toBe(5n);
  expect(lower).toMatchObject({ epoch: 5n, logEpoch: 5n, promisedEpoch: 5n });
});

test('a lease ends in the data plane while JavaScript hangs', async () => {
  const engine = await open('a');
  expect(engine.upstreamHeardMsAgo).toBe(Number.POSITIVE_INFINITY);
  await engine.promote(0n, inMs(200));
  const first = engine.append(Buffer.alloc(10));
  await engine.committed(first);
  hang(400);
  const late = engine.append(Buffer.alloc(10));
  hang(100);
  expect(engine.positions.flushed).toBe(late);
  expect(engine.positions.committed).toBe(first);
  await event(engine, 'lease-expired');
  const renewed = event(engine, 'lease-renewed');
  engine.setLease(inMs(60_000));
  await engine.committed(late);
  await renewed;
  engine.setLease(undefined);
  await engine.committed(engine.append(Buffer.alloc(10)));
});

test('a held primary takes no appends; whoever waits goes on after it, or learns that the node was demoted', async () => {
  const engine = await open('a');
  await engine.promote();
  const end = engine.append(Buffer.alloc(10));
  expect(engine.hold(true)).toBe(end);
  let appended = false;
  const waiting = engine.appendWhenWritable(Buffer.alloc(10)).then((lsn) => {
    appended = true;
    return lsn;
  });
  await pause(100);
  expect(appended).toBe(false);
  await engine.committed(end);
  engine.hold(false);
  expect(await waiting).toBe(end + 10n);
  engine.hold(true);
  const refused = expect(engine.appendWhenWritable(Buffer.alloc(10))).rejects.toMatchObject({
    code: 'WALSHIP_ERR_NOT_PRIMARY',
  });
  await engine.promise(9n);
  await refused;
});

// The public API of one process: what it promises when it is used in every wrong order, too.
import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { Engine, type EngineEvent, type EngineOptions, WalshipError } from '../../src/index.js';
import { credentials, pause, smallArena, smallLog } from '../lib/cluster.js';
import { runInline } from '../lib/inline.js';
import { readLog } from '../lib/logfiles.js';
import { makeRecord } from '../lib/records.mjs';

let base = '';
const engines: Engine[] = [];

beforeEach(() => {
  base = mkdtempSync('/dev/shm/walship-api-');
});

afterEach(async () => {
  await Promise.all(engines.splice(0).map((engine) => engine.close()));
  rmSync(base, { recursive: true, force: true });
});

const options = (name = 'a', more: Partial<EngineOptions> = {}): EngineOptions => ({
  dir: join(base, name),
  nodeId: name,
  cluster: credentials,
  transport: 'tcp',
  log: smallLog,
  arena: smallArena,
  ...more,
});

async function open(name = 'a', more: Partial<EngineOptions> = {}): Promise<Engine> {
  const engine = await Engine.open(options(name, more));
  engines.push(engine);
  return engine;
}

async function primary(more: Partial<EngineOptions> = {}): Promise<Engine> {
  const engine = await open('a', more);
  await engine.promote();
  return engine;
}

function codeOf(call: () => unknown): string {
  try {
    call();
  } catch (error) {
    expect(error).toBeInstanceOf(WalshipError);
    return (error as WalshipError).code;
  }
  return '';
}

async function codeOfPromise(promise: Promise<unknown>): Promise<string> {
  const error = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (error === undefined) return '';
  expect(error).toBeInstanceOf(WalshipError);
  return (error as WalshipError).code;
}

describe('closing', () => {
  test('twice is once', async () => {
    const engine = await primary();
    const first = engine.close();
    expect(engine.close()).toBe(first);
    await first;
    await engine.close();
  });

  test('what comes after says WALSHIP_ERR_CLOSED, and never crashes', async () => {
    const engine = await primary();
    engine.append(Buffer.from('x'));
    await engine.close();
    const closed = 'WALSHIP_ERR_CLOSED';
    expect(codeOf(() => engine.append(Buffer.from('x')))).toBe(closed);
    expect(codeOf(() => engine.status())).toBe(closed);
    expect(codeOf(() => engine.applied(1n))).toBe(closed);
    expect(codeOf(() => engine.setCommitRule({ level: 'async' }))).toBe(closed);
    expect(await codeOfPromise(engine.committed(1n << 60n))).toBe(closed);
    expect(await codeOfPromise(engine.writable())).toBe(closed);
    expect(await codeOfPromise(engine.appendWhenWritable(Buffer.from('x')))).toBe(closed);
    expect(await codeOfPromise(engine.promote())).toBe(closed);
    expect(await codeOfPromise(engine.promise(9n))).toBe(closed);
    expect(await codeOfPromise(engine.follow())).toBe(closed);
    expect(await codeOfPromise(engine.forgetReader('b'))).toBe(closed);
    for await (const _ of engine.read(0n)) expect.unreachable();
    expect(engine.positions.received).toBe(1n);
  });

  test('in the middle of everything: every wait ends', async () => {
    const engine = await primary({ commitRule: { level: 'received', any: 1 } });
    const lsn = engine.append(makeRecord(1, 1, 3000));
    const waits = [
      codeOfPromise(engine.committed(lsn)),
      codeOfPromise(engine.committed(lsn + 1000n)),
      (async () => {
        for await (const _ of engine.read(0n, { upTo: 'committed' })) expect.unreachable();
        return 'ended';
      })(),
    ];
    const closing = engine.close();
    const promoting = codeOfPromise(engine.promote());
    await closing;
    expect(await Promise.all(waits)).toEqual(['WALSHIP_ERR_CLOSED', 'WALSHIP_ERR_CLOSED', 'ended']);
    expect(['WALSHIP_ERR_CLOSED', 'WALSHIP_ERR_IS_PRIMARY']).toContain(await promoting);
    expect(readLog(join(base, 'a')).endLsn).toBe(lsn);
  });

  test('a writer that waits for room is told', async () => {
    const engine = await primary();
    const records = (async () => {
      for (let number = 0; ; number++) await engine.appendWhenWritable(makeRecord(1, number, 100_000));
    })();
    await pause(50);
    const code = codeOfPromise(records);
    await engine.close();
    expect(await code).toBe('WALSHIP_ERR_CLOSED');
  });

  test('and opening again a hundred times gives every byte back', async () => {
    let end = 0n;
    for (let round = 0; round < 100; round++) {
      const engine = await Engine.open(options());
      expect(engine.recoveryNote).toBe('');
      expect(engine.positions.received).toBe(end);
      await engine.promote();
      end = engine.append(makeRecord(1, round, 700));
      await engine.close();
    }
    const { payload } = readLog(join(base, 'a'));
    for (let round = 0; round < 100; round++) {
      expect(payload.subarray(round * 700, (round + 1) * 700).equals(makeRecord(1, round, 700))).toBe(true);
    }
  });
});

describe('errors', () => {
  test('of the options come all at once, each with its place', async () => {
    const bad = {
      ...options('bad id'),
      cluster: { id: 'c', secret: 'short' },
      arena: { bytes: 100 },
      links: { heartbeatMs: 1, nonsense: 1 },
      commitRule: { level: 'received' },
      listen: 'nowhere',
    } as unknown as EngineOptions;
    const error = await Engine.open(bad).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(WalshipError);
    const { code, details } = error as WalshipError;
    expect(code).toBe('WALSHIP_ERR_CONFIG');
    const problems = (details['problems'] as string[]).join('\n');
    for (const place of ['nodeId', 'cluster.secret', 'heartbeatMs', 'nonsense', 'commitRule', 'listen']) {
      expect(problems).toContain(place);
    }
  });

  test('of use have codes', async () => {
    const engine = await open('a', { listen: '127.0.0.1:0' });
    expect(codeOf(() => engine.append(Buffer.from('x')))).toBe('WALSHIP_ERR_NOT_PRIMARY');
    await engine.promote();
    expect(await codeOfPromise(engine.promote())).toBe('WALSHIP_ERR_IS_PRIMARY');
    expect(codeOf(() => engine.append(Buffer.alloc(engine.appendBytesMax + 1)))).toBe(
      'WALSHIP_ERR_APPEND_TOO_LARGE',
    );
    expect(codeOf(() => engine.append('text' as unknown as Buffer))).toBe('WALSHIP_ERR_ARGUMENT');
    expect(codeOf(() => engine.setCommitRule({ level: 'flushed' } as never))).toBe('WALSHIP_ERR_CONFIG');
    expect(await codeOfPromise(engine.promise(0n))).toBe('WALSHIP_ERR_EPOCH');
    expect(await codeOfPromise(engine.follow({ address: 'no port' }))).toBe('WALSHIP_ERR_ADDRESS');
    expect(engine.role).toBe('primary');
    expect(await codeOfPromise(Engine.open(options('a')))).toBe('WALSHIP_ERR_LOG_LOCKED');
    const listen = `127.0.0.1:${engine.listenPort}`;
    expect(await codeOfPromise(Engine.open(options('b', { listen })))).toBe('WALSHIP_ERR_LISTEN');
    await engine.follow();
    expect(await codeOfPromise(engine.promote(1n))).toBe('WALSHIP_ERR_EPOCH');
    const other = { ...credentials, id: 'another' };
    await engine.close();
    expect(await codeOfPromise(Engine.open(options('a', { cluster: other })))).toMatch(
      /^$|WALSHIP_ERR_LOG_FOREIGN/,
    );
  });

  test('a log of another cluster is refused', async () => {
    const engine = await primary();
    await engine.committed(engine.append(Buffer.from('mine')));
    await engine.close();
    const other = { ...credentials, id: 'another' };
    expect(await codeOfPromise(Engine.open(options('a', { cluster: other })))).toBe(
      'WALSHIP_ERR_LOG_FOREIGN',
    );
  });
});

describe('appending', () => {
  test('from several loops at once keeps every record whole, in the order of the LSNs', async () => {
    const engine = await primary();
    const records: { lsn: bigint; writer: number; number: number; length: number }[] = [];
    await Promise.all(
      Array.from({ length: 8 }, async (_, writer) => {
        for (let number = 0; number < 200; number++) {
          const length = 16 + ((number * 977 + writer * 131) % 9000);
          const lsn = await engine.appendWhenWritable(makeRecord(writer, number, length));
          records.push({ lsn, writer, number, length });
          if (number % 7 === writer % 7) await engine.committed(lsn);
        }
      }),
    );
    await engine.close();
    const { payload, endLsn } = readLog(join(base, 'a'));
    expect(Number(endLsn)).toBe(records.reduce((sum, { length }) => sum + length, 0));
    for (const { lsn, writer, number, length } of records) {
      const end = Number(lsn);
      expect(payload.subarray(end - length, end).equals(makeRecord(writer, number, length))).toBe(true);
    }
  });

  test('into a full arena gives back-pressure, all or nothing, and writable() ends it', async () => {
    const engine = await primary();
    const record = makeRecord(1, 1, 150_000);
    let end = 0n;
    let code = '';
    for (let i = 0; i < 1000 && code === ''; i++) {
      code = codeOf(() => {
        end = engine.append(record);
      });
    }
    expect(code).toBe('WALSHIP_ERR_BACKPRESSURE');
    await engine.writable();
    const next = engine.append(record);
    expect(next).toBe(end + 150_000n);
  });

  test('writable() that is asked for late does not wait for the next back-pressure', async () => {
    const engine = await primary();
    const record = makeRecord(1, 1, 150_000);
    let code = '';
    while (code === '') code = codeOf(() => engine.append(record));
    await pause(300);
    await Promise.race([
      engine.writable(),
      pause(2000).then(() => expect.unreachable('it is writable already')),
    ]);
    engine.append(record);
    await engine.writable();
  });

  test('the largest append there is, and an empty one', async () => {
    const engine = await primary();
    const largest = makeRecord(1, 1, engine.appendBytesMax);
    const lsn = engine.append(largest);
    expect(lsn).toBe(BigInt(largest.length));
    expect(engine.append(Buffer.alloc(0))).toBe(lsn);
    await engine.committed(lsn);
    const parts: Buffer[] = [];
    for await (const { bytes } of engine.read(0n, { end: lsn })) parts.push(bytes);
    expect(Buffer.concat(parts).equals(largest)).toBe(true);
  });
});

describe('reading', () => {
  test('follows the tail across pages and segments, in memory and from disk', async () => {
    const engine = await primary();
    const total = 8 << 20; // four arenas, eight segments
    const written: Buffer[] = [];
    const follower = (async () => {
      const parts: Buffer[] = [];
      let at = 0n;
      for await (const { lsn, bytes } of engine.read(0n, { end: BigInt(total) })) {
        expect(lsn).toBe(at);
        at += BigInt(bytes.length);
        parts.push(bytes);
      }
      return Buffer.concat(parts);
    })();
    for (let number = 0, bytes = 0; bytes < total; number++) {
      const record = makeRecord(1, number, Math.min(50_000, total - bytes));
      bytes += record.length;
      written.push(record);
      await engine.appendWhenWritable(record);
    }
    const all = Buffer.concat(written);
    expect((await follower).equals(all)).toBe(true);
    // Again from the beginning: most of it is on disk only by now.
    const parts: Buffer[] = [];
    for await (const { bytes } of engine.read(0n, { end: BigInt(total) })) parts.push(bytes);
    expect(Buffer.concat(parts).equals(all)).toBe(true);
    expect(engine.status().arena.loads).toBeGreaterThan(0);
    // From the middle of a record, to the middle of another.
    const some: Buffer[] = [];
    for await (const { bytes } of engine.read(123_457n, { end: 3_456_789n })) some.push(bytes);
    expect(Buffer.concat(some).equals(all.subarray(123_457, 3_456_789))).toBe(true);
  });

  test('sees at most what it asked for, and ends when aborted', async () => {
    const engine = await primary({ commitRule: { level: 'received', any: 1 } });
    const lsn = engine.append(makeRecord(1, 1, 1000));
    const abort = new AbortController();
    setTimeout(() => abort.abort(), 200);
    for await (const _ of engine.read(0n, { upTo: 'committed', signal: abort.signal })) expect.unreachable();
    let bytes = 0;
    for await (const chunk of engine.read(0n, { upTo: 'received', end: lsn })) bytes += chunk.bytes.length;
    expect(bytes).toBe(1000);
  });

  test('below what is kept says so', async () => {
    const engine = await primary({ log: { ...smallLog, retainBytes: 1 << 20, retainBytesMax: 1 << 20 } });
    for (let number = 0; number < 100; number++)
      await engine.appendWhenWritable(makeRecord(1, number, 60_000));
    const deadline = performance.now() + 8000;
    while (engine.status().log.firstLsn === 0n && performance.now() < deadline) await pause(50);
    expect(engine.status().log.firstLsn).toBeGreaterThan(0n);
    const reading = (async () => {
      for await (const _ of engine.read(0n, { end: 10n })) expect.unreachable();
    })();
    expect(await codeOfPromise(reading)).toBe('WALSHIP_ERR_LOG_TRIMMED');
  });
});

describe('events', () => {
  test('come in order, once each, with the LSN of their time', async () => {
    const upper = await open('a', { listen: '127.0.0.1:0', commitRule: { level: 'received', any: 1 } });
    const lower = await open('b');
    const seen: EngineEvent[] = [];
    const below: EngineEvent[] = [];
    upper.on('event', (event) => seen.push(event));
    lower.on('event', (event) => below.push(event));
    await upper.promote();
    await lower.follow({ address: `127.0.0.1:${upper.listenPort}` });
    await upper.committed(upper.append(makeRecord(1, 1, 5000)));
    await lower.follow();
    while (!seen.some(({ type }) => type === 'downstream-down')) await pause(5);
    await lower.follow({ address: `127.0.0.1:${upper.listenPort}` });
    await upper.committed(upper.append(makeRecord(1, 2, 5000)));
    await upper.follow();
    while (!seen.some(({ type }) => type === 'demoted')) await pause(5);
    expect(
      seen.filter(({ type }) => type !== 'rule-failing' && type !== 'rule-met').map(({ type }) => type),
    ).toEqual(['promoted', 'downstream-up', 'downstream-down', 'downstream-up', 'demoted']);
    expect(below.map(({ type }) => type).slice(0, 4)).toEqual([
      'upstream-up',
      'epoch',
      'upstream-down',
      'upstream-up',
    ]);
    for (const list of [seen, below]) {
      for (let i = 1; i < list.length; i++) {
        expect((list[i] as EngineEvent).lsn).toBeGreaterThanOrEqual((list[i - 1] as EngineEvent).lsn);
      }
    }
  });

  test('a handler that throws harms nobody but its caller', async () => {
    const outcome = await runInline(
      `
      process.on('uncaughtException', (error) => console.log('caught ' + error.message));
      const engine = await Engine.open(argument);
      engine.on('event', () => { throw new Error('mine'); });
      await engine.promote();
      await engine.committed(engine.append(Buffer.from('x')));
      await new Promise((resolve) => setTimeout(resolve, 100));
      await engine.committed(engine.append(Buffer.from('y')));
      await engine.close();
      console.log('closed');`,
      options(),
    );
    expect(outcome).toMatchObject({ code: 0, stderr: '' });
    expect(outcome.stdout).toBe('caught mine\nclosed\n');
  });
});

describe('the process', () => {
  const endings = {
    'process.exit with appends in flight': 'process.exit(7);',
    'an uncaught error': `process.on('exit', () => process.exitCode = 7); setTimeout(() => { process.exitCode = 7; throw new Error('bang'); });`,
    'SIGTERM to itself': `process.on('SIGTERM', () => process.exit(7)); process.kill(process.pid, 'SIGTERM');`,
    'exit while it closes': 'engine.close(); process.exit(7);',
    'exit while it opens another': `Engine.open({ ...argument, dir: argument.dir + '2' }); process.exit(7);`,
    'exit while it promotes and reads':
      'engine.follow(); engine.promote(); engine.read(0n).next(); process.exit(7);',
  };
  for (const [name, ending] of Object.entries(endings)) {
    test(`ends by ${name}, promptly, with what was flushed on disk`, async () => {
      const outcome = await runInline(
        `
        import { writeSync } from 'node:fs';
        const engine = await Engine.open(argument);
        await engine.promote();
        const first = engine.append(Buffer.alloc(50_000, 1));
        await engine.committed(first);
        writeSync(1, 'committed ' + first);
        for (let i = 0; i < 10; i++) engine.append(Buffer.alloc(50_000, 2));
        ${ending}`,
        options(),
      );
      expect(outcome.signal).toBeNull();
      expect(outcome.code).toBe(name === 'an uncaught error' ? outcome.code : 7);
      expect(outcome.stdout).toContain('committed 50000');
      expect(outcome.stderr).not.toContain('invariant');
      expect(outcome.milliseconds).toBeLessThan(15_000);
      const engine = await open('a');
      expect(engine.positions.received).toBeGreaterThanOrEqual(50_000n);
    });
  }

  test('an engine in a Worker; one that is terminated lets go of its log', async () => {
    const outcome = await runInline(
      `
      import { Worker } from 'node:worker_threads';
      const code = (ending) => \`
        import { parentPort, workerData } from 'node:worker_threads';
        const { Engine } = await import(workerData.entry);
        const engine = await Engine.open(workerData.options);
        await engine.promote();
        const lsn = engine.append(Buffer.alloc(10_000, 1));
        await engine.committed(lsn);
        parentPort.postMessage(String(lsn));
        \${ending}\`;
      const run = (ending) => new Worker(code(ending), { eval: true, workerData: { entry: argument.entry, options: argument.options } });
      const one = run('await engine.close();');
      one.on('message', (lsn) => console.log('one', lsn));
      await new Promise((resolve) => one.on('exit', resolve));
      const two = run('setInterval(() => engine.append(Buffer.alloc(1000)), 1);');
      await new Promise((resolve) => two.once('message', (lsn) => { console.log('two', lsn); resolve(); }));
      await new Promise((resolve) => setTimeout(resolve, 50));
      await two.terminate();
      const engine = await Engine.open(argument.options);
      console.log('main', engine.positions.received >= 20_000n);
      await Promise.all([engine.promote(), engine.close()].map((each) => each.catch(() => {})));
      await engine.close();
      console.log('closed');`,
      { entry: new URL('../../dist/index.js', import.meta.url).href, options: options() },
    );
    expect(outcome).toMatchObject({ code: 0, stderr: '' });
    expect(outcome.stdout).toBe('one 10000\ntwo 20000\nmain true\nclosed\n');
  });

  test('a closed engine keeps no process alive', async () => {
    const outcome = await runInline(
      'const engine = await Engine.open(argument); await engine.close();',
      options(),
    );
    expect(outcome).toMatchObject({ code: 0, stderr: '' });
    expect(outcome.milliseconds).toBeLessThan(10_000);
  });
});

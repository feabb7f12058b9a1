// Reads through the router, of a cluster whose nodes are killed and stopped under load.
import { mkdtempSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest';
import { type Node, notApplied, Router, type Target } from '../../src/index.js';
import { until } from '../cli/support.js';
import { knows, Lab, load, pause, quick } from '../consistency/support.js';
import { FailoverCluster } from '../lib/failover.js';
import { type Network, tcpNetwork } from '../lib/network.js';
import { assertBuilt } from '../lib/process.js';
import { Throttle } from '../lib/throttle.js';

const program = fileURLToPath(new URL('reads.mjs', import.meta.url));
const base = mkdtempSync(join(tmpdir(), 'walship-reads-'));
let network: Network;
beforeAll(() => {
  assertBuilt();
  network = tcpNetwork(3);
});
afterAll(() => {
  network.close();
  rmSync(base, { recursive: true, force: true });
});

/** A question on a connection of its own; the ports are those of test/lib/failover.ts. */
function ask({ http }: Target, question: string): Promise<string> {
  const { hostname, port } = new URL(http);
  return new Promise((resolve, reject) => {
    const socket = connect(Number(port) + 100, hostname);
    let text = '';
    socket.setTimeout(3000, () => socket.destroy(new Error('no answer')));
    socket.setEncoding('utf8').on('data', (part) => {
      text += part;
      if (!text.endsWith('\n')) return;
      socket.destroy();
      resolve(text.slice(2, -1));
    });
    socket.on('connect', () => socket.write(`1 ${question}\n`));
    socket.on('error', reject);
    socket.on('close', () => reject(new Error('the connection broke')));
  });
}

interface Counts {
  written: number;
  read: number;
  stale: number;
  lost: number;
  readonly by: Map<string, number>;
}

/** One client: writes a record, and reads it back over and over, in a session that goes to another router as text. */
async function run(
  id: number,
  routers: readonly [Router, Router],
  counts: Counts,
  over: () => boolean,
): Promise<void> {
  let token = String(routers[0].session());
  /** What it has seen, kept apart from the session: it must never be told less. */
  let seen = { lsn: 0n, record: '', end: 0n };
  for (let number = 0; !over(); number++) {
    const session = routers[0].session(token);
    const record = `client ${id} record ${number};`;
    const told = await routers[0]
      .withPrimary(async (primary, signal) => {
        signal.throwIfAborted();
        const answer = await ask(primary, record);
        if (answer.startsWith('no ')) throw notApplied(new Error(answer));
        if (!answer.startsWith('ok ')) throw new Error(answer);
        return answer.split(' ');
      })
      .catch((error) => {
        if (error.code !== 'WALSHIP_ERR_UNKNOWN_OUTCOME') throw error;
        return undefined;
      });
    if (told) {
      const lsn = BigInt(told[1] as string);
      session.wrote(lsn, { epoch: BigInt(told[2] as string) });
      seen = { lsn: seen.lsn > lsn ? seen.lsn : lsn, record, end: lsn };
      counts.written++;
    }
    token = String(session);
    for (let reads = 0; reads < 4 && !over(); reads++) {
      const mine = routers[1].session(token);
      try {
        await routers[1].withReplica(
          { session: mine, timeoutMs: 15_000, near: reads % 2 ? 'rtt' : ['c', 'b'] },
          async (target) => {
            const answer = await ask(target, `read ${seen.end} ${seen.record.length}`).catch(
              (error: Error) => {
                throw notApplied(error);
              },
            );
            const [, applied, epoch, ...text] = answer.split(' ');
            try {
              mine.sawReadAt(BigInt(applied as string), { epoch: BigInt(epoch as string) });
            } catch (error) {
              counts.stale++;
              throw error;
            }
            // From here on the answer counts.
            expect(BigInt(applied as string)).toBeGreaterThanOrEqual(seen.lsn);
            expect(text.join(' ')).toBe(seen.record);
            seen = { ...seen, lsn: BigInt(applied as string) };
            counts.read++;
            counts.by.set(target.node, (counts.by.get(target.node) ?? 0) + 1);
          },
        );
        token = String(mine);
      } catch (error) {
        if ((error as { code?: string }).code !== 'WALSHIP_ERR_SESSION_LOST') throw error;
        counts.lost++;
        token = String(routers[1].session());
        seen = { lsn: 0n, record: '', end: 0n };
      }
    }
  }
}

test('under kills and stops no read lacks what its session has written or read', {
  timeout: 120_000,
}, async () => {
  const cluster = await FailoverCluster.start({
    nodes: 3,
    network,
    dir: join(base, 'cluster'),
    coordinator: 'embedded',
    rule: { level: 'flushed', any: 1 },
    database: { program, of: () => ({ path: '' }) },
  });
  const routers = [cluster.router(), cluster.router()] as const;
  const counts: Counts = { written: 0, read: 0, stale: 0, lost: 0, by: new Map() };
  let ended = false;
  const clients = Promise.all([0, 1, 2, 3].map((id) => run(id, routers, counts, () => ended)));
  let failed: unknown;
  clients.catch((error) => {
    failed = error;
  });
  try {
    for (let round = 0; round < 6 && failed === undefined; round++) {
      await pause(400);
      const primary = await cluster.primary();
      const standby = cluster.members.find((member) => member !== primary);
      const victim = round % 2 === 0 ? primary : standby;
      if (round === 4) {
        victim?.signal('SIGSTOP');
        await pause(1500);
        victim?.signal('SIGCONT');
      } else {
        await victim?.kill();
        await pause(300);
        await victim?.start();
      }
      await cluster.well();
    }
    ended = true;
    await clients;
    console.log(
      `${counts.written} writes, ${counts.read} reads (${[...counts.by].map(([node, n]) => `${node} ${n}`).join(', ')}), ` +
        `${counts.stale} dropped as stale, ${counts.lost} sessions lost`,
    );
    expect(counts.written).toBeGreaterThan(200);
    expect(counts.read).toBeGreaterThan(500);
    expect(counts.by.size).toBe(3);
    // What was committed is never lost; at most what was read before it was.
    expect(counts.lost).toBeLessThan(10);
  } finally {
    ended = true;
    await clients.catch(() => {});
    for (const router of routers) router.close();
    await cluster.close();
    cluster.remove();
  }
});

/** The router of nodes that nobody fails over: what they say of their own logs is enough. */
function routerOf(...nodes: Node[]): Router {
  const router = new Router({ nodes: nodes.map((node) => node.status().adminListen as string) });
  onTestFinished(() => router.close());
  return router;
}

test('maxLagMs is held: whoever is chosen has all that was made so long ago', async () => {
  const lab = new Lab();
  // A replica that is late is no finding here: its age alone counts.
  const calm = { ...quick, stallMs: 30_000, driftMs: 60_000 };
  const { node: a } = await lab.node('a', 'primary', 0, calm);
  const wire = await Throttle.start(a.engine.listenPort, Number.POSITIVE_INFINITY);
  onTestFinished(() => wire.close());
  const { node: b } = await lab.node('b', 'standby', a.engine.listenPort);
  const { node: c } = await lab.node('c', 'standby', wire.port, calm);
  await knows(a, 'b', 'c');
  const router = routerOf(a, b, c);
  const marks: { lsn: bigint; at: number }[] = [];
  const timer = setInterval(
    () => marks.push({ lsn: a.engine.append(Buffer.alloc(32_768, 7)), at: performance.now() }),
    20,
  );
  onTestFinished(() => clearInterval(timer));
  const byName = new Map([a, b, c].map((node) => [node.engine.nodeId, node]));
  const chosen: string[] = [];
  const reads = async (milliseconds: number, maxLagMs: number, near?: string[]) => {
    const until = performance.now() + milliseconds;
    const names = new Set<string>();
    while (performance.now() < until) {
      const asked = performance.now();
      const { node } = await router.replica({ maxLagMs, ...(near && { near }) });
      const { applied } = (byName.get(node) as Node).engine.positions;
      const lacks = marks.find(({ lsn }) => lsn > applied);
      // What the reader sees when it comes there is not older than it asked for.
      if (lacks) expect(asked - lacks.at).toBeLessThanOrEqual(maxLagMs);
      names.add(node);
      chosen.push(node);
      await pause(5);
    }
    return [...names].sort().join('');
  };
  await until('all are known', () => router.nodes().every(({ view }) => view !== undefined));
  expect(await reads(500, 400)).toBe('bc');
  wire.bytesPerSecond = 1 << 20;
  await until('c is late', () => c.engine.appliedAgeMs > 600);
  expect(await reads(800, 400, ['c', 'b'])).toBe('b');
  // Whoever bears with it gets the one that is near.
  expect(await reads(200, 60_000, ['c', 'b'])).toBe('c');
  wire.bytesPerSecond = Number.POSITIVE_INFINITY;
  await until('c is back', async () => (await router.replica({ maxLagMs: 300, near: ['c'] })).node === 'c');
  console.log(`${chosen.length} choices, all as young as asked for`);
  await expect(router.replica({ maxLagMs: 0, timeoutMs: 200 })).rejects.toMatchObject({
    code: 'WALSHIP_ERR_NO_REPLICA',
    message: expect.stringMatching(/at most 0 ms behind within 200 ms/),
  });
});

test('no reads go to a replica that a monitor distrusts, and again when it is well', async () => {
  const lab = new Lab();
  const { node: a } = await lab.node('a', 'primary');
  // Its database applies nothing for a while, though its log has everything.
  const { node: b, lines } = await lab.node('b', 'standby', a.engine.listenPort, quick, {
    applied: 'manual',
  });
  const { node: c } = await lab.node('c', 'standby', a.engine.listenPort);
  await knows(a, 'b', 'c');
  const router = routerOf(a, b, c);
  load(a, 1000, 10);
  const applying = () => setInterval(() => b.engine.applied(b.engine.positions.flushed), 5);
  let timer = applying();
  onTestFinished(() => clearInterval(timer));
  const chosen = async () => {
    const names = new Set<string>();
    for (let i = 0; i < 20; i++) names.add((await router.replica()).node);
    return [...names].sort().join('');
  };
  await until('both are known', async () => (await chosen()) === 'bc');
  clearInterval(timer);
  await until('b is distrusted', () => lines.some(({ event }) => event === 'replica-stalled'));
  await until('the router knows', async () => (await chosen()) === 'c');
  expect(b.status().monitor.findings[0]?.message).toMatch(/^b applies nothing for /);
  expect(b.health().ok).toBe(true);
  expect((await router.replica({ near: ['b'] })).node).toBe('c');
  timer = applying();
  await until('b is trusted again', async () => (await chosen()) === 'bc');
});

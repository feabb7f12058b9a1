// Reads through the router, of a cluster whose nodes are killed and stopped under load.
import { mkdtempSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { notApplied, type Router, type Target } from '../../src/index.js';
import { FailoverCluster } from '../lib/failover.js';
import { type Network, tcpNetwork } from '../lib/network.js';
import { assertBuilt } from '../lib/process.js';

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

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

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

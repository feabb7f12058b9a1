// A short chaos run with SQLite on top; chaos.ts is the long one.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { places } from '../../failover/chaos.js';
import { type Network, tcpNetwork } from '../../lib/network.js';
import { assertBuilt } from '../../lib/process.js';
import { runRound, type Shape } from './chaos.js';

const shapes: readonly (Shape & { bursts: number })[] = [
  {
    etcd: 0,
    fanOut: 4,
    clients: { waits: 1, awaits: 2 },
    checkpoint: { everyMs: 50, walBytes: 256 << 10 },
    bursts: 3,
  },
  {
    etcd: 1,
    fanOut: 1,
    clients: { waits: 1, awaits: 1 },
    checkpoint: { everyMs: 500, walBytes: 4 << 20 },
    bursts: 2,
  },
];
const base = mkdtempSync(join(tmpdir(), 'walship-sqlite-chaos-'));
let network: Network;
beforeAll(() => {
  assertBuilt();
  network = tcpNetwork(places.nodes + places.etcd);
});
afterAll(() => {
  network.close();
  rmSync(base, { recursive: true, force: true });
});

for (const { bursts, ...shape } of shapes) {
  const what = shape.etcd > 0 ? 'etcd' : 'embedded';
  test(`three databases, ${what}: every acknowledged row is there once`, { timeout: 120_000 }, async () => {
    const seed = Date.now() % 1_000_000;
    console.log(`seed ${seed}`);
    const round = await runRound(seed, network, { bursts, shape, dir: join(base, 'cluster') });
    console.log(
      `${JSON.stringify(round.counts)}: ${round.acknowledged} acknowledged, ${round.unknown} without an answer, ` +
        `${round.epochs} epochs, well after at most ${round.wellMs.toFixed(0)} ms`,
    );
    expect(round.acknowledged).toBeGreaterThan(0);
    expect(round.seen.inside).toBeGreaterThan(0);
    expect(round.seen.outside).toBeGreaterThan(0);
  });
}

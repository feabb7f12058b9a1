// A short chaos run; chaos.ts is the long one.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Network, tcpNetwork } from '../lib/network.js';
import { assertBuilt } from '../lib/process.js';
import { places, runRound, type Shape } from './chaos.js';

const shapes: readonly (Shape & { bursts: number })[] = [
  { nodes: 3, rule: { level: 'flushed', any: 1 }, etcd: 0, fanOut: 4, clients: 3, bursts: 3 },
  { nodes: 3, rule: { level: 'flushed', any: 1 }, etcd: 3, fanOut: 1, clients: 2, bursts: 2 },
  { nodes: 5, rule: { level: 'flushed', any: 2 }, etcd: 1, fanOut: 2, clients: 4, bursts: 2 },
  { nodes: 3, rule: { level: 'received', any: 1 }, etcd: 0, fanOut: 4, clients: 2, bursts: 2 },
];
const base = mkdtempSync(join(tmpdir(), 'walship-chaos-'));
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
  const what = `${shape.nodes} nodes, ${shape.etcd > 0 ? `${shape.etcd} of etcd` : 'embedded'}, ${JSON.stringify(shape.rule)}`;
  test(`${what}: nothing acknowledged is lost`, { timeout: 120_000 }, async () => {
    const seed = Date.now() % 1_000_000;
    console.log(`seed ${seed}`);
    const round = await runRound(seed, network, { bursts, shape, dir: join(base, 'cluster') });
    console.log(
      `${JSON.stringify(round.counts)}: ${round.acknowledged} acknowledged, ${round.unknown} without an answer, ` +
        `${round.epochs} epochs, well after at most ${round.wellMs.toFixed(0)} ms`,
    );
    expect(round.acknowledged).toBeGreaterThan(0);
  });
}

// Wires that are cut, lossy or worse, under load.
import { expect } from 'vitest';
import { type Cluster, pause } from '../cluster.js';
import type { Scenario } from '../scenario.js';

/** The nodes are a → b → c and a → d; which wire is cut, for how long. */
function cut(name: string, index: number, cutMs: number, hostOnly = false): Scenario {
  return {
    name,
    hostOnly,
    needs: ['wires'],
    seconds: 60,
    async body(cluster) {
      const { network } = cluster;
      await cluster.start([0, 0, 1]);
      cluster.onEnd(() => network.heal(index));
      await cluster.load(0, { bytesPerSecond: network.bytesPerSecond / 2 });
      await cluster.progress(50);
      await network.cut(index);
      const cutAt = performance.now();
      await pause(cutMs);
      await network.heal(index);
      const healedAt = performance.now();
      await cluster.progress(50, 20);
      const committing = performance.now() - healedAt;
      await cluster.until(
        'every link is up',
        async () => (await cluster.isLinked(1, 0)) && cluster.isLinked(2, 1),
        20,
      );
      const downs = [0, 1].flatMap((node) => cluster.events(node, 'downstream-down').map(({ code }) => code));
      cluster.note(
        `cut for ${(healedAt - cutAt).toFixed(0)} ms; commits again ${committing.toFixed(0)} ms after it healed; ` +
          `links that broke: ${downs.join(', ') || 'none'}`,
      );
      if (cutMs > 5000) expect(downs.length).toBeGreaterThan(0);
      await cluster.verify();
    },
  };
}

function disturbed(name: string, index: number, ...settings: string[]): Scenario {
  return {
    name,
    needs: ['netem'],
    seconds: 60,
    async body(cluster) {
      const { network } = cluster;
      await cluster.start([0, 0, 1]);
      cluster.onEnd(() => network.clear(index));
      await cluster.load(0, { bytesPerSecond: network.bytesPerSecond / 2, pendingBytesMax: 256 << 10 });
      await cluster.progress(50);
      await network.netem(index, ...settings);
      await pause(100); // what was committed before has been told by then
      const started = performance.now();
      await cluster.progress(300, 30);
      const took = performance.now() - started;
      await network.clear(index);
      await cluster.progress(50, 20);
      const downs = [0, 1].flatMap((node) => cluster.events(node, 'downstream-down').map(({ code }) => code));
      cluster.note(
        `300 records in ${took.toFixed(0)} ms under ${settings.join(' ')}; links that broke: ${downs.join(', ') || 'none'}`,
      );
      await cluster.verify();
    },
  };
}

async function commitsElsewhere(cluster: Cluster): Promise<void> {
  const { network } = cluster;
  await cluster.start([0, 0, 0]);
  cluster.onEnd(() => network.heal(2));
  await cluster.load(0, { bytesPerSecond: (8 << 20) / network.slow });
  await cluster.progress(50);
  await network.cut(2);
  const { received } = (await cluster.status(0)).positions;
  // More than the arena is written meanwhile: the cut one catches up from disk.
  await cluster.until(
    'three arenas of WAL are committed without the node behind the cut',
    async () => (await cluster.status(0)).positions.committed > received + 6n * 1048576n,
    20,
  );
  await network.heal(2);
  const took = await cluster.until('it is streaming again', () => cluster.isLinked(2, 0), 20);
  cluster.note(`streaming ${took.toFixed(0)} ms after the wire healed`);
  await cluster.verify();
}

export const wires: readonly Scenario[] = [
  cut('the wire of a standby with a leaf is cut for 1 s', 1, 1000),
  cut('the wire of a standby with a leaf is cut for 10 s', 1, 10_000),
  cut("the primary's wire is cut for 1 s", 0, 1000),
  cut("the primary's wire is cut for 10 s", 0, 10_000, true),
  cut("the leaf's wire is cut for 1 s", 2, 1000, true),
  {
    name: 'commits go on while one of two standbys is behind a cut',
    needs: ['wires'],
    seconds: 60,
    body: commitsElsewhere,
  },
  disturbed('1 % of the packets are lost', 1, 'loss', '1%'),
  disturbed('packets are reordered', 1, 'delay', '1ms', 'reorder', '25%'),
  disturbed('1 % of the packets are duplicated', 1, 'duplicate', '1%'),
  disturbed('0.5 % of the packets are corrupted', 1, 'corrupt', '0.5%'),
  disturbed(
    "everything at once, on the primary's wire",
    0,
    'delay',
    '500us',
    'reorder',
    '10%',
    'loss',
    '0.5%',
    'duplicate',
    '0.5%',
    'corrupt',
    '0.2%',
  ),
];

// Shipping without faults: shapes of the tree, late joiners, standbys that lag, leave and come back.
import { expect } from 'vitest';
import { type Cluster, pause } from '../cluster.js';
import type { Scenario } from '../scenario.js';

const MiB = 1 << 20;

/** Egress of the primary's links ÷ bytes of the log. */
async function egressRatio(cluster: Cluster, index: number): Promise<number> {
  const { links, positions } = await cluster.status(index);
  let sent = 0;
  for (const link of links) if (link.direction === 'downstream') sent += link.wireBytesSent;
  return sent / Number(positions.received);
}

export const shipping: readonly Scenario[] = [
  {
    name: 'a standby follows and has every byte',
    async body(cluster) {
      await cluster.start([0, 0]);
      const { links, role } = await cluster.status(1);
      expect(role).toBe('standby');
      expect(links[0]?.rail.transport).toBe(cluster.network.transport);
      await cluster.load(0);
      await cluster.progress(200);
      const { nodes } = await cluster.status(0);
      expect(nodes.map(({ node, parent }) => [node, parent])).toEqual([['b', 'a']]);
      await cluster.verify();
    },
  },
  {
    name: 'a cascade of depth 3 tells the primary of every node in it',
    async body(cluster) {
      await cluster.start([0, 0, 1, 2], { commitRule: { level: 'flushed', any: 3 } });
      await cluster.load(0);
      await cluster.progress(200);
      await cluster.until('the primary sees the whole chain', async () => {
        const { nodes } = await cluster.status(0);
        return nodes.length === 3;
      });
      const { nodes } = await cluster.status(0);
      expect(Object.fromEntries(nodes.map(({ node, parent }) => [node, parent]))).toEqual({
        b: 'a',
        c: 'b',
        d: 'c',
      });
      const end = await cluster.endLoad();
      expect(end.unacknowledged).toBe(0);
      const ratio = await egressRatio(cluster, 0);
      cluster.note(
        `slowest commit through three hops ${end.slowestMs.toFixed(1)} ms; the primary's egress ${ratio.toFixed(3)} × WAL`,
      );
      await cluster.verify();
    },
  },
  {
    name: 'a fan-out of three ships to each',
    hostOnly: true,
    async body(cluster) {
      await cluster.start([0, 0, 0, 0], { commitRule: { level: 'received', any: 3 } });
      await cluster.load(0);
      await cluster.progress(200);
      await cluster.verify();
    },
  },
  {
    name: 'a late joiner gets the log from its beginning, from disk, while the primary writes',
    async body(cluster) {
      await cluster.start([0, 0]);
      await cluster.load(0, { bytesPerSecond: (24 * MiB) / cluster.network.slow });
      // More than the arena: its beginning is on disk only.
      await cluster.until(
        '6 MiB are written',
        async () => (await cluster.status(0)).positions.received > 6n * 1048576n,
        20,
      );
      await cluster.open(2);
      await cluster.follow(2, 0);
      await cluster.until('the joiner is streaming', () => cluster.isLinked(2, 0));
      const { positions } = await cluster.status(0);
      const took = await cluster.until(
        'the joiner has what there was when it came',
        async () => (await cluster.status(2)).positions.flushed >= positions.received,
        20,
      );
      const { arena } = await cluster.status(0);
      expect(arena.loads).toBeGreaterThan(0);
      cluster.note(
        `caught up with ${positions.received} bytes in ${took.toFixed(0)} ms; ${arena.loads} pages from disk`,
      );
      await cluster.verify();
    },
  },
  {
    name: 'a late joiner below a late joiner',
    hostOnly: true,
    async body(cluster) {
      await cluster.start([0, 0]);
      await cluster.load(0);
      await cluster.progress(400);
      // Below a node that is still empty itself.
      await cluster.open(2);
      await cluster.open(3);
      await cluster.follow(3, 2);
      await pause(100);
      await cluster.follow(2, 1);
      await cluster.until('the lower one is streaming', () => cluster.isLinked(3, 2));
      await cluster.progress(200);
      await cluster.verify();
    },
  },
  {
    name: 'a standby leaves and comes back, with more missed than the arena holds',
    async body(cluster) {
      await cluster.start([0, 0, 0]);
      await cluster.load(0, { bytesPerSecond: (24 * MiB) / cluster.network.slow });
      await cluster.progress(50);
      await cluster.close(2);
      const { positions } = await cluster.status(0);
      const until = positions.received + 6n * 1048576n;
      await cluster.until(
        '6 MiB more are written',
        async () => (await cluster.status(0)).positions.received > until,
        20,
      );
      await cluster.open(2);
      expect(cluster.member(2).opened?.recoveryNote).toBe('');
      await cluster.follow(2, 0);
      await cluster.until(
        'it has what it missed',
        async () => (await cluster.status(2)).positions.flushed > until,
        20,
      );
      const { arena } = await cluster.status(0);
      cluster.note(`${arena.loads} pages came from disk`);
      expect(arena.loads).toBeGreaterThan(0);
      await cluster.verify();
    },
  },
  {
    name: 'a standby leaves and comes back ten times while the primary writes',
    hostOnly: true,
    async body(cluster) {
      await cluster.start([0, 0, 0]);
      await cluster.load(0, { bytesPerSecond: (4 * MiB) / cluster.network.slow });
      const times = cluster.network.slow > 1 ? 4 : 10;
      for (let time = 0; time < times; time++) {
        await cluster.close(2);
        await cluster.progress(10);
        await cluster.open(2);
        await cluster.follow(2, time % 2 === 0 ? 0 : 1);
        await cluster.until('it is streaming again', () => cluster.isLinked(2, time % 2 === 0 ? 0 : 1));
      }
      await cluster.verify();
    },
  },
  {
    name: 'a middle node leaves and comes back: its leaf waits and goes on',
    hostOnly: true,
    async body(cluster) {
      await cluster.start([0, 0, 1, 0]);
      await cluster.load(0);
      await cluster.progress(50);
      await cluster.close(1);
      await cluster.progress(100);
      await cluster.open(1);
      await cluster.follow(1, 0);
      await cluster.until('the leaf is streaming again', () => cluster.isLinked(2, 1));
      await cluster.verify();
    },
  },
  {
    name: 'a busy event loop stops nothing: the data plane goes on alone',
    hostOnly: true,
    async body(cluster) {
      await cluster.start([0, 0, 1], { commitRule: { level: 'flushed', any: 2 } });
      await cluster.load(0);
      await cluster.progress(50);
      const blockMs = 1500 * cluster.network.slow;
      const blocked = cluster.member(1).process.block(blockMs);
      const before = cluster.acknowledgedNow();
      await pause(blockMs * 0.8);
      const during = cluster.acknowledgedNow() - before;
      await blocked;
      cluster.note(
        `${during} records committed through a node whose event loop stood still for ${blockMs} ms`,
      );
      expect(during).toBeGreaterThan(50);
      expect(cluster.events(0, 'downstream-down')).toEqual([]);
      await cluster.verify();
    },
  },
  {
    name: 'default geometry: 256 KiB pages, 64 MiB segments',
    hostOnly: true,
    options: { log: {}, arena: {} },
    async body(cluster) {
      await cluster.start([0, 0, 1]);
      await cluster.load(0, { bytesMax: 200_000, bytesPerSecond: 60 * MiB, pendingBytesMax: 8 * MiB });
      await cluster.until(
        '80 MiB are written',
        async () => (await cluster.status(0)).positions.received > 80n * 1048576n,
        25,
      );
      await cluster.verify();
    },
  },
];

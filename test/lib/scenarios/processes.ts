// Processes that die or stand still, in every role, under load.
import { expect } from 'vitest';
import { type Cluster, pause } from '../cluster.js';
import { divergedFiles } from '../logfiles.js';
import type { Scenario } from '../scenario.js';

/** Longer than any time-out of a link. */
const longStop = (cluster: Cluster) => ((cluster.network.options.links?.timeoutMs ?? 1000) + 500) * 1.2;

async function commitsWhile(cluster: Cluster, milliseconds: number): Promise<number> {
  const before = cluster.acknowledgedNow();
  await pause(milliseconds);
  return ((cluster.acknowledgedNow() - before) * 1000) / milliseconds;
}

export const processes: readonly Scenario[] = [
  {
    name: 'SIGKILL of the primary: the most advanced standby goes on, the old one comes back below it',
    async body(cluster) {
      await cluster.start([0, 0, 0, 1]);
      await cluster.load(0);
      await cluster.progress(200);
      await cluster.kill(0);
      cluster.forgetLoad();
      const started = performance.now();
      const primary = await cluster.failOver([1, 2, 3]);
      await cluster.load(primary);
      await cluster.progress(20);
      cluster.note(
        `${cluster.member(primary).name} commits ${(performance.now() - started).toFixed(0)} ms after the kill`,
      );
      await cluster.open(0);
      await cluster.follow(0, primary);
      await cluster.until('the old primary is streaming', () => cluster.isLinked(0, primary));
      await cluster.progress(100);
      await cluster.verify(primary);
    },
  },
  {
    name: 'SIGKILL of a primary that is ahead of everybody: its diverging tail is cut off and set aside',
    async body(cluster) {
      await cluster.start([0, 0, 0]);
      await cluster.load(0);
      await cluster.progress(100);
      // The standbys turn away first; the deposed primary goes on appending what nobody will ever have.
      const primary = await cluster.failOver([1, 2]);
      const { received } = await cluster.member(0).process.positions();
      await cluster.until('the deposed primary has flushed what nobody else has', async () => {
        const { flushed } = await cluster.member(0).process.positions();
        return flushed > received + 200_000n;
      });
      const acknowledged = cluster.acknowledgedNow();
      await cluster.kill(0);
      cluster.forgetLoad();
      await cluster.load(primary);
      await cluster.progress(50);
      await cluster.open(0);
      await cluster.follow(0, primary);
      await cluster.until('the old primary is streaming', () => cluster.isLinked(0, primary));
      // A status may be asked for before the event loop has come to the events.
      const cuts = () => cluster.events(0, 'log-cut');
      await cluster.until('the cut is told', async () => cuts().length > 0);
      expect(cuts()[0]?.code).toBe('WALSHIP_ERR_DIVERGED');
      expect(divergedFiles(cluster.member(0).dir).length).toBeGreaterThan(0);
      cluster.note(`${acknowledged} records were acknowledged before; ${cuts()[0]?.message}`);
      await cluster.progress(50);
      await cluster.verify(primary);
    },
  },
  {
    name: 'SIGSTOP of the primary, fail-over, SIGCONT: the deposed one commits nothing more and comes back',
    async body(cluster) {
      await cluster.start([0, 0, 0]);
      await cluster.load(0);
      await cluster.progress(100);
      const old = cluster.member(0).process;
      await old.freeze();
      const primary = await cluster.failOver([1, 2]);
      cluster.forgetLoad();
      await cluster.load(primary);
      await cluster.progress(50);
      old.thaw();
      // It may still learn of commits that had been acknowledged before it stood still; then nothing more.
      await pause(longStop(cluster));
      const before = old.acknowledged.length;
      await pause(500);
      expect(old.acknowledged.length).toBe(before);
      expect((await old.status()).role).toBe('primary');
      await cluster.follow(0, primary);
      const end = await old.endLoad();
      expect(end.code).toBe('WALSHIP_ERR_NOT_PRIMARY');
      await cluster.until('the old primary is streaming', () => cluster.isLinked(0, primary));
      expect(cluster.events(0, 'demoted').length).toBe(1);
      await cluster.progress(50);
      await cluster.verify(primary);
    },
  },
  {
    name: 'SIGSTOP and SIGCONT of the primary without a fail-over: everybody comes back to it',
    hostOnly: true,
    async body(cluster) {
      await cluster.start([0, 0, 1]);
      await cluster.load(0);
      await cluster.progress(50);
      await cluster.member(0).process.freeze();
      await pause(longStop(cluster));
      cluster.member(0).process.thaw();
      await cluster.until('the standby is streaming again', () => cluster.isLinked(1, 0));
      await cluster.progress(100);
      await cluster.verify();
    },
  },
  {
    name: 'SIGKILL of a middle node: its subtree waits for it, the rest goes on',
    async body(cluster) {
      await cluster.start([0, 0, 1, 0]);
      await cluster.load(0);
      await cluster.progress(100);
      await cluster.kill(1);
      await cluster.progress(100);
      await cluster.open(1);
      cluster.note(`recovered: ${cluster.member(1).opened?.recoveryNote || 'nothing to do'}`);
      await cluster.follow(1, 0);
      await cluster.until('the leaf is streaming again', () => cluster.isLinked(2, 1));
      await cluster.progress(50);
      await cluster.verify();
    },
  },
  {
    name: 'SIGKILL of a middle node: its subtree moves to another upstream',
    hostOnly: true,
    async body(cluster) {
      await cluster.start([0, 0, 1, 0]);
      await cluster.load(0);
      await cluster.progress(100);
      await cluster.kill(1);
      await cluster.follow(2, 3);
      await cluster.until('the leaf is streaming again', () => cluster.isLinked(2, 3));
      await cluster.progress(50);
      await cluster.open(1);
      await cluster.follow(1, 2);
      await cluster.until('the killed one is streaming, below its own leaf', () => cluster.isLinked(1, 2));
      await cluster.progress(50);
      await cluster.verify();
    },
  },
  {
    name: 'SIGKILL of a leaf, five times',
    async body(cluster) {
      await cluster.start([0, 0, 1]);
      await cluster.load(0);
      const times = cluster.network.slow > 1 ? 2 : 5;
      for (let time = 0; time < times; time++) {
        await cluster.progress(40);
        await cluster.kill(2);
        await cluster.progress(40);
        await cluster.open(2);
        await cluster.follow(2, 1);
        await cluster.until('the leaf is streaming again', () => cluster.isLinked(2, 1));
      }
      await cluster.verify();
    },
  },
  {
    name: 'SIGKILL of every node at once: what was committed is there when they come back',
    hostOnly: true,
    options: { commitRule: { level: 'flushed', any: 2 } },
    async body(cluster) {
      await cluster.start([0, 0, 1]);
      await cluster.load(0);
      await cluster.progress(150);
      await Promise.all([0, 1, 2].map((index) => cluster.kill(index)));
      cluster.forgetLoad();
      await Promise.all([0, 1, 2].map((index) => cluster.open(index)));
      const primary = await cluster.failOver([0, 1, 2]);
      await cluster.load(primary);
      await cluster.progress(50);
      await cluster.verify(primary);
    },
  },
  {
    name: 'SIGSTOP of a middle node: others go on, it and its leaf catch up after SIGCONT',
    async body(cluster) {
      await cluster.start([0, 0, 1, 0]);
      await cluster.load(0);
      await cluster.progress(50);
      await cluster.member(1).process.freeze();
      await cluster.progress(50);
      await pause(longStop(cluster));
      await cluster.until('the primary has noticed', async () => {
        const { links } = await cluster.status(0);
        return links.length === 1;
      });
      await cluster.progress(50);
      cluster.member(1).process.thaw();
      await cluster.until('the leaf is streaming again', () => cluster.isLinked(2, 1));
      await cluster.until('the middle node is streaming again', () => cluster.isLinked(1, 0));
      await cluster.verify();
    },
  },
  {
    name: 'a stopped leaf costs nothing to anyone else',
    options: { commitRule: { level: 'received', any: 1, nodes: ['b'] } },
    async body(cluster) {
      await cluster.start([0, 0, 1, 0]);
      await cluster.load(0);
      await cluster.progress(100);
      const before = await commitsWhile(cluster, 1500);
      await cluster.member(2).process.freeze();
      await cluster.member(3).process.freeze();
      const during = await commitsWhile(cluster, 1500);
      const later = await commitsWhile(cluster, longStop(cluster));
      for (const index of [2, 3]) cluster.member(index).process.thaw();
      cluster.note(
        `commits/s: ${before.toFixed(0)} before, ${during.toFixed(0)} with two leaves stopped, ${later.toFixed(0)} after they were given up`,
      );
      const stalls = cluster.events(0, 'stalled').map(({ node }) => node);
      cluster.note(`reported as stalled: ${[...new Set(stalls)].join(', ') || 'none'}`);
      // The workload has a fixed rate: whoever is held up falls behind it.
      expect(during).toBeGreaterThan(before * 0.7);
      expect(later).toBeGreaterThan(before * 0.7);
      await cluster.until(
        'the leaves are back',
        async () => (await cluster.isLinked(2, 1)) && cluster.isLinked(3, 0),
      );
      await cluster.verify();
    },
  },
];

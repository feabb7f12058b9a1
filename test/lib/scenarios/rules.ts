// Commit rules: what counts as committed, and that nothing does when the rule cannot be met.
import { expect } from 'vitest';
import type { CommitRule } from '../../../src/index.js';
import { type Cluster, pause } from '../cluster.js';
import type { Scenario } from '../scenario.js';

/** Appends one record; gives back whether it is committed within `milliseconds`, and a promise of its commit. */
async function appendOne(cluster: Cluster, number: number, milliseconds: number) {
  const { process } = cluster.member(0);
  const lsn = await process.append(1, number, 500);
  const committed = process.committed(lsn);
  const quick = await Promise.race([
    committed.then(() => true),
    pause(milliseconds * cluster.network.slow).then(() => false),
  ]);
  return { quick, committed, lsn };
}

const rule = (commitRule: CommitRule) => ({ commitRule });

export const rules: readonly Scenario[] = [
  {
    name: 'async commits what the primary has flushed, with nobody there',
    hostOnly: true,
    options: rule({ level: 'async' }),
    async body(cluster) {
      await cluster.open(0);
      await cluster.member(0).process.promote();
      const { lsn } = await appendOne(cluster, 0, 2000);
      await cluster.member(0).process.committed(lsn);
      expect((await cluster.status(0)).positions.flushed).toBeGreaterThanOrEqual(lsn);
      expect(cluster.events(0, 'rule-failing')).toEqual([]);
      await cluster.verify();
    },
  },
  {
    name: 'a rule that cannot be met makes commits wait, says why, and is never async in silence',
    options: { ...rule({ level: 'received', any: 2 }), ruleMs: 300 },
    async body(cluster) {
      await cluster.start([0, 0]);
      const one = await appendOne(cluster, 0, 1000);
      expect(one.quick).toBe(false);
      const { positions, ruleFailing } = await cluster.status(0);
      expect(positions.flushed).toBeGreaterThanOrEqual(one.lsn);
      expect(positions.committed).toBeLessThan(one.lsn);
      expect(ruleFailing).toBe(true);
      const [failing] = cluster.events(0, 'rule-failing');
      expect(failing?.code).toBe('WALSHIP_ERR_COMMIT_RULE');
      expect(failing?.message).toContain('2 standby');
      await cluster.open(2);
      await cluster.follow(2, 1);
      await one.committed;
      await cluster.until('the rule is met again', () => cluster.events(0, 'rule-met').length > 0);
      await cluster.verify();
    },
  },
  {
    name: 'losing the last standby makes commits wait until it is back',
    options: { ...rule({ level: 'received', any: 1 }), ruleMs: 300 },
    async body(cluster) {
      await cluster.start([0, 0]);
      await cluster.load(0);
      await cluster.progress(50);
      await cluster.kill(1);
      await cluster.until(
        'an event says that commits wait',
        () => cluster.events(0, 'rule-failing').length > 0,
      );
      const stood = cluster.acknowledgedNow();
      await pause(500);
      expect(cluster.acknowledgedNow()).toBe(stood);
      await cluster.open(1);
      await cluster.follow(1, 0);
      await cluster.progress(50);
      await cluster.until('an event says that they go on', () => cluster.events(0, 'rule-met').length > 0);
      await cluster.verify();
    },
  },
  {
    name: 'any k counts named nodes only, cascaded ones included',
    hostOnly: true,
    options: rule({ level: 'flushed', any: 1, nodes: ['c', 'd'] }),
    async body(cluster) {
      await cluster.start([0, 0]);
      const one = await appendOne(cluster, 0, 600);
      expect(one.quick).toBe(false); // b has it, but b is not named
      await cluster.open(2);
      await cluster.follow(2, 1);
      await one.committed;
      await cluster.verify();
    },
  },
  {
    name: 'first k waits for the first connected of the list, not for the fastest',
    hostOnly: true,
    options: { ...rule({ level: 'received', first: 1, nodes: ['b', 'c'] }) },
    async body(cluster) {
      const patient = { links: { ...cluster.network.options.links, timeoutMs: 20_000 } };
      await cluster.start([0, 0, 0], patient);
      expect((await appendOne(cluster, 0, 3000)).quick).toBe(true);
      await cluster.member(1).process.freeze();
      const waiting = await appendOne(cluster, 1, 1000);
      expect(waiting.quick).toBe(false); // c has it: b comes first
      cluster.member(1).process.thaw();
      await waiting.committed;
      await cluster.close(1);
      expect((await appendOne(cluster, 2, 5000)).quick).toBe(true); // b has left: now c counts
      await cluster.verify();
    },
  },
  {
    name: 'applied counts what the database on the standby has, said by hand',
    hostOnly: true,
    options: rule({ level: 'applied', any: 1 }),
    async body(cluster) {
      await cluster.open(0);
      await cluster.open(1, { applied: 'manual' });
      await cluster.member(0).process.promote();
      await cluster.follow(1, 0);
      const one = await appendOne(cluster, 0, 1000);
      expect(one.quick).toBe(false);
      await cluster.member(1).process.applied(one.lsn);
      await one.committed;
      const { positions } = await cluster.status(1);
      expect(positions.applied).toBe(one.lsn);
      // Never beyond what is flushed there.
      await cluster.member(1).process.applied(one.lsn + 1_000_000n);
      await pause(100);
      const after = (await cluster.status(1)).positions;
      expect(after.applied).toBeLessThanOrEqual(after.flushed);
      const two = await appendOne(cluster, 1, 3000);
      await two.committed;
      await cluster.verify();
    },
  },
  {
    name: 'the rule can be changed while commits wait for it',
    hostOnly: true,
    options: rule({ level: 'received', any: 3 }),
    async body(cluster) {
      await cluster.start([0, 0]);
      const one = await appendOne(cluster, 0, 500);
      expect(one.quick).toBe(false);
      await cluster.member(0).process.setCommitRule({ level: 'received', any: 1 });
      await one.committed;
      await expect(cluster.member(0).process.setCommitRule({ level: 'received' })).rejects.toMatchObject({
        code: 'WALSHIP_ERR_CONFIG',
      });
      await cluster.verify();
    },
  },
  {
    name: 'flushed by every node of a cascade, under load',
    options: rule({ level: 'flushed', any: 3 }),
    async body(cluster) {
      await cluster.start([0, 0, 1, 2]);
      await cluster.load(0);
      await cluster.progress(200);
      const end = await cluster.endLoad();
      cluster.note(`slowest commit ${end.slowestMs.toFixed(1)} ms`);
      const { committed } = (await cluster.status(0)).positions;
      for (const index of [0, 1, 2, 3]) {
        expect((await cluster.status(index)).positions.flushed).toBeGreaterThanOrEqual(committed);
      }
      await cluster.verify();
    },
  },
];

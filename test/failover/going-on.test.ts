// What a cluster goes through on its own.
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { defaultControllerSettings } from '../../src/failover/settings.js';
import { inspectLog } from '../../src/index.js';
import { type MemberProcess, monotonicMs } from '../lib/member.js';
import { type Network, tcpNetwork } from '../lib/network.js';
import { assertBuilt } from '../lib/process.js';
import { Stage, until } from './support.js';

let network: Network;
beforeAll(() => {
  assertBuilt();
  network = tcpNetwork(4);
});
afterAll(() => network.close());

const three = () =>
  ({ nodes: 3, network, coordinator: 'embedded', rule: { level: 'flushed', any: 1 } }) as const;
const timeout = 60_000;
const { leaseMs, leaseMarginMs } = defaultControllerSettings;

const tells = (member: MemberProcess, event: string) =>
  until(
    `${member.name} tells ${event}`,
    () => member.events.some((each) => each.event === event) || undefined,
  );

test('etcd is gone: commits go on beyond the lease, by the word of the standbys', { timeout }, () =>
  Stage.run({ ...three(), coordinator: { etcd: 1 } }, async (stage) => {
    const { member: primary, status } = await stage.primary();
    await stage.cluster.etcd?.kill(0);
    const goneAt = monotonicMs();
    await tells(primary, 'failsafe');
    await sleep(1.5 * leaseMs - (monotonicMs() - goneAt));
    expect((await stage.progress()).node).toBe(primary.name);
    expect((await primary.status()).coordinator.up).toBe(false);
    stage.cluster.etcd?.launch(0);
    await tells(primary, 'failsafe-over');
    await stage.cluster.well();
    const now = await stage.primary();
    expect({ node: now.member.name, epoch: now.status.epoch }).toEqual({
      node: primary.name,
      epoch: status.epoch,
    });
  }),
);

test("the leader of etcd's three members is killed: the primary stays", { timeout }, () =>
  Stage.run({ ...three(), coordinator: { etcd: 3 } }, async (stage) => {
    const { member: primary, status } = await stage.primary();
    const { etcd } = stage.cluster;
    const leader = (await etcd?.leader()) as number;
    await etcd?.kill(leader);
    await until('another one leads', async () => (await etcd?.leader()) !== undefined || undefined);
    await sleep(leaseMs);
    expect((await stage.progress()).node).toBe(primary.name);
    etcd?.launch(leader);
    expect((await stage.primary()).status.epoch).toBe(status.epoch);
  }),
);

test(
  'the JavaScript of the primary hangs: another one takes over after its lease, it comes back as a standby',
  { timeout },
  () =>
    Stage.run(three(), async (stage) => {
      const { member: primary, status } = await stage.primary();
      const at = monotonicMs();
      const hung = primary.call('hang', 2 * leaseMs);
      const next = await stage.progress(primary.name);
      console.log(`the first append with another one ${(next.at - at).toFixed(0)} ms after it hung`);
      expect(next.at - at).toBeLessThan(1.5 * leaseMs);
      await hung;
      await stage.cluster.well();
      expect((await stage.primary()).member.name).not.toBe(primary.name);
      expect(primary.reigns.map(({ epoch }) => epoch)).toEqual([status.epoch]);
      // It was sent before, and committed by the data plane alone.
      const own = stage.client.acknowledged.filter(
        ({ node, sentAt }) => node === primary.name && sentAt > at,
      );
      expect(own.length).toBeLessThanOrEqual(1);
    }),
);

test('a node in the middle of a chain dies: those below it go on', { timeout }, () =>
  Stage.run({ ...three(), nodes: 4, failover: { fanOut: 1 } }, async (stage) => {
    const { member: primary } = await stage.primary();
    const upstreams = async () => {
      const { members } = await primary.status();
      return new Map(members.map(({ node, upstream }) => [node, upstream]));
    };
    const chain = async () => {
      const up = await upstreams();
      const below = (node: string) => [...up].find(([, upstream]) => upstream === node)?.[0];
      const nodes = [primary.name];
      for (let next = below(primary.name); next !== undefined && nodes.length < 4; next = below(next))
        nodes.push(next);
      return nodes.length === 4 ? nodes : undefined;
    };
    const [, first, middle, last] = (await until('there is a chain', chain)) as [
      string,
      string,
      string,
      string,
    ];
    await stage.cluster.well();
    await stage.cluster.member(middle).kill();
    stage.cluster.away.add(middle);
    await until(
      'the last one follows the first',
      async () => (await upstreams()).get(last) === first || undefined,
    );
    await stage.cluster.well();
    expect((await stage.progress()).node).toBe(primary.name);
    stage.cluster.away.delete(middle);
    await stage.cluster.member(middle).start();
    await until('there is a chain again', chain);
  }),
);

test('async: another one takes over when the lease has surely run out, and not before', { timeout }, () =>
  Stage.run({ ...three(), rule: { level: 'async' } }, async (stage) => {
    const { member: primary } = await stage.primary();
    await primary.kill();
    const at = monotonicMs();
    stage.acceptLoss();
    const next = await stage.progress(primary.name);
    console.log(`the first append with another one ${(next.at - at).toFixed(0)} ms after its death`);
    // The lease was renewed a quarter of it ago, at most.
    expect(next.at - at).toBeGreaterThan((leaseMs * 3) / 4 - leaseMarginMs);
    await primary.start();
  }),
);

test(
  'a member joins; one that is gone for good is forgotten, and its log is no longer kept',
  { timeout },
  () =>
    Stage.run({ ...three(), nodes: 4, away: ['d'] }, async (stage) => {
      const { cluster } = stage;
      const d = cluster.member('d');
      const { member: primary } = await stage.primary();
      cluster.away.delete('d');
      await d.start();
      await cluster.well();
      expect((await primary.status()).counting).toContain('d');
      await expect(primary.call('forget', 'd')).rejects.toMatchObject({ code: 'WALSHIP_ERR_FAILOVER' });
      await d.kill();
      cluster.away.add('d');
      await until('it is away', async () => {
        const { members } = await primary.status();
        return members.some(({ node, connected }) => node === 'd' && !connected) || undefined;
      });
      await primary.call('forget', 'd');
      await until('nobody counts on it, or keeps the log for it', async () => {
        const { counting, members } = await primary.status();
        const { readers } = await inspectLog(primary.settings.options.dir);
        const known = [...counting, ...members.map(({ node }) => node), ...readers.map(({ name }) => name)];
        return !known.includes('d') || undefined;
      });
    }),
);

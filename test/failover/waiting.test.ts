// Where nobody can be promoted safely the cluster waits, says why, and goes on by itself, or by the word of an operator.
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { inspectLog } from '../../src/index.js';
import { type Network, tcpNetwork } from '../lib/network.js';
import { assertBuilt } from '../lib/process.js';
import { Stage, until } from './support.js';

let network: Network;
beforeAll(() => {
  assertBuilt();
  network = tcpNetwork(3);
});
afterAll(() => network.close());

const three = () =>
  ({ nodes: 3, network, coordinator: 'embedded', rule: { level: 'flushed', any: 1 } }) as const;
const withEtcd = () => ({ ...three(), coordinator: { etcd: 1 } });
const timeout = 60_000;

test(
  'the only node that can be promoted safely is gone: waits, says why, goes on when it is back',
  { timeout },
  () =>
    Stage.run(three(), async (stage) => {
      const { member: primary } = await stage.primary();
      const [needed, other] = (await stage.standbys()) as [typeof primary, typeof primary];
      await stage.relyOn(needed, other);
      await Promise.all([primary.kill(), needed.kill()]);
      await other.start();
      const why = new RegExp(`no standby can be promoted safely.* with the standbys ${needed.name};`);
      const { role } = await stage.waits(other, why);
      expect(role).toBe('standby');
      expect(other.events.some(({ event, message }) => event === 'waiting' && why.test(message))).toBe(true);
      await stage.standstill(500);
      await needed.start();
      const { node } = await stage.progress();
      expect(node).toBe(needed.name);
      await primary.start();
    }),
);

test('two of three nodes and etcd are gone: waits, goes on when they are back', { timeout }, () =>
  Stage.run(withEtcd(), async (stage) => {
    const { member: primary } = await stage.primary();
    const [first, left] = (await stage.standbys()) as [typeof primary, typeof primary];
    const { etcd } = stage.cluster;
    await Promise.all([etcd?.kill(0), primary.kill(), first.kill()]);
    await stage.waits(left, /coordinator/);
    await stage.standstill(500);
    etcd?.launch(0);
    await Promise.all([primary.start(), first.start()]);
    await stage.progress();
  }),
);

test(
  'automation is paused: nobody is promoted but by hand, nor is a primary that was restarted',
  { timeout },
  () =>
    Stage.run(withEtcd(), async (stage) => {
      const { member: primary, status } = await stage.primary();
      const [standby, other] = (await stage.standbys()) as [typeof primary, typeof primary];
      await standby.call('setPaused', true);
      await primary.kill();
      await stage.waits(standby, /automatic failover is paused/);
      await primary.start();
      await stage.waits(primary, /a restarted node takes no role of before.*paused/);
      await stage.standstill(500);
      expect((await primary.status()).role).toBe('standby');
      await standby.call('failover', other.name, false);
      expect((await stage.progress()).node).toBe(other.name);
      await other.call('setPaused', false);
      await stage.cluster.well();
      const now = await stage.primary();
      expect(now.member.name).toBe(other.name);
      expect(now.status.epoch).toBeGreaterThan(status.epoch);
    }),
);

test(
  'by hand with loss accepted; who knows that it has what was lost comes back when told to',
  { timeout },
  () =>
    Stage.run(three(), async (stage) => {
      const { member: primary } = await stage.primary();
      const [needed, other] = (await stage.standbys()) as [typeof primary, typeof primary];
      await stage.relyOn(needed, other);
      await needed.kill();
      primary.signal('SIGSTOP');
      await other.start();
      await stage.waits(other, /no standby can be promoted safely/);
      await expect(other.call('failover', other.name, false)).rejects.toMatchObject({
        code: 'WALSHIP_ERR_FAILOVER',
      });
      stage.acceptLoss();
      await other.call('failover', other.name, true);
      primary.signal('SIGCONT');
      await until('it is a standby', async () => (await primary.status()).role === 'standby' || undefined);
      await sleep(500);
      expect((await primary.links()).some(({ streaming }) => streaming)).toBe(false);
      await primary.call('rejoin');
      await needed.start();
      expect((await stage.progress()).node).toBe(other.name);
      const { diverged } = await inspectLog(primary.settings.options.dir);
      expect(diverged).toHaveLength(1);
    }),
);

test('async: nobody who lacks too much is promoted but by hand', { timeout }, async (context) => {
  if (process.getuid?.() !== 0) context.skip('mounting a file system needs root');
  const rule = { level: 'async' } as const;
  const failover = { maxLagBytes: 100_000 };
  const engine = { log: { segmentBytes: 1 << 20, spareSegments: 0 }, arena: { bytes: 8 << 20 } };
  await Stage.run({ ...three(), rule, failover, engine, diskMebibytes: 160 }, async (stage) => {
    const { member: primary } = await stage.primary();
    const standbys = await stage.standbys();
    for (const { name } of standbys) stage.cluster.disks.get(name)?.fill();
    // More than the standbys' memory and all sockets hold.
    const writer = stage.writer(60_000);
    let missing = 0n;
    while (missing < 16_000_000n) {
      const at = (await primary.status()).positions.committed;
      const there = await Promise.all(standbys.map(async (each) => (await each.status()).positions.received));
      missing = at - there.reduce((most, each) => (each > most ? each : most));
      if (at > 50_000_000n) throw new Error(`the standbys go on: ${there} of ${at}`);
    }
    await writer.stop();
    await primary.kill();
    // What has reached them is written now; a promise could not be, either.
    for (const { name } of standbys) stage.cluster.disks.get(name)?.empty();
    // The one that has more of the log says so.
    const standby = await Promise.any(
      standbys.map(async (each) => {
        await stage.waits(each, /lacks \d+ bytes of the primary's log, more than max_lag_bytes/);
        return each;
      }),
    );
    await stage.standstill(500);
    stage.acceptLoss();
    await standby.call('failover', standby.name, true);
    // The old primary sets aside what only it has, which needs room.
    const disk = stage.cluster.disks.get(primary.name);
    disk?.fill(4 << 20);
    await primary.start();
    const told = (event: string, message: RegExp) =>
      primary.events.find((each) => each.event === event && message.test(each.message));
    await until('it says why it cannot follow', () =>
      told('upstream-down', /No space left .*make room on its file system/),
    );
    expect(told('log-cut', /set aside/)).toBeUndefined();
    disk?.empty();
    await until('what is cut is set aside', () => told('log-cut', /set aside/));
    const { diverged } = await inspectLog(primary.settings.options.dir);
    expect(diverged).toHaveLength(1);
  });
});

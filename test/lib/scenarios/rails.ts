// Two ways to every node: a link that moves from one to the other under load, and one over both.
import { expect } from 'vitest';
import type { EngineEvent, EngineOptions } from '../../../src/index.js';
import { type Cluster, type Overrides, pause } from '../cluster.js';
import type { SecondWay } from '../network.js';
import type { Scenario } from '../scenario.js';

/** How many times the wire in use is cut; many more once in a while: WALSHIP_RAIL_CHANGES=200. */
const changes = Number(process.env['WALSHIP_RAIL_CHANGES'] ?? 12);

type Rails = NonNullable<EngineOptions['rails']>;

/** Both ways of a node, the first one first. */
function waysOf(cluster: Cluster): readonly [SecondWay, SecondWay] {
  const { network } = cluster;
  return [network, network.second as SecondWay];
}

/** Node 0 is the primary, node 1 its standby, and both can be reached by both ways. */
async function start(
  cluster: Cluster,
  rails: Rails,
  { ackTimeoutExponent = 10, ...others }: Overrides & { ackTimeoutExponent?: number } = {},
): Promise<void> {
  const ways = waysOf(cluster);
  for (const index of [0, 1]) {
    const addresses = ways.map((way) => way.address(index));
    await cluster.open(index, {
      ...(ways[0].verbs(index) && {
        verbs: { address: addresses, ackTimeoutExponent, retryCount: 6 },
      }),
      rails: {
        listen: addresses.slice(1).map((address) => `${address}:0`),
        stripe: false,
        returnMs: 500,
        ...rails,
      },
      ...others,
    });
  }
  await cluster.member(0).process.promote();
  await cluster.follow(1, 0);
  await cluster.until('both rails are up', async () => {
    const { rails: known } = await cluster.status(1);
    return ways.every((way) => known.some(({ name, spare }) => spare && isBy(name, way)));
  });

  function isBy(name: string, way: SecondWay): boolean {
    return name.includes(`@${way.address(0)}:`);
  }
}

/** Which way carries the session: 0, 1, or both. */
async function inUse(cluster: Cluster): Promise<number[]> {
  const { rails } = await cluster.status(1);
  const carrying = rails.filter(({ carries }) => carries).map(({ name }) => name);
  return [0, 1].filter((way) =>
    carrying.some((name) => name.includes(`@${waysOf(cluster)[way]?.address(0)}:`)),
  );
}

const moved = (events: readonly EngineEvent[]) => events.filter(({ type }) => type === 'rail-changed');
const quantile = (values: readonly number[], share: number) =>
  [...values].sort((a, b) => a - b)[Math.min(values.length - 1, Math.floor(values.length * share))] ?? 0;

async function oneInUse(cluster: Cluster): Promise<number> {
  let ways: number[] = [];
  await cluster.until('one way is in use', async () => {
    ways = await inUse(cluster);
    return ways.length === 1;
  });
  return ways[0] as number;
}

async function spareIsUp(cluster: Cluster, way: number): Promise<void> {
  const address = waysOf(cluster)[way]?.address(0);
  await cluster.until(`a spare link over way ${way}`, async () =>
    (await cluster.status(1)).rails.some(({ name, spare }) => spare && name.includes(`@${address}:`)),
  );
}

function cutAgainAndAgain(name: string, rails: Rails, hostOnly = false): Scenario {
  return {
    name,
    needs: ['wires', 'second'],
    hostOnly,
    seconds: 20 + changes * 5,
    async body(cluster) {
      const ways = waysOf(cluster);
      for (const way of ways) cluster.onEnd(() => way.heal(1));
      await start(cluster, rails);
      const gaps: number[] = [];
      for (let change = 0; change < changes; change++) {
        const way = await oneInUse(cluster);
        await spareIsUp(cluster, 1 - way);
        await cluster.load(0, { pendingBytesMax: 128 << 10 });
        await cluster.progress(20);
        const before = moved(cluster.member(1).process.events).length;
        await ways[way]?.cut(1);
        await cluster.until(
          'the link has moved',
          () => moved(cluster.member(1).process.events).length > before,
        );
        await cluster.progress(20);
        gaps.push((await cluster.endLoad()).slowestMs);
        expect(await inUse(cluster)).toEqual([1 - way]);
        await ways[way]?.heal(1);
      }
      const events = moved(cluster.member(1).process.events);
      // Every one of them, and none without a reason.
      expect(events.filter(({ code }) => code !== '').length).toBeGreaterThanOrEqual(changes);
      const downs = cluster.member(1).process.events.filter(({ type }) => type === 'upstream-down');
      expect(downs).toEqual([]);
      const shown = (value: number) => value.toFixed(0);
      cluster.note(
        `${changes} cuts, ${events.length} changes; the slowest commit of each: p50 ${shown(quantile(gaps, 0.5))}, ` +
          `p99 ${shown(quantile(gaps, 0.99))} ms; codes: ${[...new Set(events.map(({ code }) => code))].join(', ')}`,
      );
      expect(quantile(gaps, 0.99)).toBeLessThan(500 * cluster.network.slow);
      await cluster.load(0);
      await cluster.progress(20);
      await cluster.verify();
    },
  };
}

/** RDMA by the first way alone, TCP by the second one. */
function overTcp(cluster: Cluster): Rails {
  const [first, second] = waysOf(cluster);
  return { exclude: [`tcp@${first.address(0)}:*`, `verbs:*@${second.address(0)}:*`] };
}

export const rails: readonly Scenario[] = [
  cutAgainAndAgain('the wire in use is cut again and again: the link goes on over the other one', {}),
  {
    name: 'a rail that is pinned is left when it fails, and used again when it has been well',
    needs: ['wires', 'second'],
    seconds: 60,
    async body(cluster) {
      const [first, second] = waysOf(cluster);
      cluster.onEnd(() => first.heal(1));
      const pinned = `*@${first.address(0)}:*`;
      await start(cluster, { pin: [pinned] });
      await cluster.load(0);
      await cluster.until('the pinned rail is used', async () => (await inUse(cluster))[0] === 0);
      await first.cut(1);
      await cluster.until('the other one is used', async () => (await inUse(cluster))[0] === 1);
      await cluster.progress(50);
      await first.heal(1);
      const back = await cluster.until(
        'the pinned one is used again',
        async () => (await inUse(cluster))[0] === 0,
      );
      await cluster.progress(50);
      cluster.note(`back on ${pinned} after ${back.toFixed(0)} ms; ${second.address(0)} in between`);
      await cluster.until('it says why', () =>
        /pinned.* has been well for/.test(moved(cluster.member(1).process.events).at(-1)?.message ?? ''),
      );
      await cluster.verify();
    },
  },
  {
    name: 'RDMA fails: the link goes on over TCP, and comes back',
    needs: ['wires', 'second', 'verbs'],
    seconds: 60,
    async body(cluster) {
      const [first] = waysOf(cluster);
      cluster.onEnd(() => first.heal(1));
      await start(cluster, overTcp(cluster), { transport: 'auto' });
      await cluster.until('RDMA is used', async () => (await inUse(cluster))[0] === 0);
      const rounds: number[] = [];
      for (let round = 0; round < Math.ceil(changes / 4); round++) {
        await cluster.load(0, { pendingBytesMax: 128 << 10 });
        await cluster.progress(20);
        await first.cut(1);
        await cluster.until('TCP is used', async () => (await inUse(cluster))[0] === 1);
        await cluster.progress(20);
        rounds.push((await cluster.endLoad()).slowestMs);
        await first.heal(1);
        await cluster.load(0);
        // Each time it is to be well for longer.
        await cluster.until('RDMA is used again', async () => (await inUse(cluster))[0] === 0, 60);
        await cluster.progress(20);
        await cluster.endLoad();
      }
      cluster.note(`the slowest commit of each change: ${rounds.map((ms) => ms.toFixed(0)).join(', ')} ms`);
      await cluster.load(0);
      await cluster.progress(20);
      await cluster.verify();
    },
  },
  {
    name: 'two rails that are equal are striped, and one of them is enough when the other fails',
    needs: ['wires', 'second'],
    seconds: 60,
    async body(cluster) {
      const [, second] = waysOf(cluster);
      cluster.onEnd(() => second.heal(1));
      await start(cluster, { stripe: true });
      await cluster.load(0);
      await cluster.until('both rails are used', async () => (await inUse(cluster)).length === 2);
      await cluster.progress(100);
      await second.cut(1);
      await cluster.until('one rail is used', async () => (await inUse(cluster)).join() === '0');
      await cluster.progress(100);
      await second.heal(1);
      await cluster.until('both rails are used again', async () => (await inUse(cluster)).length === 2, 30);
      await cluster.progress(100);
      await cluster.verify();
    },
  },
  {
    name: 'over two equal rails of limited bandwidth twice as much is shipped',
    needs: ['netem', 'second'],
    seconds: 120,
    async body(cluster) {
      const ways = waysOf(cluster);
      for (const way of ways) cluster.onEnd(() => way.clear(0));
      // Everything stands in the queues of the wires, acknowledgements and probes, too, and all the longer when a device
      // sends again what it thinks lost (after 268 ms, here): not what the dispatcher is to judge by.
      await start(
        cluster,
        { stripe: true, bandMs: 10_000, lossPerSecond: 1_000_000, silenceMs: 2000 },
        { ackTimeoutExponent: 16 },
      );
      const standby = cluster.member(1).process;
      const measure = async () => {
        await cluster.load(0, {
          bytesMin: 32 << 10,
          bytesMax: 32 << 10,
          bytesPerSecond: 64 << 20,
          pendingBytesMax: 2 << 20,
        });
        await cluster.progress(64, 30);
        const [from, started] = [(await standby.positions()).received, performance.now()];
        await pause(8000);
        const to = (await standby.positions()).received;
        const megabytes = Number(to - from) / (performance.now() - started) / 1000;
        await cluster.endLoad();
        return megabytes;
      };
      for (const way of ways) await way.netem(0, 'rate', '40mbit');
      await standby.chooseRails({ exclude: [`*@${ways[1].address(0)}:*`] });
      await cluster.until('one rail is used', async () => (await inUse(cluster)).join() === '0');
      const single = await measure();
      await standby.chooseRails('auto');
      await cluster.until('striped', async () => (await inUse(cluster)).length === 2, 30);
      const striped = await measure();
      for (const way of ways) await way.clear(0);
      cluster.note(
        `one rail ${single.toFixed(2)} MB/s, two ${striped.toFixed(2)} MB/s: ${(striped / single).toFixed(2)} ×`,
      );
      const changed = moved(cluster.member(1).process.events).map(({ message }) => message);
      cluster.note(changed.join('\n    '));
      // About 2 where nothing else is scarce; the processors that do the shipping here are emulated.
      expect(striped / single, cluster.notes.join('\n')).toBeGreaterThan(1.6);
      await cluster.verify();
    },
  },
  {
    name: 'a rail that takes 5 ms longer is left within 2 s',
    needs: ['netem', 'second'],
    seconds: 60,
    async body(cluster) {
      const ways = waysOf(cluster);
      for (const way of ways) cluster.onEnd(() => way.clear(1));
      // Packets that are sent again after less than the delay would be a reason, too, to leave the rail.
      await start(cluster, { lossPerSecond: 1_000_000 }, { ackTimeoutExponent: 14 });
      await cluster.load(0);
      const way = await oneInUse(cluster);
      await cluster.progress(50);
      const seen = () => moved(cluster.member(1).process.events);
      const before = seen().length;
      await ways[way]?.netem(1, 'delay', '5ms');
      // What is in use is read from the data plane, and may be known before the event of it has come here.
      const took = await cluster.until(
        'the other rail is used',
        async () => (await inUse(cluster))[0] === 1 - way && seen().length > before,
      );
      const message = seen().at(-1)?.message ?? '';
      cluster.note(`left after ${took.toFixed(0)} ms: ${message}`);
      expect(message).toMatch(/degraded: round trip/);
      expect(took).toBeLessThan(2000);
      await cluster.progress(50);
      await ways[way]?.clear(1);
      await cluster.verify();
    },
  },
];

import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { type CoordinatorSettings, openCoordinator } from '../../../src/failover/coordinator/settings.js';
import { Etcd } from '../../lib/etcd.js';
import { describeContract } from './contract.js';
import { assertOneChain, clusterId, member, record, Seen, type Swap } from './support.js';

let places = 0;
const at = (etcd: Etcd, more: Partial<CoordinatorSettings> = {}) =>
  ({
    kind: 'etcd',
    endpoints: etcd.endpoints,
    prefix: `/walship-test/${places++}`,
    // The host may be busy: short only where that is what is tested.
    timeoutMs: 5000,
    ...etcd.certificates,
    ...more,
  }) as CoordinatorSettings & { kind: 'etcd'; prefix: string };
const pause = (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds));

describeContract(
  'etcd with one member',
  async () => {
    const etcd = await Etcd.start();
    return {
      fresh: () => at(etcd),
      cut: async () => etcd.kill(0),
      async mend() {
        etcd.launch(0);
        await etcd.ready();
      },
      async spoil(settings, what, garbage) {
        const { prefix } = settings as { prefix: string };
        const key = `${prefix}/${clusterId}/${what === 'primary' ? 'primary' : 'members/a'}`;
        const good = (await etcd.get(key)) as string;
        await etcd.put(key, garbage);
        return { named: key, heal: () => etcd.put(key, good) };
      },
      close: () => etcd.close(),
    };
  },
  { wins: 60 },
);

describe('etcd with one member', () => {
  let etcd: Etcd;
  beforeAll(async () => {
    etcd = await Etcd.start();
  });
  afterAll(() => etcd.close());

  test('compacted under a watch that was away: it goes on with what is there', async () => {
    const settings = at(etcd);
    const [one, two] = [
      await openCoordinator(settings, clusterId),
      await openCoordinator(settings, clusterId),
    ];
    let revision = (await one.swap(0n, record('a', 1n))) as bigint;
    const seen = new Seen(two);
    await seen.until('the first state', (view) => view?.revision === revision);
    for (let round = 0; round < 5; round++) {
      for (let swap = 0; swap < 20; swap++)
        revision = (await one.swap(revision, record('a', 1n, swap))) as bigint;
      await etcd.compact();
      await seen.until('the last', (view) => view?.revision === revision);
    }
    seen.stop();
    await one.close();
    await two.close();
  });

  test('stopped: noticed within a bound though its connections stay, and it goes on after', async () => {
    const settings = at(etcd, { timeoutMs: 1000 });
    const coordinator = await openCoordinator(settings, clusterId);
    const revision = (await coordinator.swap(0n, record('a', 1n))) as bigint;
    const seen = new Seen(coordinator);
    await seen.until('the first state', (view) => view?.revision === revision);
    await etcd.pause(0);
    const began = performance.now();
    await expect(coordinator.swap(revision, record('a', 1n, 1))).rejects.toThrow(
      /did not answer within 1000 ms/,
    );
    expect(performance.now() - began).toBeLessThan(2000);
    await seen.until('that it is silent', (view) => view === undefined, 4000);
    etcd.resume(0);
    // The swap whose answer was lost was carried out: at most once, and the watch tells.
    await seen.until('that it is back', (view) => view !== undefined);
    const { primary, revision: now } = await coordinator.read();
    expect([0, 1]).toContain(primary?.renewal);
    expect(await coordinator.swap(now, record('b', 2n))).toBeGreaterThan(now);
    seen.stop();
    await coordinator.close();
  });

  test('what is not etcd, and what belongs to another etcd, is told apart', async () => {
    const other = await Etcd.start();
    const mixed = await openCoordinator(
      at(etcd, { endpoints: [...etcd.endpoints, ...other.endpoints], tryTimeoutMs: 5000 }),
      clusterId,
    );
    await mixed.read();
    await etcd.kill(0);
    await expect(mixed.read()).rejects.toThrow(/another etcd cluster.*correct endpoints/);
    await expect(openCoordinator(at(etcd, { endpoints: ['nowhere'] }), clusterId)).rejects.toMatchObject({
      code: 'WALSHIP_ERR_CONFIG',
    });
    etcd.launch(0);
    await etcd.ready();
    const peer = await openCoordinator(
      at(etcd, { endpoints: [etcd.peers[0] as string], timeoutMs: 300 }),
      clusterId,
    );
    await expect(peer.read()).rejects.toThrow(/is it etcd/);
    for (const each of [mixed, peer]) await each.close();
    await other.close();
  });
});

describe('etcd with three members', () => {
  let etcd: Etcd;
  beforeAll(async () => {
    etcd = await Etcd.start({ members: 3 });
  });
  // Whatever a test has left behind.
  afterEach(async () => {
    for (let index = 0; index < etcd.size; index++) {
      etcd.resume(index);
      if (!etcd.isRunning(index)) etcd.launch(index);
    }
    await etcd.ready();
  });
  afterAll(() => etcd.close());

  test('a dead or silent endpoint costs less than 100 ms', async () => {
    const follower = (await etcd.leader()) === 0 ? 1 : 0;
    const settings = at(etcd);
    // Each asks the follower first.
    const first = etcd.endpoints[follower] as string;
    const endpoints = [first, ...etcd.endpoints.filter((each) => each !== first)];
    const others = await Promise.all(
      Array.from({ length: 7 }, () => openCoordinator({ ...settings, endpoints }, clusterId)),
    );
    const times: number[] = [];
    const timed = async (ask: () => Promise<unknown>) => {
      const began = performance.now();
      await ask();
      times.push(performance.now() - began);
    };
    /** Of the quickest: what it costs by itself, however busy the host is. */
    const least = () => Math.min(...times.splice(0));
    for (const other of others) await other.read();
    await etcd.pause(follower);
    for (const other of others) await timed(() => other.read());
    const silent = least();
    expect(silent).toBeGreaterThan(70);
    expect(silent).toBeLessThan(100);
    // The one that answered is remembered.
    for (const other of others) await timed(() => other.read());
    expect(least()).toBeLessThan(70);
    etcd.resume(follower);
    await etcd.ready();
    const fresh = await Promise.all(
      Array.from({ length: 7 }, () => openCoordinator({ ...settings, endpoints }, clusterId)),
    );
    for (const each of fresh) await each.read();
    await etcd.kill(follower);
    let revision = 0n;
    for (const each of fresh)
      await timed(async () => {
        revision = (await each.swap(revision, record('a', 1n))) as bigint;
      });
    expect(revision).toBeGreaterThan(0n);
    expect(least()).toBeLessThan(70);
    etcd.launch(follower);
    await etcd.ready();
    for (const each of [...others, ...fresh]) await each.close();
  });

  test('leaders killed under swaps and a watch: it goes on by itself, nothing is lost or won twice', async () => {
    const settings = at(etcd);
    const [one, two] = [
      await openCoordinator(settings, clusterId),
      await openCoordinator(settings, clusterId),
    ];
    const seen = new Seen(two);
    const won: Swap[] = [];
    let unknown = 0;
    let slowestMs = 0;
    let running = true;
    const swapping = (async () => {
      let view = await one.read();
      while (running) {
        const epoch = (view.primary?.epoch ?? 0n) + 1n;
        const began = performance.now();
        const revision = await one.swap(view.revision, record('a', epoch)).catch(() => {
          unknown++;
          return undefined;
        });
        slowestMs = Math.max(slowestMs, performance.now() - began);
        if (revision !== undefined) won.push({ expected: view.revision, revision, epoch });
        view = await one.read().catch(() => view);
        await pause(5);
      }
    })();
    for (let kill = 0; kill < 3; kill++) {
      const leader = (await etcd.leader()) as number;
      const before = won.length;
      await etcd.kill(leader);
      const deadline = performance.now() + 20_000;
      while (won.length < before + 10 && performance.now() < deadline) await pause(20);
      expect(won.length).toBeGreaterThanOrEqual(before + 10);
      etcd.launch(leader);
      await etcd.ready();
    }
    running = false;
    await swapping;
    // With etcd's own election time-out of 1 s.
    expect(slowestMs).toBeLessThan(6000);
    assertOneChain(won, unknown);
    const { revision } = await two.read();
    await seen.until('the last', (view) => view?.revision === revision);
    seen.stop();
    for (const each of [one, two]) await each.close();
  }, 90_000);

  test('all killed and started again: told, and everything is still there', async () => {
    const coordinator = await openCoordinator(at(etcd), clusterId);
    const revision = (await coordinator.swap(0n, record('a', 7n))) as bigint;
    await coordinator.register(member('a'));
    const seen = new Seen(coordinator);
    await seen.until('the first state', (view) => view?.members.length === 1);
    await Promise.all([0, 1, 2].map((index) => etcd.kill(index)));
    await seen.until('that it is gone', (view) => view === undefined, 7000);
    for (const index of [0, 1, 2]) etcd.launch(index);
    await seen.until('that it is back', (view) => view?.revision === revision, 10_000);
    await etcd.ready();
    expect((await coordinator.read()).members).toEqual([member('a')]);
    seen.stop();
    await coordinator.close();
  });

  test('a watch whose member is stopped goes on at another', async () => {
    const settings = at(etcd);
    const [one, two] = [
      await openCoordinator(settings, clusterId),
      await openCoordinator(settings, clusterId),
    ];
    let revision = (await one.swap(0n, record('a', 1n))) as bigint;
    const seen = new Seen(two);
    await seen.until('the first state', (view) => view?.revision === revision);
    // Whichever it watches at: each of them once.
    for (const index of [0, 1, 2]) {
      await etcd.pause(index);
      const deadline = performance.now() + 15_000;
      let next: bigint | undefined;
      while (next === undefined && performance.now() < deadline)
        next = await one.swap(revision, record('a', 1n, index + 1)).catch(() => undefined);
      revision = next as bigint;
      await seen.until('what was swapped meanwhile', (view) => view?.revision === revision, 8000);
      etcd.resume(index);
      await etcd.ready();
    }
    expect(seen.told.filter(({ view }) => view !== undefined).length).toBeGreaterThanOrEqual(4);
    seen.stop();
    for (const each of [one, two]) await each.close();
  }, 80_000);
});

describe('etcd with users and TLS', () => {
  const user = { name: 'walship', password: 'a password' };

  test('users: the right one, tokens that run out, a wrong one, none', async () => {
    const etcd = await Etcd.start({ tokenSeconds: 1 });
    try {
      await etcd.enableAuth(user, '/walship-test');
      const named = { user: user.name, password: user.password };
      const coordinator = await openCoordinator(at(etcd, named), clusterId);
      const seen = new Seen(coordinator);
      let revision = (await coordinator.swap(0n, record('a', 1n))) as bigint;
      await seen.until('the first swap', (view) => view?.revision === revision);
      // A token runs out, and then etcd forgets all of them.
      for (const restart of [false, true]) {
        if (restart) {
          await etcd.kill(0);
          etcd.launch(0);
          await etcd.ready();
        } else {
          await pause(2500);
        }
        revision = (await coordinator.swap(revision, record('a', 1n, restart ? 2 : 1))) as bigint;
        await seen.until('a swap with a new token', (view) => view?.revision === revision);
      }
      seen.stop();
      const refusal = async (more: Partial<CoordinatorSettings>) => {
        const refused = await openCoordinator(at(etcd, more), clusterId);
        const error = await refused.read().catch((thrown: Error) => thrown);
        await refused.close();
        return (error as Error).message;
      };
      expect(await refusal({ ...named, password: 'a wrong one' })).toMatch(
        /check user, password.*authentication failed/,
      );
      expect(await refusal({})).toMatch(/user name is empty/);
      expect(await refusal({ ...named, prefix: '/elsewhere' })).toMatch(/permission denied/);
      await coordinator.close();
    } finally {
      await etcd.close();
    }
  });

  test('TLS with a client certificate; without one, or with another authority, it is an error', async () => {
    const etcd = await Etcd.start({ tls: true });
    const stranger = await Etcd.start({ tls: true });
    try {
      const settings = at(etcd);
      const coordinator = await openCoordinator(settings, clusterId);
      const seen = new Seen(coordinator);
      const revision = (await coordinator.swap(0n, record('a', 1n))) as bigint;
      await seen.until('the swap', (view) => view?.revision === revision);
      seen.stop();
      const { caFile } = settings as { caFile: string };
      const naked = await openCoordinator(
        { kind: 'etcd', endpoints: etcd.endpoints, caFile, prefix: settings.prefix },
        clusterId,
      );
      await expect(naked.read()).rejects.toMatchObject({ code: 'WALSHIP_ERR_COORDINATOR' });
      const wrong = await openCoordinator(at(etcd, { ...stranger.certificates }), clusterId);
      await expect(wrong.read()).rejects.toThrow(/certificate/);
      for (const each of [coordinator, naked, wrong]) await each.close();
    } finally {
      await etcd.close();
      await stranger.close();
    }
  });
});

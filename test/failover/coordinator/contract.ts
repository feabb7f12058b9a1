// What every coordinator must do: one list, run on each of them.
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Coordinator } from '../../../src/failover/coordinator/coordinator.js';
import { type CoordinatorSettings, openCoordinator } from '../../../src/failover/coordinator/settings.js';
import { assertOneChain, clusterId, member, record, Seen, Swapper } from './support.js';

/** The place that a coordinator keeps things at. */
export interface Backend {
  /** A new and empty place. */
  fresh(): CoordinatorSettings;
  /** Nobody can reach it, until `mend`. */
  cut(settings: CoordinatorSettings): Promise<void>;
  mend(settings: CoordinatorSettings): Promise<void>;
  /** Overwrites what is there with garbage. Gives back what an error must name, and what undoes it. */
  spoil(
    settings: CoordinatorSettings,
    what: 'primary' | 'members',
    garbage: string,
  ): Promise<{ named: string; heal: () => Promise<void> }>;
  close(): Promise<void>;
}

export interface ContractOptions {
  /** Swaps to win by each of eight processes at once. */
  readonly wins: number;
}

export function describeContract(
  name: string,
  start: () => Promise<Backend>,
  options: ContractOptions,
): void {
  describe(name, () => {
    let backend: Backend;
    const opened: Coordinator[] = [];
    beforeAll(async () => {
      backend = await start();
    });
    afterAll(async () => {
      for (const coordinator of opened) await coordinator.close();
      await backend?.close();
    });
    const open = async (settings: CoordinatorSettings) => {
      const coordinator = await openCoordinator(settings, clusterId);
      opened.push(coordinator);
      return coordinator;
    };
    const refused = expect.objectContaining({ code: 'WALSHIP_ERR_COORDINATOR' });

    test('a new cluster has nothing', async () => {
      const coordinator = await open(backend.fresh());
      expect(await coordinator.read()).toEqual({ revision: 0n, members: [], paused: false });
    });

    test('a swap names the revision it replaces; another changes nothing', async () => {
      const settings = backend.fresh();
      const [one, two] = [await open(settings), await open(settings)];
      const first = await one.swap(0n, record('a', 2n ** 60n + 1n));
      expect(first).toBeGreaterThan(0n);
      expect(await two.read()).toMatchObject({ primary: record('a', 2n ** 60n + 1n), revision: first });
      expect(await two.swap(0n, record('b', 2n))).toBeUndefined();
      expect(await two.swap((first as bigint) + 1n, record('b', 2n))).toBeUndefined();
      expect(await one.read()).toMatchObject({ primary: record('a', 2n ** 60n + 1n), revision: first });
      const second = await two.swap(first as bigint, record('b', 2n ** 60n + 2n));
      expect(second).toBeGreaterThan(first as bigint);
      expect(await one.read()).toMatchObject({ primary: record('b', 2n ** 60n + 2n), revision: second });
    });

    test('a record comes back as it was given', async () => {
      const coordinator = await open(backend.fresh());
      const before = { ...record('a', 1n), rule: { level: 'applied', first: 2, nodes: ['c', 'b'] } } as const;
      const { leaseMs: _, renewal: __, ...reign } = before;
      const next = {
        ...record('b', 2n),
        rule: { level: 'async' },
        previous: { ...reign, previous: reign },
      } as const;
      await coordinator.swap(0n, next);
      expect((await coordinator.read()).primary).toEqual(next);
    });

    test('members and the pause are not part of the record', async () => {
      const settings = backend.fresh();
      const [one, two] = [await open(settings), await open(settings)];
      const revision = await one.swap(0n, record('a', 1n));
      await one.register(member('c'));
      await two.register(member('a'));
      await one.register(member('c', 7));
      await two.setPaused(true);
      const all = {
        primary: record('a', 1n),
        revision,
        members: [member('a'), member('c', 7)],
        paused: true,
      };
      expect(await one.read()).toEqual(all);
      await one.forget('a');
      await one.forget('a');
      await one.setPaused(false);
      await one.setPaused(false);
      expect(await two.read()).toEqual({ ...all, members: [member('c', 7)], paused: false });
      expect(await two.swap(revision as bigint, record('a', 1n, 1))).toBeGreaterThan(revision as bigint);
    });

    test('members that register at the same time are all there', async () => {
      const settings = backend.fresh();
      const coordinators = await Promise.all(Array.from({ length: 4 }, () => open(settings)));
      const names = Array.from({ length: 12 }, (_, index) => `node-${String(index).padStart(2, '0')}`);
      await Promise.all(names.map((node, index) => coordinators[index % 4]?.register(member(node, index))));
      const { members } = (await coordinators[0]?.read()) ?? {};
      expect(members).toEqual(names.map((node, index) => member(node, index)));
    });

    test('what could not be read back is not stored', async () => {
      const coordinator = await open(backend.fresh());
      const argument = expect.objectContaining({ code: 'WALSHIP_ERR_ARGUMENT' });
      await expect((async () => coordinator.swap(0n, record('no such/name', 1n)))()).rejects.toEqual(
        argument,
      );
      await expect(coordinator.register({ ...member('a'), log: 'nowhere' })).rejects.toEqual(argument);
      expect(await coordinator.read()).toEqual({ revision: 0n, members: [], paused: false });
    });

    test('a watch begins with what is there and tells of every kind of change', async () => {
      const settings = backend.fresh();
      const [one, two] = [await open(settings), await open(settings)];
      const revision = await one.swap(0n, record('a', 1n));
      const seen = new Seen(two);
      await seen.until('the first state', (view) => view?.revision === revision);
      expect(seen.told).toHaveLength(1);
      await one.register(member('a'));
      await seen.until('a member', (view) => view?.members.length === 1);
      await one.setPaused(true);
      await seen.until('the pause', (view) => view?.paused === true);
      await one.setPaused(false);
      await seen.until('its end', (view) => view?.paused === false);
      await one.forget('a');
      await seen.until('no member', (view) => view?.members.length === 0);
      const next = await one.swap(revision as bigint, record('b', 2n));
      await seen.until('the new primary', (view) => view?.revision === next);
      expect(seen.last?.view).toEqual({
        primary: record('b', 2n),
        revision: next,
        members: [],
        paused: false,
      });
      seen.stop();
      const calls = seen.told.length;
      await one.setPaused(true);
      await new Promise((resolve) => setTimeout(resolve, 100));
      expect(seen.told).toHaveLength(calls);
    });

    test('a watch never tells an older state after a newer, and always the last', async () => {
      const settings = backend.fresh();
      const [one, two] = [await open(settings), await open(settings)];
      const seen = new Seen(two);
      let revision = 0n;
      for (let burst = 0; burst < 20; burst++) {
        for (let swap = 0; swap < 10; swap++)
          revision = (await one.swap(revision, record('a', 1n, burst * 10 + swap))) as bigint;
        await seen.until('the last of a burst', (view) => view?.revision === revision);
      }
      seen.stop();
      const revisions = seen.told.map(({ view }) => view?.revision ?? -1n);
      expect(revisions).toEqual([...revisions].sort((a, b) => (a < b ? -1 : a > b ? 1 : 0)));
    });

    test('a watch is told by events, not by looking from time to time', async () => {
      const settings = backend.fresh();
      const [one, two] = [await open(settings), await open(settings)];
      const seen = new Seen(two);
      await seen.until('the first state', (view) => view !== undefined);
      const times: number[] = [];
      let revision = 0n;
      for (let renewal = 0; renewal < 15; renewal++) {
        revision = (await one.swap(revision, record('a', 1n, renewal))) as bigint;
        const swapped = performance.now();
        await seen.until('the swap', (view) => view?.revision === revision);
        times.push((seen.last?.at ?? 0) - swapped);
      }
      seen.stop();
      expect(times.sort((a, b) => a - b)[7]).toBeLessThan(50);
    });

    test('out of reach: an error that says so, and the watch tells of it and of the return', async () => {
      const settings = backend.fresh();
      const coordinator = await open(settings);
      const revision = (await coordinator.swap(0n, record('a', 1n))) as bigint;
      const seen = new Seen(coordinator);
      await seen.until('the first state', (view) => view?.revision === revision);
      await backend.cut(settings);
      await seen.until('that it is gone', (view) => view === undefined);
      expect(seen.last?.why).toMatch(/./);
      await expect(coordinator.read()).rejects.toEqual(refused);
      await expect(coordinator.swap(revision, record('a', 1n, 1))).rejects.toEqual(refused);
      await expect(coordinator.register(member('a'))).rejects.toEqual(refused);
      await backend.mend(settings);
      await seen.until('that it is back', (view) => view?.revision === revision, 10_000);
      const next = await coordinator.swap(revision, record('b', 2n));
      await seen.until('the new primary', (view) => view?.revision === next);
      seen.stop();
    });

    for (const what of ['primary', 'members'] as const) {
      const deep = `${'{"node":"a","epoch":"1","previous":'.repeat(15_000)}1${'}'.repeat(15_000)}`;
      const garbage = [deep, 'no json', '{"node":"a"}', '[1,2]', '', '{"node":"a","epoch":"-1"}'];
      test(`garbage as ${what}: an error that names the place, and nothing else breaks`, async () => {
        const settings = backend.fresh();
        const coordinator = await open(settings);
        const revision = (await coordinator.swap(0n, record('a', 1n))) as bigint;
        await coordinator.register(member('a'));
        const seen = new Seen(coordinator);
        await seen.until('the first state', (view) => view?.members.length === 1);
        for (const text of garbage) {
          const { named, heal } = await backend.spoil(settings, what, text);
          const error = await coordinator.read().catch((thrown: Error) => thrown);
          expect(error).toEqual(refused);
          expect((error as Error).message).toContain(named);
          await heal();
          expect(await coordinator.read()).toMatchObject({
            primary: record('a', 1n),
            members: [member('a')],
          });
        }
        await seen.until('the healed state', (view) => view?.members.length === 1);
        const { revision: now } = await coordinator.read();
        expect(now).toBeGreaterThanOrEqual(revision);
        const next = await coordinator.swap(now, record('b', 2n));
        await seen.until('the new primary', (view) => view?.revision === next);
        seen.stop();
      });
    }

    test('of eight processes that swap at once, one wins each revision', async () => {
      const settings = backend.fresh();
      const coordinator = await open(settings);
      const seen = new Seen(coordinator);
      const swappers = Array.from({ length: 8 }, (_, index) =>
        Swapper.ofRecord(settings, `node-${index}`, options.wins),
      );
      await Promise.all(swappers.map(({ ended }) => ended));
      const won = swappers.flatMap((swapper) => swapper.won);
      expect(won).toHaveLength(8 * options.wins);
      const unknown = swappers.reduce((sum, swapper) => sum + swapper.unknown.length, 0);
      assertOneChain(won, unknown);
      // They did get in each other's way.
      expect(swappers.reduce((sum, swapper) => sum + swapper.lost, 0)).toBeGreaterThan(options.wins);
      const { primary, revision } = await coordinator.read();
      expect(Number(primary?.epoch)).toBeGreaterThanOrEqual(won.length);
      expect(Number(primary?.epoch)).toBeLessThanOrEqual(won.length + unknown);
      await seen.until('the last winner', (view) => view?.revision === revision);
      seen.stop();
    }, 60_000);
  });
}

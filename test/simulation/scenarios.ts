import type { CommitRule } from '../../src/engine/options.js';
import { type Mutation, World } from './world.js';

/** Situations that chance brings about too rarely: each shows what one rule of the protocol is there for. */
export const scenarios: Readonly<
  Record<
    string,
    { readonly mutation: Mutation; readonly rule?: CommitRule; readonly play: (world: World) => void }
  >
> = {
  'an old primary with a long tail that was never committed stands against a standby with a short one that was':
    {
      mutation: 'compare-length-only',
      play(world) {
        const [a, b] = [world.node('a'), world.node('b')];
        isolate(world, 'a');
        // It goes on appending, and nobody acknowledges.
        for (let i = 0; i < 200; i++) a.log.push({ id: world.nextAppend++, epoch: a.epoch });
        until(world, 3000, () => world.checker.acknowledged.at(-1)?.epoch === 2);
        world.node(b.isPrimary ? 'b' : 'c').crash(true, 1);
        world.heal();
        world.run(3000);
      },
    },
  'under async the old primary is cut off, and its wall clock is set back': {
    mutation: 'wall-clock',
    rule: { level: 'async' },
    play(world) {
      world.jumpWallClock('a', 60_000);
      isolate(world, 'a');
      world.run(6000);
    },
  },
  'a standby that promised comes back, and the old primary wants its acknowledgements': {
    mutation: 'promise-in-memory',
    play(world) {
      const c = world.node('c');
      world.appending = false;
      world.run(100);
      cutBoth(world, 'a', 'b');
      world.storeMs = 400;
      world.command('b', { type: 'failover', to: 'b', acceptDataLoss: false });
      until(world, 3000, () => c.promisedEpoch >= 2);
      c.crash(false, 1);
      c.start();
      world.appending = true;
      world.run(3000);
    },
  },
  'a standby that the record does not name yet acknowledges, and the one that it names takes over': {
    mutation: 'count-before-recorded',
    play(world) {
      cutBoth(world, 'c', 'a');
      cutBoth(world, 'c', 'b');
      until(world, 3000, () => JSON.stringify(world.store.view().primary?.rule).includes('["b"]'));
      world.heal();
      world.isolateFromCoordinator('a');
      world.node('b').pausedUntil = world.agenda.now + 1000;
      world.run(900);
      world.node('a').crash(true, 1);
      world.node('c').crash(true, 1);
      world.run(3000);
    },
  },
};

export function scenarioWorld(
  mutations: ReadonlySet<Mutation>,
  rule: CommitRule = { level: 'flushed', any: 1 },
): World {
  const world = new World({ seed: 1, nodes: 3, rule, fanOut: 4, mutations });
  world.run(1000);
  return world;
}

function isolate(world: World, node: string): void {
  for (const other of world.nodes.keys()) if (other !== node) cutBoth(world, node, other);
  world.isolateFromCoordinator(node);
}

function cutBoth(world: World, one: string, other: string): void {
  world.cut(one, other);
  world.cut(other, one);
}

function until(world: World, boundMs: number, good: () => boolean): void {
  const end = world.agenda.now + boundMs;
  while (!good()) {
    if (world.agenda.now >= end) throw new Error('the scenario did not get where it should');
    world.run(1);
  }
}

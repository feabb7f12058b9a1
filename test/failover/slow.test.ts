// Where answers take longer than anybody thought, a primary is elected all the same: in simulated time.
import { expect, test } from 'vitest';
import { World } from '../simulation/world.js';

const seeds = Array.from({ length: 20 }, (_, index) => index + 1);

test.each([
  ['the network', { delayMs: 100, storeMs: 0 }],
  ['the coordinator', { delayMs: 0.5, storeMs: 700 }],
  ['both', { delayMs: 150, storeMs: 300 }],
])('%s is slow: a dead primary is replaced', (_, slow) => {
  const took = seeds.map((seed) => {
    const world = new World({
      seed,
      nodes: 3,
      rule: { level: 'flushed', any: 1 },
      settings: { suspectMs: 1000 },
    });
    world.run(1000);
    Object.assign(world, slow);
    world.run(1000);
    const before = world.primary?.id;
    if (before === undefined) throw new Error(`seed ${seed}: nobody began`);
    world.node(before).crash(false, 1);
    const at = world.agenda.now;
    while (world.primary === undefined && world.agenda.now - at < 60_000) world.run(50);
    return world.agenda.now - at;
  });
  expect(Math.max(...took)).toBeLessThan(15_000);
});

import { World } from './world.js';

/**
 * Hours without a fault, but with all that is not one: messages that take up to 195 ms, event loops that stand still for
 * 200 ms. @returns the elections that there were after the first primary
 */
export function runJitter(seed: number, simulatedMs: number, fanOut: number): readonly string[] {
  const world = new World({ seed, nodes: 3, rule: { level: 'flushed', any: 1 }, fanOut });
  world.run(1000);
  const before = world.elections.length;
  const { random } = world;
  const names = [...world.nodes.keys()];
  while (world.agenda.now < simulatedMs) {
    world.delayMs = random.pick([0.3, 1, 5, 130]);
    const node = world.node(random.pick(names));
    if (random.chance(0.5)) node.jsPausedUntil = world.agenda.now + 200;
    world.run(random.between(10, 400));
    world.delayMs = 0.5;
    world.run(random.between(100, 2000));
    // Hours of appends would fill the memory.
    world.appending = random.chance(0.05);
  }
  return world.elections.slice(before);
}

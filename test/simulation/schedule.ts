import type { CommitRule } from '../../src/engine/options.js';
import { Violation } from './checker.js';
import type { SimNode } from './node.js';
import { type Mutation, World } from './world.js';

export interface Outcome {
  readonly seed: number;
  /** What went wrong; undefined if nothing did. */
  readonly problem: string | undefined;
  readonly faults: readonly string[];
  readonly acknowledged: number;
  readonly takeOvers: number;
  readonly simulatedMs: number;
}

const settleMsMax = 12_000;

/** One life of a cluster, with whatever the seed has in store for it. */
export function runSchedule(
  seed: number,
  how: { mutations?: ReadonlySet<Mutation>; trace?: (line: string) => void } = {},
): Outcome {
  const shape = pickShape(seed);
  const faults: string[] = [];
  const world = new World({ seed, ...shape, ...how });
  let problem: string | undefined;
  try {
    world.run(700);
    const { random } = world;
    world.delayMs = random.pick([0.3, 1, 5]);
    world.loss = random.pick([0, 0, 0.02, 0.2]);
    world.doubling = random.pick([0, 0.05]);
    const count = 1 + random.below(5);
    for (let i = 0; i < count; i++) {
      faults.push(inject(world, shape.rule));
      how.trace?.(`${world.agenda.now.toFixed(1)} fault: ${faults.at(-1)}`);
      world.run(random.pick([5, 50, 200, 600, 1200]) * random.next());
    }
    world.run(random.below(1500));
    calm(world);
    problem = settle(world);
  } catch (error) {
    if (!(error instanceof Violation))
      throw new Error(`seed ${seed}: ${(error as Error).stack}`, { cause: error });
    problem = error.message;
  }
  return {
    seed,
    problem,
    faults,
    acknowledged: world.checker.acknowledged.length,
    takeOvers: world.elections.length,
    simulatedMs: world.agenda.now,
  };
}

function pickShape(seed: number): { nodes: number; rule: CommitRule; fanOut: number } {
  const nodes = [3, 3, 3, 4, 5][seed % 5] as number;
  const any = nodes > 3 && (seed >> 4) % 2 === 1 ? 2 : 1;
  const rules: CommitRule[] = [
    { level: 'flushed', any },
    { level: 'flushed', any },
    { level: 'flushed', any: nodes > 3 ? 2 : 1, ownDisk: false },
    { level: 'received', any },
    { level: 'async' },
  ];
  return {
    nodes,
    rule: rules[(seed >> 6) % rules.length] as CommitRule,
    fanOut: [4, 1, 2, 4][(seed >> 2) % 4] as number,
  };
}

/** Everything is repaired. */
function calm(world: World): void {
  world.heal();
  world.loss = world.doubling = 0;
  world.delayMs = 0.5;
  world.store.paused = false;
  for (const node of world.nodes.values()) {
    node.diskMs = 2;
    if (node.failed) node.crash(false, 1);
    if (!node.alive) node.start();
  }
}

function settle(world: World): string | undefined {
  const until = world.agenda.now + settleMsMax;
  let why: string | undefined = 'nothing was looked at';
  while (world.agenda.now < until && why !== undefined) {
    world.run(100);
    why = world.unwell();
  }
  return why === undefined ? undefined : `not well after ${settleMsMax} ms of calm: ${why}`;
}

function inject(world: World, rule: CommitRule): string {
  const { random } = world;
  const names = [...world.nodes.keys()];
  const primary = world.primary?.id;
  const victim = primary !== undefined && random.chance(0.5) ? primary : random.pick(names);
  const node = world.node(victim);
  const later = (low: number, high: number, run: () => void) =>
    world.agenda.in(random.between(low, high), run);
  switch (random.below(14)) {
    case 0:
    case 1:
    case 2: {
      if (!mayLose(world, rule)) return 'nothing';
      const silently = random.chance(0.4);
      node.crash(silently, random.pick([0, 0.5, 1]));
      if (random.chance(0.7)) later(5, 2500, () => restart(node));
      return `${victim} ${silently ? 'loses power' : 'is killed'}`;
    }
    case 3: {
      const ms = random.pick([30, 200, 400, 1500, 3000]);
      node.pausedUntil = world.agenda.now + ms;
      return `${victim} stands still for ${ms} ms`;
    }
    case 4: {
      const ms = random.pick([200, 1000, 3000]);
      node.jsPausedUntil = world.agenda.now + ms;
      return `the event loop of ${victim} stands still for ${ms} ms`;
    }
    case 5: {
      for (const other of names) {
        if (other === victim) continue;
        world.cut(victim, other);
        world.cut(other, victim);
      }
      const alone = random.chance(0.6);
      if (alone) world.isolateFromCoordinator(victim);
      if (random.chance(0.5)) later(20, 2500, () => world.heal());
      return `${victim} is cut off${alone ? ', from the coordinator, too' : ''}`;
    }
    case 6: {
      const other = random.pick(names.filter((name) => name !== victim));
      world.cut(victim, other);
      if (random.chance(0.5)) world.cut(other, victim);
      if (random.chance(0.5)) later(20, 2500, () => world.heal());
      return `nothing passes from ${victim} to ${other}`;
    }
    case 7: {
      if (random.chance(0.5)) world.stopCoordinator();
      else world.isolateFromCoordinator(victim);
      if (random.chance(0.6)) later(20, 3000, () => world.heal());
      return 'the coordinator is gone';
    }
    case 8: {
      node.diskMs = random.pick([20, 100, 400]);
      later(100, 2000, () => {
        node.diskMs = 2;
      });
      return `the disk of ${victim} is slow`;
    }
    case 9: {
      if (!mayLose(world, rule)) return 'nothing';
      node.failed = true;
      node.demote();
      node.upstream?.end();
      for (const session of [...node.downstreams]) session.end();
      return `the disk of ${victim} is full`;
    }
    case 10: {
      const to = random.pick(names);
      world.command(random.pick(names.filter((name) => world.node(name).alive).concat(victim)), {
        type: 'switchover',
        ...(random.chance(0.5) && { to }),
      });
      return `switchover${to}`;
    }
    case 12: {
      if (rule.level === 'received') return 'nothing';
      for (const each of world.nodes.values()) {
        each.crash(true, 0);
        later(5, 100, () => restart(each));
      }
      if (primary === undefined) return 'everybody loses power';
      // Before it comes back the others may have gone on.
      world.node(primary).pausedUntil = world.agenda.now + random.pick([0, 2000, 4000]);
      return 'everybody loses power';
    }
    case 11: {
      world.command(victim, { type: 'failover', to: random.pick(names), acceptDataLoss: false });
      return 'failover by hand';
    }
    default: {
      const ms = random.pick([5000, 60_000]);
      world.jumpWallClock(victim, ms);
      return `the wall clock of ${victim} goes back by ${ms} ms`;
    }
  }
}

const losses = new WeakMap<World, number>();

/** What only memory holds may be lost once: with `received` the end of one process is what the cluster must bear. */
function mayLose(world: World, rule: CommitRule): boolean {
  const before = losses.get(world) ?? 0;
  losses.set(world, before + 1);
  return rule.level !== 'received' || before === 0;
}

function restart(node: SimNode): void {
  if (!node.alive) node.start();
}

import {
  array,
  assert,
  boolean,
  constantFrom,
  integer,
  nat,
  property,
  record,
  uniqueArray,
} from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  type Dispatch,
  type DispatchSettings,
  dispatch,
  matchesRail,
  noDispatch,
  type RailFacts,
} from '../../src/cluster/dispatcher.js';
import { dispatchSettings } from '../../src/engine/options.js';

const settings: DispatchSettings = dispatchSettings();
const tickMs = 100;

interface Rail {
  name: string;
  transport?: 'tcp' | 'verbs';
  near?: boolean;
  speedMbps?: number;
  up?: boolean;
  rttUs?: number;
  lossPerSecond?: number;
}

/** The data plane as the dispatcher sees it: moves when told to, and by itself when what carries the session is gone. */
class Model {
  readonly rails: Required<Rail>[];
  carry: string[];
  unwanted = '';
  nowMs = 0;
  moves = 0;
  last: Dispatch = { state: noDispatch, order: [], carry: [], why: '', verdicts: [] };
  readonly whys: string[] = [];
  readonly #settings: DispatchSettings;
  readonly #lost = new Map<string, number>();
  readonly #failures = new Map<string, number>();

  constructor(rails: readonly Rail[], carry: readonly string[], changed: Partial<DispatchSettings> = {}) {
    this.rails = rails.map((rail) => ({
      transport: 'verbs',
      near: true,
      speedMbps: 0,
      up: true,
      rttUs: 100,
      lossPerSecond: 0,
      ...rail,
    }));
    this.carry = [...carry];
    this.#settings = { ...settings, ...changed };
  }

  rail(name: string): Required<Rail> {
    return this.rails.find((rail) => rail.name === name) as Required<Rail>;
  }

  tick(): Dispatch {
    this.nowMs += tickMs;
    if (this.carry.some((name) => !this.rail(name).up)) {
      for (const name of this.carry) {
        if (!this.rail(name).up) this.#failures.set(name, (this.#failures.get(name) ?? 0) + 1);
      }
      const next = [...this.last.order, ...this.rails.map(({ name }) => name)].find(
        (name) => this.rail(name).up,
      );
      this.carry = next === undefined ? [] : [next];
      this.moves++;
      this.whys.push('failed');
    }
    for (const { name, lossPerSecond } of this.rails)
      this.#lost.set(name, (this.#lost.get(name) ?? 0) + (lossPerSecond * tickMs) / 1000);
    const facts = this.rails.map(
      ({ name, transport, near, speedMbps, up, rttUs }): RailFacts => ({
        name,
        transport,
        near,
        speedMbps,
        planned: true,
        unwanted: name === this.unwanted,
        carries: this.carry.includes(name),
        spare: up,
        roundTripUs: up ? rttUs : undefined,
        retransmits: this.#lost.get(name) ?? 0,
        failures: this.#failures.get(name) ?? 0,
        problem: up ? undefined : 'connection refused',
      }),
    );
    this.last = dispatch(this.last.state, facts, this.nowMs, this.#settings);
    if (this.last.carry.length > 0 && this.last.carry.join() !== [...this.carry].sort().join()) {
      this.carry = [...this.last.carry];
      this.moves++;
      this.whys.push(this.last.why);
    }
    return this.last;
  }

  run(ms: number, each?: () => void): void {
    for (const end = this.nowMs + ms; this.nowMs < end; ) {
      each?.();
      this.tick();
    }
  }

  /** Until `condition`, at most so long; how long it took. */
  until(condition: () => boolean, mostMs: number): number {
    const from = this.nowMs;
    while (!condition() && this.nowMs - from < mostMs) this.tick();
    return this.nowMs - from;
  }
}

describe('what is preferred', () => {
  test.each<[string, Rail, Rail]>([
    ['RDMA over TCP', { name: 'x', transport: 'verbs' }, { name: 'y', transport: 'tcp' }],
    ['RDMA that is far over TCP that is near', { name: 'x', near: false }, { name: 'y', transport: 'tcp' }],
    ['near over far', { name: 'x' }, { name: 'y', near: false }],
    ['faster over slower', { name: 'x', speedMbps: 100_000 }, { name: 'y', speedMbps: 25_000 }],
  ])('%s', (_, better, worse) => {
    const model = new Model([worse, better], ['y']);
    model.run(settings.returnMs - tickMs);
    expect(model.carry).toEqual(['y']);
    model.run(3 * tickMs);
    expect(model.carry).toEqual(['x']);
    expect(model.last.order).toEqual(['x', 'y']);
    expect(model.moves).toBe(1);
  });

  test('what is pinned, as long as it is up', () => {
    const model = new Model([{ name: 'verbs:a@h:1' }, { name: 'tcp@h:1', transport: 'tcp' }], ['tcp@h:1'], {
      pin: ['tcp@*'],
    });
    model.run(60_000);
    expect(model.carry).toEqual(['tcp@h:1']);
    model.rail('tcp@h:1').up = false;
    model.tick();
    expect(model.carry).toEqual(['verbs:a@h:1']);
    model.rail('tcp@h:1').up = true;
    expect(model.until(() => model.carry[0] === 'tcp@h:1', 120_000)).toBeGreaterThanOrEqual(
      settings.returnMs,
    );
  });

  test('what is excluded is left at once, for whatever is there', () => {
    const model = new Model([{ name: 'a' }, { name: 'b', transport: 'tcp', near: false }], ['a']);
    model.run(1000);
    model.unwanted = 'a';
    model.tick();
    expect(model.carry).toEqual(['b']);
    expect(model.whys).toEqual(['a is excluded']);
  });

  test('patterns', () => {
    expect(matchesRail('verbs:*', 'verbs:rxe0@10.0.0.2:7400')).toBe(true);
    expect(matchesRail('*@10.0.0.2:*', 'verbs:rxe0@10.0.0.2:7400')).toBe(true);
    expect(matchesRail('tcp@10.0.0.2:7400', 'tcp@10.0.0.2:7400')).toBe(true);
    expect(matchesRail('tcp@10.0.0.2', 'tcp@10.0.0.2:7400')).toBe(false);
    expect(matchesRail('tcp@10.0.0.*', 'tcp@10x0.0.2:7400')).toBe(false);
  });
});

describe('striping', () => {
  test('over all that are equally good, up to four', () => {
    const rails = ['a', 'b', 'c', 'd', 'e'].map((name) => ({ name }));
    const model = new Model(rails, ['a']);
    model.run(settings.returnMs + tickMs);
    expect(model.carry).toEqual(['a', 'b', 'c', 'd']);
    expect(model.whys).toEqual(['4 equal rails are well: striped']);
    model.run(60_000);
    expect(model.moves).toBe(1);
  });

  test('a lane that fails leaves the others, and comes back when it has been well', () => {
    const model = new Model([{ name: 'a' }, { name: 'b' }], ['a']);
    model.run(settings.returnMs + tickMs);
    model.rail('b').up = false;
    model.tick();
    expect(model.carry).toEqual(['a']);
    model.run(5000);
    model.rail('b').up = true;
    // Once it has failed its time is doubled.
    expect(model.until(() => model.carry.length === 2, 60_000)).toBeGreaterThan(
      2 * settings.returnMs - 2 * tickMs,
    );
  });

  test('not where it is not wanted', () => {
    const model = new Model([{ name: 'a' }, { name: 'b' }], ['b'], { stripe: false });
    model.run(60_000);
    expect(model.carry).toEqual(['b']);
    expect(model.moves).toBe(0);
  });
});

describe('a rail that degrades', () => {
  test('by 5 ms of delay is left within 2 s, with the reason', () => {
    const model = new Model([{ name: 'a' }, { name: 'b' }], ['a'], { stripe: false });
    model.run(5000);
    model.rail('a').rttUs += 10_000;
    expect(model.until(() => model.carry[0] === 'b', 10_000)).toBeLessThanOrEqual(2000);
    expect(model.last.why || model.whys[0]).toMatch(/^a is degraded: round trip .* ms, over 1\.3 ms$/);
    expect(model.tick().verdicts.find(({ name }) => name === 'a')).toMatchObject({ part: 'spare' });
  });

  test('even for TCP, if that is faster now', () => {
    const model = new Model([{ name: 'a' }, { name: 'b', transport: 'tcp', rttUs: 200 }], ['a']);
    model.run(5000);
    model.rail('a').rttUs = 10_000;
    model.run(2000);
    expect(model.carry).toEqual(['b']);
    model.rail('a').rttUs = 100;
    model.run(2 * settings.returnMs + 3000);
    expect(model.carry).toEqual(['a']);
  });

  test('by packets that are lost', () => {
    const model = new Model([{ name: 'a' }, { name: 'b' }], ['a'], { stripe: false });
    model.run(5000);
    model.rail('a').lossPerSecond = 200;
    model.run(2000);
    expect(model.carry).toEqual(['b']);
    expect(model.whys[0]).toMatch(/sent again/);
  });

  test('two that lose packets only while they are used: it comes to rest', () => {
    const model = new Model([{ name: 'a' }, { name: 'b' }], ['a'], { stripe: false });
    model.run(10 * 60_000, () => {
      for (const rail of model.rails) rail.lossPerSecond = model.carry.includes(rail.name) ? 100 : 0;
    });
    expect(model.moves).toBeLessThanOrEqual(8);
  });

  test('a short spike is borne', () => {
    const model = new Model([{ name: 'a' }, { name: 'b' }], ['a'], { stripe: false });
    model.run(5000);
    for (let spike = 0; spike < 20; spike++) {
      model.rail('a').rttUs = 50_000;
      model.run(300);
      model.rail('a').rttUs = 100;
      model.run(3000);
    }
    expect(model.moves).toBe(0);
  });
});

test('at the threshold it does not flap: ten minutes of round trips around it', () => {
  let seed = 1;
  const random = () => {
    seed = (Math.imul(seed, 1103515245) + 12345) & 0x7fffffff;
    return seed / 0x7fffffff;
  };
  const thresholdUs = 100 * settings.bandFactor + settings.bandMs * 1000;
  for (const swingMs of [200, 1000, 5000, 20_000]) {
    const model = new Model([{ name: 'a' }, { name: 'b', transport: 'tcp' }], ['a']);
    model.run(10 * 60_000, () => {
      const swing = Math.sin((2 * Math.PI * model.nowMs) / swingMs) * 0.2;
      model.rail('a').rttUs = thresholdUs * (1 + swing + (random() - 0.5) * 0.4);
    });
    expect(model.moves, `${swingMs} ms`).toBeLessThanOrEqual(2);
  }
});

test('a rail that comes and goes is used less and less', () => {
  const model = new Model([{ name: 'a' }, { name: 'b', transport: 'tcp' }], ['a']);
  model.run(60 * 60_000, () => {
    // Well for 15 s, gone for 5.
    model.rail('a').up = model.nowMs % 20_000 < 15_000;
  });
  // As it would be without hold-down: 360 moves.
  expect(model.moves).toBeLessThanOrEqual(8);
});

test('properties: what carries is up if anything is, and settles when nothing changes', () => {
  const rail = record({
    name: constantFrom('a', 'b', 'c', 'd', 'e', 'f'),
    transport: constantFrom('tcp' as const, 'verbs' as const),
    near: boolean(),
    speedMbps: constantFrom(0, 10_000, 100_000),
    rttUs: integer({ min: 1, max: 20_000 }),
    up: boolean(),
  });
  const change = record({ rail: nat(5), up: boolean(), rttUs: integer({ min: 1, max: 20_000 }) });
  assert(
    property(
      uniqueArray(rail, { minLength: 1, maxLength: 6, selector: ({ name }) => name }),
      array(change, { maxLength: 40 }),
      (rails, changes) => {
        const model = new Model(rails, [(rails[0] as { name: string }).name]);
        for (const { rail: index, up, rttUs } of changes) {
          Object.assign(model.rails[index % model.rails.length] as Rail, { up, rttUs });
          model.run(700);
          const anyUp = model.rails.some((one) => one.up);
          expect(model.carry.length > 0).toBe(anyUp);
          for (const name of model.carry) expect(model.rail(name).up).toBe(true);
          expect(new Set(model.last.order)).toEqual(new Set(model.rails.map(({ name }) => name)));
        }
        model.run(settings.returnMs * 2 ** 6 + 60_000);
        const { moves } = model;
        model.run(60_000);
        expect(model.moves).toBe(moves);
        // And what it settles on is as good as anything that is up and not degraded.
        const best = model.last.order.find((name) => model.rail(name).up);
        if (best !== undefined) expect(model.carry).toContain(best);
      },
    ),
    { numRuns: 40 },
  );
});

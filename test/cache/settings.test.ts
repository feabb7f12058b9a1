import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type CacheOptions, cacheSettings } from '../../src/cache/settings.js';
import { WalshipError } from '../../src/engine/errors.js';

function problemsOf(slots: number, options: CacheOptions): string[] {
  try {
    cacheSettings(slots, options);
    return [];
  } catch (error) {
    if (!(error instanceof WalshipError)) throw error;
    expect(error.code).toBe('WALSHIP_ERR_CONFIG');
    const { problems } = error.details as { problems: string[] };
    for (const problem of problems) expect(error.message).toContain(problem);
    return problems;
  }
}

describe('the settings of the cache', () => {
  it('all have defaults that are good for any number of slots', () => {
    fc.assert(
      fc.property(fc.integer({ min: 4, max: 2 ** 24 }), (slots) => {
        const settings = cacheSettings(slots);
        expect(settings).toMatchObject({
          firstWindowMs: 5000,
          reviewMs: 100,
          fillPercent: 90,
          evictPercent: 10,
          fifoShare: 0.5,
          adaptive: true,
          lruMarginPercent: 2,
          intervalMs: 10,
        });
        expect(settings.victims).toBe(Math.min(Math.floor(slots / 2), 8192));
      }),
    );
  });

  it('are each checked', () => {
    const nan = Number.NaN;
    const bad: Record<keyof CacheOptions, unknown[]> = {
      firstWindowMs: [-1, nan, Number.POSITIVE_INFINITY, '5'],
      reviewMs: [0, -1, nan, Number.POSITIVE_INFINITY],
      fillPercent: [0, 101, nan, '90'],
      evictPercent: [0, 100.5, nan],
      fifoShare: [0, 1, -0.5, nan, '0.5'],
      adaptive: [1, 'yes'],
      lruMarginPercent: [-1, 101, nan],
      victims: [0, 65, 1.5, nan],
      intervalMs: [0, 0.5, 2 ** 31, nan],
    };
    for (const [name, values] of Object.entries(bad)) {
      for (const value of values) {
        const problems = problemsOf(64, { [name]: value });
        expect(problems, `${name} = ${value}`).toHaveLength(1);
        expect(problems[0]).toMatch(new RegExp(`^${name} must be .*, not `));
      }
    }
    for (const slots of [3, 0, -1, 4.5, nan, 2 ** 24 + 1])
      expect(problemsOf(slots, {})[0]).toMatch(/^slots must be/);
    expect(problemsOf(64, { fifoshare: 0.5 } as CacheOptions)).toEqual([
      'fifoshare is not a setting of the cache',
    ]);
  });

  it('report every problem at once', () => {
    const problems = problemsOf(2, {
      reviewMs: 0,
      fillPercent: 0,
      evictPercent: 101,
      fifoShare: 2,
      victims: 0,
    });
    expect(problems.map((problem) => problem.split(' ')[0])).toEqual([
      'slots',
      'reviewMs',
      'fillPercent',
      'evictPercent',
      'fifoShare',
      'victims',
    ]);
  });
});

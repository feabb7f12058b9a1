import { defineConfig } from 'vitest/config';

// test/softroce: runs in the Soft-RoCE lab only, through scripts/softroce run --nodes 3 -- … (scripts/test does).
export default defineConfig({
  // All that the guest can write to is /tmp.
  cacheDir: '/tmp/vitest',
  test: {
    include: ['test/softroce/**/*.test.ts'],
    pool: 'forks',
    // One after the other: the tests of a file cut wires that another's nodes use.
    fileParallelism: false,
    testTimeout: 60_000,
    hookTimeout: 120_000,
  },
});

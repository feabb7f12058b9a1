import { configDefaults, defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    // Those run in virtual machines only: vitest.softroce.config.ts.
    exclude: [...configDefaults.exclude, 'test/softroce/**'],
    // The addon owns threads and mapped memory: a process of its own for every file.
    pool: 'forks',
    // Files start clusters of processes that keep real time: two of them at once would take each other's processors.
    fileParallelism: false,
    testTimeout: 20_000,
    hookTimeout: 30_000,
  },
});

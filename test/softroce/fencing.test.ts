// The unit tests' races of a deposed primary's RDMA writes against a promise; more of them by hand, as
// native/test/engine/fencing.cc says.
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';

const program = fileURLToPath(new URL('../../build/native/walship-tests', import.meta.url));

test('nothing of a deposed primary lands behind a promise: 20 races over verbs', async (context) => {
  if (!existsSync(program)) context.skip('the native unit tests are not built: run scripts/native release');
  const { stdout } = await promisify(execFile)(program, ['--test-case=verbs lab: fencing*'], {
    env: { ...process.env, WALSHIP_FENCE_RACES: '20' },
  });
  expect(stdout).toMatch(/20 races in /);
  expect(stdout).toContain('1 passed | 0 failed');
});

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { RoleHook, type RoleTaken } from '../../src/node/hook.js';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'walship-hook-'));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

function script(text: string): string {
  const file = join(dir, 'hook');
  writeFileSync(file, `#!/bin/sh\ncd ${dir}\n${text}\n`, { mode: 0o755 });
  return file;
}

const taken = (role: RoleTaken['role'], epoch: bigint) =>
  ({ role, epoch, node: 'a b', cluster: 'c' }) as const;

test('one run after the other, in order, with what it is told; not by a shell', async () => {
  const problems: string[] = [];
  const hook = new RoleHook(
    script(
      '[ "$2" = 1 ] && sleep 0.3\necho "$#:$1:$2:$3:$WALSHIP_ROLE:$WALSHIP_NODE:$WALSHIP_CLUSTER" >> out',
    ),
    5000,
    (message) => problems.push(message),
  );
  for (const epoch of [1n, 2n, 3n]) hook.run(taken(epoch === 2n ? 'primary' : 'standby', epoch));
  expect(hook.last).toBe('standby');
  await hook.idle();
  expect(readFileSync(join(dir, 'out'), 'utf8').trimEnd().split('\n')).toEqual([
    '3:standby:1:a b:standby:a b:c',
    '3:primary:2:a b:primary:a b:c',
    '3:standby:3:a b:standby:a b:c',
  ]);
  expect(problems).toEqual([]);
});

test('failures are told and end nothing; too long a run is ended with what it has started', async () => {
  const problems: string[] = [];
  const hook = new RoleHook(
    script(
      'case $2 in 1) echo no address >&2; exit 3;; 2) sleep 60 & echo $! > child; sleep 60;; esac\necho $2 >> out',
    ),
    500,
    (message) => problems.push(message),
  );
  for (const epoch of [1n, 2n, 3n]) hook.run(taken('standby', epoch));
  await hook.idle();
  expect(problems).toEqual([
    expect.stringMatching(/hook standby 1 a b: exit code 3: no address$/),
    expect.stringMatching(/hook standby 2 a b: was ended after 500 ms$/),
  ]);
  expect(readFileSync(join(dir, 'out'), 'utf8')).toBe('3\n');
  const child = Number(readFileSync(join(dir, 'child'), 'utf8'));
  await expect.poll(() => alive(child)).toBe(false);

  const missing = new RoleHook(join(dir, 'nowhere'), 500, (message) => problems.push(message));
  missing.run(taken('primary', 4n));
  await missing.idle();
  expect(problems[2]).toMatch(/ENOENT/);
});

/** A process that has ended and is waited for by nobody yet counts as ended. */
function alive(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}

// walship rails, against two nodes with two ways between them.
import { expect, test, vi } from 'vitest';
import { NodeCommand, scratch, until, walship } from './support.js';

vi.setConfig({ testTimeout: 60_000 });

interface Shown {
  readonly upstream: string;
  readonly rails: readonly { readonly name: string; readonly part: string; readonly why: string }[];
}

test('rails are shown with the reason for each, chosen by hand, and left to the configuration again', async () => {
  const dir = scratch();
  const a = await NodeCommand.start(dir, 'a', 'role = "primary"', [], '[rails]\nlisten = ["127.0.0.2:0"]');
  const b = await NodeCommand.start(
    dir,
    'b',
    `upstream = "127.0.0.1:${a.port}"`,
    [],
    '[rails]\nreturn_ms = "100ms"\nstripe = false',
  );
  const rails = async (...args: string[]): Promise<Shown> =>
    JSON.parse((await walship(['rails', '--json', '--dir', b.dir, ...args])).stdout);
  const carrying = async () =>
    (await rails()).rails.filter(({ part }) => part === 'carries').map(({ name }) => name);

  await until('both are up', async () => {
    const { rails: known } = await rails();
    return known.length === 2 && known.every(({ part }) => part !== 'down');
  });
  expect(await carrying()).toEqual([`tcp@127.0.0.1:${a.port}`]);
  const { stdout, code } = await walship(['rails', '--dir', b.dir]);
  expect(code).toBe(0);
  expect(stdout).toMatch(/^rails to a\nRAIL +PART +ROUND TRIP .*WHY\ntcp@127/);
  expect(stdout).toMatch(/^tcp@127\.0\.0\.2:\d+ +spare .* µs .* TCP, near$/m);

  await rails('--pin', 'tcp@127.0.0.2:*');
  await until('the pinned one is used', async () => (await carrying()).join().startsWith('tcp@127.0.0.2:'));
  await rails('--exclude', '*@127.0.0.2:*', '--pin', 'nothing');
  await until(
    'the excluded one is left',
    async () => (await carrying()).join() === `tcp@127.0.0.1:${a.port}`,
  );
  expect((await rails()).rails.find(({ name }) => name.startsWith('tcp@127.0.0.2'))?.part).toBe('excluded');
  const auto = await rails('--auto');
  expect(auto.upstream).toBe('a');
  await until('it is there again', async () =>
    (await rails()).rails.every(({ part }) => part === 'carries' || part === 'spare'),
  );

  const both = await walship(['rails', '--dir', b.dir, '--auto', '--pin', 'x']);
  expect(both.code).toBe(2);
  expect(both.stderr).toContain('--auto takes back');
  const primary = await walship(['rails', '--dir', a.dir]);
  expect(primary.stdout).toContain('this node has no upstream');

  const journal = await walship(['journal', '--dir', b.dir, '--json']);
  const events = journal.stdout
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as { event: string; message: string });
  const moves = events.filter(({ event }) => event === 'rail-changed').map(({ message }) => message);
  expect(moves[0]).toMatch(/the link to a moved: tcp@127\.0\.0\.1:\d+ → tcp@127\.0\.0\.2:\d+: .*pinned/);
  expect(moves[1]).toMatch(/is excluded$/);
  expect(events.filter(({ event }) => event === 'rails-chosen')).toHaveLength(3);
});

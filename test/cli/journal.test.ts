// What a cluster went through, told by the journals of its nodes, against what was done to it.
import { appendFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test, vi } from 'vitest';
import type { JournalEntry } from '../../src/consistency/journal.js';
import { NodeCommand, scratch, until, walship, walshipUntil } from './support.js';

vi.setConfig({ testTimeout: 120_000 });
const names = ['a', 'b', 'c'];

const start = (dir: string, name: string) =>
  NodeCommand.start(
    dir,
    name,
    'admin_listen = "127.0.0.1:0"\ncommit_rule = { level = "flushed", any = 1 }',
    [],
    `[failover]
listen = "127.0.0.1:0"
bootstrap = ${name === 'a'}
suspect_ms = "1s"
lease_ms = "4s"
[coordinator]
kind = "embedded"
path = "coordinator"`,
  );

type Line = Pick<JournalEntry, 'node' | 'event' | 'message' | 'facts'> & { epoch: string; clock: string };

async function journal(dir: string, name: string, ...args: string[]) {
  const { stdout, stderr, code } = await walship(['journal', '--dir', join(dir, name), '--json', ...args]);
  expect(code).toBe(0);
  const lines = stdout
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line) as Line);
  return { lines, stderr };
}

test('the journal of kills and hand-overs, merged, tells every change of role, in order', async () => {
  const dir = scratch();
  const nodes = new Map<string, NodeCommand>();
  for (const name of names) nodes.set(name, await start(dir, name));
  const reigns: string[] = ['a'];
  const chief = () => reigns.at(-1) as string;
  const agreed = (primary: string | undefined) =>
    until(`all follow ${primary ?? 'somebody'}`, async () => {
      const said = await Promise.all(
        [...nodes.keys()].map(async (name) =>
          JSON.parse((await walship(['status', '--json', '--dir', join(dir, name)])).stdout),
        ),
      );
      const seen = new Set(said.map(({ failover }) => failover?.primary?.node));
      const well = said.every(
        ({ health, failover }) =>
          health.ok &&
          failover.members.filter((each: { connected: boolean }) => each.connected).length === nodes.size,
      );
      if (!well || seen.size !== 1 || (primary !== undefined && !seen.has(primary))) return false;
      if (primary === undefined) reigns.push([...seen][0]);
      return true;
    });
  await agreed('a');
  for (const what of ['kill', 'switchover', 'kill', 'switchover', 'kill']) {
    const old = chief();
    if (what === 'kill') {
      await nodes.get(old)?.stop('SIGKILL');
      nodes.delete(old);
      await agreed(undefined);
      nodes.set(old, await start(dir, old));
      await agreed(chief());
    } else {
      const to = names[(names.indexOf(old) + 1) % names.length] as string;
      await walship(['switchover', '--to', to, '--dir', join(dir, old)]);
      reigns.push(to);
      await agreed(to);
    }
  }

  const { lines, stderr } = await journal(dir, 'b');
  expect(stderr).toBe('');
  expect(new Set(lines.map(({ node }) => node))).toEqual(new Set(names));
  expect(lines.map(({ clock }) => BigInt(clock))).toEqual(
    lines.map(({ clock }) => BigInt(clock)).sort((x, y) => (x < y ? -1 : 1)),
  );
  // Played back, it gives who reigned, one epoch after the other: what was done.
  const told = lines.filter(({ event, facts }) => event === 'role' && facts?.['role'] === 'primary');
  expect(told.map(({ node }) => node)).toEqual(reigns);
  const epochs = told.map(({ facts }) => Number(facts?.['epoch']));
  expect([...epochs].sort((x, y) => x - y)).toEqual(epochs);
  expect(new Set(epochs).size).toBe(epochs.length);
  for (const [i, reign] of told.entries()) {
    if (i === 0) continue;
    // Before it somebody stood for it; and the others follow after it.
    const from = lines.indexOf(told[i - 1] as Line);
    const at = lines.indexOf(reign);
    const before = lines.slice(from, at);
    const cause =
      before.some(({ event, node }) => event === 'handed-over' && node === reigns[i - 1]) ||
      before.some(({ message }) =>
        message.includes(`node '${reign.node}' stands for primary in epoch ${epochs[i]}`),
      );
    expect(
      cause,
      `why ${reign.node} reigns in epoch ${epochs[i]}:\n${before.map(({ node, message }) => `${node}: ${message}`).join('\n')}`,
    ).toBe(true);
    const until = i + 1 < told.length ? lines.indexOf(told[i + 1] as Line) : lines.length;
    const followers = lines
      .slice(at, until)
      .filter(({ event, message }) => event === 'follow' && message.includes(`follows ${reign.node} `));
    expect(followers.length).toBeGreaterThan(0);
  }
  // A killed node's start is in its own journal, behind what it had written before.
  expect(lines.filter(({ event }) => event === 'starting')).toHaveLength(names.length + 3);

  const { lines: own } = await journal(dir, 'b', '--node', 'c');
  expect(new Set(own.map(({ node }) => node))).toEqual(new Set(['c']));
  const text = await walship(['journal', '--dir', join(dir, 'a'), '--since', '1h']);
  expect(text.stdout).toMatch(/^\d{4}-\d\d-\d\dT[\d:.]+Z {2}[abc] +epoch \d+ +0\/0 +/m);
  expect((await walship(['journal', '--dir', join(dir, 'a'), '--since', '1ms'])).stdout).toBe('');
  const wrong = await walship(['journal', '--dir', join(dir, 'a'), '--since', 'yesterday']);
  expect(wrong.code).toBe(2);
  expect(wrong.stderr).toContain('a span, such as 10min');

  const following = walshipUntil(
    ['journal', '--dir', join(dir, 'a'), '--follow', '--since', '10s'],
    /paused/,
  );
  await walship(['pause', '--dir', join(dir, 'a')]);
  expect(await following).toMatch(/ [abc] +epoch .*paused/);

  // Who cannot be asked is named; without a node the files are read; a damaged line is told.
  await nodes.get('c')?.stop('SIGKILL');
  expect((await journal(dir, 'a')).stderr).toMatch(/the journal of 'c' is missing here: no node answers/);
  const files = join(dir, 'c', 'journal');
  appendFileSync(join(files, readdirSync(files)[0] as string), 'x\n');
  const offline = await journal(dir, 'c');
  expect(new Set(offline.lines.map(({ node }) => node))).toEqual(new Set(['c']));
  expect(offline.stderr).toMatch(/no node answers.*; this is what its files say, and no other node's/);
  expect(offline.stderr).toMatch(/jsonl:\d+: this line is damaged/);
});

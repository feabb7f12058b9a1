// Wires are cut and rails chosen by hand while a node ships; then its journal is played back against what was done and seen.
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { readJournal } from '../../src/consistency/journal.js';
import { AdminClient } from '../../src/node/client.js';
import { defaultAdminSocket } from '../../src/node/config.js';
import { journalDir } from '../../src/node/node.js';
import { type Network, namespacesProblem, type SecondWay, tcpNetwork } from '../lib/network.js';
import { type RailDeed, type RailsSeen, unexplainedRails } from '../lib/replay-rails.js';
import { NodeCommand, scratch, until } from './support.js';

let network: Network;
beforeAll(() => {
  network = tcpNetwork(2);
});
afterAll(() => network.close());

const problem = namespacesProblem();
if (problem !== '')
  console.log(`skipped: the journal of rails: wires to cut need network namespaces: ${problem}`);

test.skipIf(problem !== '')(
  'the journal explains every change of rails, and a missing line is noticed',
  async () => {
    const dir = scratch();
    const ways: readonly SecondWay[] = [network, network.second as SecondWay];
    const hostOf = (index: number, way: number) => ways[way]?.address(index) as string;
    const start = (name: string, index: number, settings: string, args: readonly string[] = []) =>
      NodeCommand.start(
        dir,
        name,
        settings,
        args,
        `[rails]\nlisten = ["${hostOf(index, 1)}:0"]\nstripe = false\nreturn_ms = "300ms"`,
        { host: hostOf(index, 0), prefix: network.prefix(index) },
      );
    const a = await start('a', 0, 'role = "primary"', ['--stdin']);
    await start('b', 1, `upstream = "${hostOf(0, 0)}:${a.port}"`);
    const client = new AdminClient({ socket: defaultAdminSocket(join(dir, 'b')) });

    const deeds: RailDeed[] = [];
    const seen: RailsSeen[] = [];
    const look = async (): Promise<string[]> => {
      const from = Date.now();
      const { rails } = await client.rails();
      const carries = rails.filter(({ part }) => part === 'carries').map(({ name }) => name);
      // Between two sessions there is a moment without one.
      if (carries.length > 0) seen.push({ carries, from, until: Date.now() });
      return carries;
    };
    let over = false;
    const looking = (async () => {
      while (!over) {
        await look();
        a.write(Buffer.from('a line of the log\n'.repeat(100)));
        await sleep(20);
      }
    })();
    const spare = async (way: number) =>
      (await client.rails()).rails.some(
        ({ name, part }) => part !== 'down' && name.includes(`@${hostOf(0, way)}:`),
      );
    const does = async (kind: RailDeed['kind'], way: number, act: () => Promise<unknown>) => {
      const at = Date.now();
      await act();
      const rail = `@${hostOf(0, way)}:`;
      await until(`${rail} is ${kind}`, async () =>
        (await look()).every((name) => name.includes(rail) === (kind === 'pinned')),
      );
      deeds.push({ kind, rail, at, until: Date.now() });
    };
    const wayInUse = async () => ((await look())[0]?.includes(`@${hostOf(0, 0)}:`) ? 0 : 1);

    await until('both rails are up', async () => (await spare(0)) && spare(1));
    for (let round = 0; round < 6; round++) {
      const way = await wayInUse();
      await until('there is a spare link', () => spare(1 - way));
      await does('cut', way, async () => ways[way]?.cut(1));
      await ways[way]?.heal(1);
      await until('it is there again', () => spare(way));
    }
    const way = await wayInUse();
    await does('pinned', 1 - way, () => client.chooseRails({ pin: [`*@${hostOf(0, 1 - way)}:*`] }));
    await does('excluded', 1 - way, () =>
      client.chooseRails({ pin: [], exclude: [`*@${hostOf(0, 1 - way)}:*`] }),
    );
    over = true;
    await looking;

    const { entries } = readJournal(journalDir(join(dir, 'b')));
    expect(unexplainedRails(entries, deeds, seen)).toEqual([]);
    const changes = entries.filter(({ event }) => event === 'rail-changed');
    expect(changes.length).toBeGreaterThanOrEqual(8);
    for (const change of changes) {
      const without = entries.filter((entry) => entry !== change);
      expect(unexplainedRails(without, deeds, seen), `without ${change.message}`).not.toEqual([]);
    }
    for (const [index, change] of changes.slice(1).entries()) {
      const other = changes[index];
      const swapped = entries.map((entry) => (entry === change ? other : entry === other ? change : entry));
      expect(unexplainedRails(swapped as typeof entries, deeds, seen), `${change.message} first`).not.toEqual(
        [],
      );
    }
    console.log(`${changes.length} changes, ${deeds.length} deeds, ${seen.length} looks`);
  },
  60_000,
);

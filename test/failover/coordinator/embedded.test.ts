import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { type CoordinatorSettings, openCoordinator } from '../../../src/failover/coordinator/settings.js';
import { describeContract } from './contract.js';
import { clusterId, record } from './support.js';

const base = mkdtempSync(join(tmpdir(), 'walship-coordinator-'));
afterAll(() => rmSync(base, { recursive: true, force: true }));
let places = 0;
const fresh = () => ({ kind: 'embedded', path: join(base, String(places++), 'coordinator') }) as const;
const pathOf = (settings: CoordinatorSettings) => (settings as ReturnType<typeof fresh>).path;
const contentOf = (path: string) => {
  const token = readdirSync(path).find((name) => name.startsWith('current.')) ?? '';
  return join(path, token.replace('current', 'content'));
};

describeContract(
  'the embedded coordinator',
  async () => ({
    fresh,
    async cut(settings) {
      renameSync(pathOf(settings), `${pathOf(settings)}.away`);
    },
    async mend(settings) {
      renameSync(`${pathOf(settings)}.away`, pathOf(settings));
    },
    async spoil(settings, what, garbage) {
      const file = contentOf(pathOf(settings));
      const good = readFileSync(file, 'utf8');
      const state = JSON.parse(good);
      // As part of the document, or instead of it where it is not even JSON.
      const whole = JSON.stringify({ ...state, [what]: '@' }).replace('"@"', () => garbage);
      writeFileSync(file, /^[[{]/.test(garbage) ? whole : garbage);
      return { named: file, heal: async () => writeFileSync(file, good) };
    },
    async close() {},
  }),
  { wins: 120 },
);

describe('where the embedded coordinator keeps it', () => {
  const refusal = async (settings: CoordinatorSettings, cluster = clusterId) => {
    const error = await openCoordinator(settings, cluster).catch((thrown: Error) => thrown);
    expect(error).toMatchObject({ code: 'WALSHIP_ERR_COORDINATOR' });
    return (error as Error).message;
  };

  test('outlives its processes, says what it does not protect against, and is made once by many', async () => {
    const settings = fresh();
    const all = await Promise.all(Array.from({ length: 8 }, () => openCoordinator(settings, clusterId)));
    const won = await Promise.all(all.map((each, index) => each.swap(0n, record(`node-${index}`, 1n))));
    expect(won.filter((revision) => revision !== undefined)).toHaveLength(1);
    for (const each of all) await each.close();
    const again = await openCoordinator(settings, clusterId);
    expect((await again.read()).primary?.epoch).toBe(1n);
    expect(again.caveat).toMatch(/loss of the machine/);
    expect(readdirSync(join(pathOf(settings), '..'))).toEqual(['coordinator']);
    await again.close();
  });

  test('of another cluster, of something else, or no directory at all, is refused', async () => {
    const settings = fresh();
    await (await openCoordinator(settings, clusterId)).close();
    expect(await refusal(settings, 'another')).toMatch(/belongs to cluster contract, not another/);
    const foreign = fresh();
    mkdirSync(foreign.path, { recursive: true });
    writeFileSync(join(foreign.path, 'README'), 'not ours');
    expect(await refusal(foreign)).toMatch(/no token.*choose another path/);
    expect(await refusal({ kind: 'embedded', path: join(foreign.path, 'README') })).toMatch(/directory/);
  });

  test('is not made again while it is in use, and two tokens are not guessed between', async () => {
    const settings = fresh();
    const coordinator = await openCoordinator(settings, clusterId);
    const revision = (await coordinator.swap(0n, record('a', 1n))) as bigint;
    const token = readdirSync(settings.path).find((name) => name.startsWith('current.')) as string;
    const copy = join(settings.path, 'current.0.0123456789abcdef');
    writeFileSync(copy, '');
    await expect(coordinator.read()).rejects.toThrow(/2 tokens: .*current/);
    rmSync(copy);
    rmSync(join(settings.path, token.replace('current', 'content')));
    await expect(coordinator.read()).rejects.toThrow(/content\..* is missing/);
    rmSync(settings.path, { recursive: true });
    await expect(coordinator.swap(revision, record('a', 2n))).rejects.toThrow(/put it back/);
    expect(readdirSync(join(settings.path, '..'))).toEqual([]);
    await coordinator.close();
  });
});

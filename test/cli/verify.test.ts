// walship verify, against a running cluster whose files are damaged.
import { join } from 'node:path';
import { expect, test, vi } from 'vitest';
import { pageDamages, Segments } from '../consistency/damage.js';
import { Random } from '../simulation/random.js';
import { NodeCommand, scratch, until, walship } from './support.js';

vi.setConfig({ testTimeout: 60_000 });
const layout = { pageBytes: 64 * 1024, segmentPages: 16 };
const random = new Random(3);
const off = '[scrub]\nbytes_per_second = 0';

interface Outcome {
  readonly state: string;
  readonly pagesCompared: number;
  readonly findings: readonly { readonly page: number; readonly outcome: string; readonly source?: string }[];
}

const json = (text: string): Outcome => JSON.parse(text);

test('damage is told, repaired from the other node, and in the journal; what nobody has is isolated', async () => {
  const dir = scratch();
  const a = await NodeCommand.start(dir, 'a', 'role = "primary"', ['--stdin'], off);
  const b = await NodeCommand.start(dir, 'b', `upstream = "127.0.0.1:${a.port}"`, [], off);
  a.write(Buffer.from('x'.repeat(99).concat('\n').repeat(120_000)));
  const verify = (node: NodeCommand, ...args: string[]) => walship(['verify', '--dir', node.dir, ...args]);
  // More than their memory: what is damaged below is on disks alone.
  await until('b has it', async () => {
    const { stdout } = await walship(['status', '--json', '--dir', b.dir]);
    return BigInt(JSON.parse(stdout).positions.flushed) >= 12_000_000n;
  });

  const healthy = await verify(b);
  expect(healthy.stdout).toMatch(/^[0-9]+ pages .* compared with another node's; all in good order\n$/);
  expect(healthy.code).toBe(0);

  const segments = new Segments(b.dir, layout);
  const right = segments.read(4);
  pageDamages.flippedBit(segments, 4, random, layout);
  const told = await verify(b);
  expect(told.code).toBe(4);
  expect(told.stdout).toContain("repairable from 'a'");
  expect(told.stdout).toContain('1 in bad order, 0 repaired');
  const repaired = await verify(b, '--repair', '--json', '--rate', '0');
  expect(repaired.code).toBe(0);
  expect(json(repaired.stdout)).toMatchObject({
    state: 'done',
    findings: [{ page: 4, outcome: 'repaired', source: "'a'" }],
  });
  expect(segments.read(4)).toEqual(right);

  for (const node of [a, b]) pageDamages.zeroedPage(new Segments(node.dir, layout), 0, random, layout);
  const lost = await verify(b, '--repair');
  expect(lost.code).toBe(4);
  expect(lost.stdout).toMatch(
    /^0 +disk +isolated +the page does not verify, and no good copy .* 'a'; a copy is in .*scrub\/page-0{16}-/m,
  );

  const { stdout } = await walship(['journal', '--dir', b.dir, '--json']);
  const events = stdout
    .split('\n')
    .filter((line) => line.includes('"scrub-'))
    .map((line) => JSON.parse(line).event);
  expect(events).toEqual([
    ...['scrub-begun', 'scrub-ended'],
    ...['scrub-begun', 'scrub-damage', 'scrub-ended'],
    ...['scrub-begun', 'scrub-damage', 'scrub-repair', 'scrub-ended'],
    ...['scrub-begun', 'scrub-isolated', 'scrub-ended'],
  ]);

  expect((await walship(['verify', '--dir', join(dir, 'nobody')])).code).toBe(3);
  expect((await verify(b, '--rate', 'fast')).code).toBe(2);
});

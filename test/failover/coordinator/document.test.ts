import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { Document } from '../../../src/failover/coordinator/document.js';
import { assertOneChain, type Swap, Swapper } from './support.js';

const base = mkdtempSync(join(tmpdir(), 'walship-document-'));
afterAll(() => rmSync(base, { recursive: true, force: true }));

test('a writer that was stopped for long does not win, and takes nothing away', async () => {
  const path = join(base, 'stopped');
  const fast = await Document.open(path, '0');
  // Stopped again and again, at any instruction, while the other goes on.
  const slow = Swapper.ofDocument(path);
  await slow.started();
  const won: Swap[] = [];
  for (let round = 0; round < 100; round++) {
    slow.signal('SIGSTOP');
    for (let time = 0; time < 3; time++) {
      const seen = await fast.read();
      const revision = await fast.replace(seen, String(seen.revision + 1n));
      if (revision !== undefined) won.push({ expected: seen.revision, revision, epoch: revision });
    }
    slow.signal('SIGCONT');
    await new Promise((resolve) => setTimeout(resolve, (round * 7) % 11));
  }
  await slow.kill();
  expect(won.length).toBeGreaterThan(200);
  // It wins in its turns of a few milliseconds what the disk allows.
  expect(slow.won.length).toBeGreaterThan(20);
  assertOneChain([...won, ...slow.won], 1);
});

test('200 writers killed in the middle: it stays readable, and no edition that was won is lost', async () => {
  const path = join(base, 'killed');
  const document = await Document.open(path, '0');
  const kills = 200;
  const won: Swap[] = [];
  let started = 0;
  const lane = async () => {
    while (started < kills) {
      const number = started++;
      const writer = Swapper.ofDocument(path);
      await writer.started();
      await new Promise((resolve) => setTimeout(resolve, (number * 13) % 17));
      await writer.kill();
      won.push(...writer.won);
      const { revision, text } = await document.read();
      expect(text).toBe(String(revision));
      expect(revision).toBeGreaterThanOrEqual(writer.won.at(-1)?.revision ?? 0n);
    }
  };
  await Promise.all([lane(), lane(), lane(), lane(), lane()]);
  assertOneChain(won, kills);
  expect(won.length).toBeGreaterThan(kills);
  // What the killed left behind is cleared away by the next winner.
  const left = () => readdirSync(path).length;
  const before = left();
  expect(await document.replace(await document.read(), 'the end')).toBeDefined();
  expect(before).toBeGreaterThanOrEqual(2);
  expect(left()).toBe(2);
}, 60_000);

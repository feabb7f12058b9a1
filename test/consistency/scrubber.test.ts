// The scrubber by itself: what it changes and what not, how it goes on after a restart, and what other epochs leave behind.
import { copyFileSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Pages } from '../../src/consistency/pages.js';
import { Scrubber, type ScrubEvent, type ScrubSettings } from '../../src/consistency/scrubber.js';
import { Engine, type EngineOptions } from '../../src/index.js';
import { credentials, smallArena, smallLog } from '../lib/cluster.js';
import { Random } from '../simulation/random.js';
import { pageDamages, Segments } from './damage.js';

const layout = { pageBytes: smallLog.pageBytes, segmentPages: smallLog.segmentBytes / smallLog.pageBytes };
const random = new Random(7);
let base = '';
const engines: Engine[] = [];
const scrubbers: Scrubber[] = [];

beforeEach(() => {
  base = mkdtempSync('/dev/shm/walship-scrubber-');
});
afterEach(async () => {
  for (const scrubber of scrubbers.splice(0)) await scrubber.stop();
  for (const engine of engines.splice(0).toReversed()) await engine.close();
  rmSync(base, { recursive: true, force: true });
});

async function open(nodeId: string, log: EngineOptions['log'] = smallLog): Promise<Engine> {
  const options: EngineOptions = {
    dir: join(base, nodeId),
    nodeId,
    cluster: credentials,
    listen: '127.0.0.1:0',
    transport: 'tcp',
    log,
    arena: smallArena,
  };
  const engine = await Engine.open(options);
  engines.push(engine);
  return engine;
}

function scrubberOf(engine: Engine, settings?: ScrubSettings) {
  const events: ScrubEvent[] = [];
  const dir = join(base, engine.nodeId, 'scrub');
  const scrubber = new Scrubber(new Pages(engine), { dir, settings, onEvent: (event) => events.push(event) });
  scrubbers.push(scrubber);
  return { scrubber, events, dir };
}

async function fill(primary: Engine, bytes: number, ...standbys: Engine[]): Promise<void> {
  let end = 0n;
  for (let done = 0; done < bytes; done += 30_000)
    end = await primary.appendWhenWritable(Buffer.alloc(30_000, random.below(256)));
  for (const engine of [primary, ...standbys]) await engine.reached('flushed', end, 20_000);
}

const follow = (standby: Engine, upstream: Engine) =>
  standby.follow({ address: `127.0.0.1:${upstream.listenPort}` });
const segmentsOf = ({ nodeId }: Engine) => new Segments(join(base, nodeId), layout);
const all = { repair: true, bytesPerSecond: 0 };

test('without repair nothing is changed: what could be is told', async () => {
  const [a, b] = [await open('a'), await open('b')];
  await a.promote();
  await follow(b, a);
  await fill(a, 4 << 20, b);
  pageDamages.flippedBit(segmentsOf(b), 3, random, layout);
  const bytes = segmentsOf(b).read(3);
  const { scrubber, events, dir } = scrubberOf(b);
  const { findings } = await scrubber.verify({ ...all, repair: false }).done;
  expect(findings).toEqual([
    { page: 3, place: 'disk', what: 'the page does not verify', outcome: 'repairable', source: "'a'" },
  ]);
  expect(segmentsOf(b).read(3)).toEqual(bytes);
  expect(() => readdirSync(dir)).toThrow('ENOENT');
  expect(events.map(({ event }) => event)).toEqual(['scrub-begun', 'scrub-damage', 'scrub-ended']);
  // Nor is a neighbour's page repaired by the one that has a good copy.
  const healthy = await scrubberOf(a).scrubber.verify(all).done;
  expect(healthy).toMatchObject({ state: 'done', findings: [], neighboursDamaged: 1 });
  expect(segmentsOf(b).read(3)).toEqual(bytes);
});

test('a node on its own isolates what is damaged, once, and keeps a copy', async () => {
  const a = await open('a');
  await a.promote();
  await fill(a, 4 << 20);
  pageDamages.zeroedPage(segmentsOf(a), 2, random, layout);
  const { scrubber } = scrubberOf(a);
  for (let pass = 1; pass <= 2; pass++) {
    const { number, done } = scrubber.verify(all);
    expect(number).toBe(pass);
    const { findings } = await done;
    expect(findings).toMatchObject([{ page: 2, outcome: 'isolated' }]);
    expect(readFileSync(findings[0]?.copy as string)).toEqual(Buffer.alloc(layout.pageBytes));
  }
  expect(readdirSync(join(base, 'a', 'scrub')).filter((name) => name.endsWith('.bin'))).toHaveLength(1);
});

test('pages of an older epoch, whole and chained, are found out and repaired', async () => {
  const [a, b, c] = [await open('a'), await open('b'), await open('c')];
  await a.promote();
  await follow(b, a);
  await fill(a, 1_500_000, b);
  await b.follow();
  await fill(a, 4 << 20);
  // The same pages in the next epoch, with other bytes.
  await b.promote();
  await follow(c, b);
  await fill(b, 4 << 20, c);
  const page = 2 * layout.segmentPages;
  const rights = readFileSync(segmentsOf(b).fileOf(page));
  copyFileSync(segmentsOf(a).fileOf(page), segmentsOf(b).fileOf(page));
  expect(readFileSync(segmentsOf(b).fileOf(page))).not.toEqual(rights);
  const { findings, state } = await scrubberOf(b).scrubber.verify(all).done;
  expect(state).toBe('done');
  expect(findings.map((each) => each.page)).toEqual(
    Array.from({ length: layout.segmentPages }, (_, i) => page + i),
  );
  for (const finding of findings)
    expect(finding).toMatchObject({
      outcome: 'repaired',
      what: 'the page is of an epoch that the log is not in there',
    });
  expect(readFileSync(segmentsOf(b).fileOf(page))).toEqual(rights);
});

test('what is trimmed under the look is no damage', async () => {
  const few = { ...smallLog, retainBytes: 2 << 20 };
  const [a, b] = [await open('a', few), await open('b', few)];
  await a.promote();
  await follow(b, a);
  const { scrubber, events } = scrubberOf(b, { bytesPerSecond: 2 ** 40, pauseMs: 0 });
  scrubber.start();
  const until = performance.now() + 2000;
  while (performance.now() < until) await fill(a, 2 << 20, b);
  await scrubber.stop();
  expect(b.status().log.firstLsn).toBeGreaterThan(0n);
  expect(scrubber.status().passes).toBeGreaterThan(10);
  expect(events.filter(({ event }) => event !== 'scrub-begun' && event !== 'scrub-ended')).toEqual([]);
});

test('the background goes on where it was, also after a restart, and gives way to who asks', async () => {
  const a = await open('a');
  await a.promote();
  await fill(a, 4 << 20);
  const slow = { bytesPerSecond: 16 * layout.pageBytes, pauseMs: 60_000 };
  const first = scrubberOf(a, slow);
  first.scrubber.start();
  const passOf = (scrubber: Scrubber) => scrubber.status().pass;
  await expect.poll(() => passOf(first.scrubber)?.page ?? 0).toBeGreaterThan(3);
  await first.scrubber.stop();
  const reached = passOf(first.scrubber)?.page as number;
  expect(passOf(first.scrubber)?.state).toBe('stopped');

  const second = scrubberOf(a, slow);
  second.scrubber.start();
  await expect.poll(() => passOf(second.scrubber)?.endPage ?? 0).toBeGreaterThan(0);
  expect(passOf(second.scrubber)?.firstPage).toBe(reached);
  expect(await second.scrubber.verify(all).done).toMatchObject({ state: 'done', firstPage: 0 });
  expect(passOf(second.scrubber)?.state).toBe('stopped');
  expect(() => {
    second.scrubber.verify(all);
    second.scrubber.verify(all);
  }).toThrow(expect.objectContaining({ code: 'WALSHIP_ERR_BUSY' }));
  expect(second.scrubber.status().passes).toBe(0);
  await second.scrubber.stop();

  const third = scrubberOf(a, { bytesPerSecond: 1 << 30, pauseMs: 60_000 });
  third.scrubber.start();
  await expect.poll(() => third.scrubber.status().passes).toBe(1);
});

// Segment files of a cluster under load are damaged in every way, anywhere: one pass on each node finds all of it, and repairs
// to the byte what anybody has a good copy of.
import { createHash } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, onTestFinished, test, vi } from 'vitest';
import { Pages } from '../../src/consistency/pages.js';
import type { PassProgress } from '../../src/consistency/pass.js';
import { Scrubber, type ScrubEvent } from '../../src/consistency/scrubber.js';
import { Engine, type EngineOptions } from '../../src/index.js';
import { credentials } from '../lib/cluster.js';
import { Random } from '../simulation/random.js';
import { damages, pageDamages, Segments } from './damage.js';

const { WALSHIP_SCRUB_CASES: wantedCases = '60', WALSHIP_SCRUB_SEED: wantedSeed = '1' } = process.env;
const cases = Number(wantedCases);
const seed = Number(wantedSeed);
vi.setConfig({ testTimeout: 60_000 + cases * 2000 });

const KiB = 1024;
const layout = { pageBytes: 64 * KiB, segmentPages: 16 };
const segmentBytes = layout.pageBytes * layout.segmentPages;
const names = ['a', 'b', 'c'] as const;
const casesPerRound = 6;
/** Between the appends of the load: some MiB a second, so that a run's log is read again and again in reasonable time. */
const loadPauseMs = 10;
/** In every so many rounds a page is damaged on every node, too. */
const hopelessEvery = 3;

let base = '';
beforeEach(() => {
  base = mkdtempSync('/dev/shm/walship-scrub-');
});
afterEach(() => rmSync(base, { recursive: true, force: true }));

interface Member {
  readonly engine: Engine;
  readonly segments: Segments;
  readonly scrubber: Scrubber;
  readonly events: ScrubEvent[];
}

/** Three nodes; `shape` says whom c follows. */
class TestCluster {
  readonly members: Member[] = [];
  readonly #appended = createHash('sha256');
  #appendedBytes = 0n;
  #loading: Promise<void> | undefined;
  #stop = false;

  static async open(shape: 'star' | 'chain'): Promise<TestCluster> {
    const cluster = new TestCluster();
    for (const nodeId of names) {
      const dir = join(base, nodeId);
      const options: EngineOptions = {
        dir,
        nodeId,
        cluster: credentials,
        listen: '127.0.0.1:0',
        transport: 'tcp',
        log: { pageBytes: layout.pageBytes, segmentBytes, zeroFill: false, retainBytes: 1 << 30 },
        arena: { bytes: 48 * layout.pageBytes, hugePages: false },
        commitRule: { level: 'flushed', any: 1 },
      };
      const engine = await Engine.open(options);
      const events: ScrubEvent[] = [];
      const scrubber = new Scrubber(new Pages(engine), {
        dir: join(dir, 'scrub'),
        onEvent: (event) => events.push(event),
      });
      cluster.members.push({ engine, segments: new Segments(dir, layout), scrubber, events });
    }
    const [a, b, c] = cluster.members.map(({ engine }) => engine) as [Engine, Engine, Engine];
    await a.promote();
    await b.follow({ address: `127.0.0.1:${a.listenPort}` });
    await c.follow({ address: `127.0.0.1:${shape === 'star' ? a.listenPort : b.listenPort}` });
    return cluster;
  }

  get primary(): Engine {
    return (this.members[0] as Member).engine;
  }

  async append(bytes: Buffer): Promise<bigint> {
    const end = await this.primary.appendWhenWritable(bytes);
    this.#appended.update(bytes);
    this.#appendedBytes += BigInt(bytes.length);
    return end;
  }

  async fill(bytes: number, random: Random): Promise<void> {
    let end = 0n;
    for (let done = 0; done < bytes; ) {
      const record = recordOf(random);
      end = await this.append(record);
      done += record.length;
    }
    await this.settled(end);
  }

  async settled(lsn: bigint): Promise<void> {
    for (const { engine } of this.members) await engine.reached('flushed', lsn, 20_000);
  }

  /** Appends and commits, one after the other, until {@link endLoad}. */
  startLoad(random: Random): void {
    this.#loading = (async () => {
      while (!this.#stop) {
        await this.primary.committed(await this.append(recordOf(random)));
        await sleep(loadPauseMs);
      }
    })();
  }

  async endLoad(): Promise<void> {
    this.#stop = true;
    await this.#loading;
  }

  /** Everything appended is in every node's log, as it was. */
  async checkNothingLost(): Promise<void> {
    await this.settled(this.#appendedBytes);
    const wanted = this.#appended.copy().digest('hex');
    for (const { engine } of this.members) {
      const hash = createHash('sha256');
      for await (const { bytes } of engine.read(0n, { end: this.#appendedBytes })) hash.update(bytes);
      expect(hash.digest('hex'), engine.nodeId).toBe(wanted);
    }
  }

  async close(): Promise<void> {
    await this.endLoad();
    for (const { engine, scrubber } of this.members.splice(0).toReversed()) {
      await scrubber.stop();
      await engine.close();
    }
  }
}

function recordOf(random: Random): Buffer {
  const bytes = Buffer.alloc(1 + random.below(40_000));
  for (let at = 0; at + 4 <= bytes.length; at += 64) bytes.writeUInt32LE(random.below(2 ** 32), at);
  return bytes;
}

const verify = ({ scrubber }: Member, repair = true): Promise<PassProgress> =>
  scrubber.verify({ repair, bytesPerSecond: 0 }).done;

const sorted = (pages: Iterable<number>) => [...pages].sort((x, y) => x - y);
const found = ({ findings }: PassProgress, outcome: string) =>
  sorted(
    findings.filter((each) => each.outcome === outcome && each.place === 'disk').map(({ page }) => page),
  );

/** Pages that all nodes have complete. */
async function commonEnd(cluster: TestCluster): Promise<number> {
  const ends = await Promise.all(
    cluster.members.map(async ({ engine }) => (await new Pages(engine).complete()).end),
  );
  return Math.min(...ends);
}

/** Whether any node could repair it from its own memory. */
async function isInMemory(cluster: TestCluster, page: number): Promise<boolean> {
  const copies = await Promise.all(
    cluster.members.map(({ engine }) => new Pages(engine).bytesInMemory(page)),
  );
  return copies.some(({ length }) => length > 0);
}

describe.each(['star', 'chain'] as const)('three nodes under load, as a %s', (shape) => {
  test(`${cases / 2} cases of damage are found in one pass, repaired to the byte or isolated`, async () => {
    const random = new Random(seed);
    const cluster = await TestCluster.open(shape);
    onTestFinished(() => cluster.close());
    await cluster.fill(8 << 20, random);
    cluster.startLoad(new Random(seed + 1));
    const kinds = new Map<string, number>();
    for (let done = 0, round = 0; done < cases / 2; round++) {
      const end = await commonEnd(cluster);
      const wholeSegments = Math.floor(end / layout.segmentPages);
      const truth = (cluster.members[0] as Member).segments;
      const right = Array.from({ length: end }, (_, page) => truth.read(page));
      const touched = new Set<number>();
      const damaged = cluster.members.map(() => new Set<number>());
      const free = (pages: readonly number[]) => pages.every((page) => page < end && !touched.has(page));
      for (let i = 0; i < casesPerRound && done < cases / 2; i++, done++) {
        const index = random.below(names.length);
        const { segments } = cluster.members[index] as Member;
        // Each kind in its turn; what takes a whole segment only while there is room.
        const kindsNow = Object.keys(i < 2 ? damages : pageDamages);
        const kind = kindsNow[(i < 2 ? 2 * round + i : i) % kindsNow.length] as keyof typeof damages;
        let page = 0;
        let reach: number[] = [];
        do {
          page = random.below(kind in pageDamages ? end : wholeSegments * layout.segmentPages);
          const first = page - (page % layout.segmentPages);
          reach =
            kind in pageDamages ? [page] : Array.from({ length: layout.segmentPages }, (_, k) => first + k);
        } while (!free(reach));
        for (const each of reach) touched.add(each);
        for (const each of damages[kind]?.(segments, page, random, layout) ?? []) {
          if (!segments.read(each).equals(right[each] as Buffer)) damaged[index]?.add(each);
        }
        kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
      }
      const hopeless = new Set<number>();
      if (round % hopelessEvery === 0) {
        let page = 0;
        while (touched.has(page) || (await isInMemory(cluster, page))) page++;
        hopeless.add(page);
        for (const { segments } of cluster.members) pageDamages.flippedBit(segments, page, random, layout);
      }

      for (const [index, member] of cluster.members.entries()) {
        const before = new Map([...hopeless].map((page) => [page, member.segments.read(page)]));
        const pass = await verify(member);
        const label = `seed ${seed}, round ${round}, node ${member.engine.nodeId}`;
        expect(pass, label).toMatchObject({ state: 'done', findingsLeftOut: 0 });
        expect(found(pass, 'repaired'), label).toEqual(sorted(damaged[index] as Set<number>));
        expect(found(pass, 'isolated'), label).toEqual(sorted(hopeless));
        for (const { page, copy } of pass.findings.filter((each) => each.outcome === 'isolated')) {
          expect(readFileSync(copy as string).equals(before.get(page) as Buffer), label).toBe(true);
          expect(member.segments.read(page).equals(before.get(page) as Buffer), label).toBe(true);
          expect(member.events, label).toContainEqual(
            expect.objectContaining({ event: 'scrub-isolated', facts: { page, place: 'disk' } }),
          );
        }
      }
      for (const page of hopeless)
        for (const { segments } of cluster.members) segments.write(page, right[page] as Buffer);
      for (const { segments, engine } of cluster.members) {
        for (const [page, bytes] of right.entries())
          expect(segments.read(page).equals(bytes), `page ${page} of ${engine.nodeId}`).toBe(true);
      }
    }
    await cluster.endLoad();
    await cluster.checkNothingLost();
    for (const member of cluster.members)
      expect(await verify(member, false)).toMatchObject({
        state: 'done',
        findings: [],
        neighboursDamaged: 0,
      });
    await cluster.close();
    // Clean logs are the same, byte for byte, whatever they went through.
    const files = readdirSync(join(base, 'a')).filter((name) => name.endsWith('.wal'));
    expect(files.length).toBeGreaterThan(4);
    for (const name of files) {
      for (const other of ['b', 'c'])
        expect(readFileSync(join(base, other, name)).equals(readFileSync(join(base, 'a', name)))).toBe(true);
    }
    if (cases >= 60) expect([...kinds.keys()].sort()).toEqual(Object.keys(damages).sort());
  });
});

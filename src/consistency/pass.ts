import { mkdirSync, renameSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { WalshipError } from '../engine/errors.js';
import type { PageCopy } from '../engine/native.js';
import { type Decision, decide, follows, type Holder, type Source } from './decision.js';
import { Pages } from './pages.js';

/** Something that is not as it has to be. */
export interface Finding {
  /** The first one, of a file. */
  readonly page: number;
  /** Where the page begins, if that is known. */
  readonly lsn?: bigint;
  /** `file`: a segment file that is too short. */
  readonly place: 'disk' | 'memory' | 'file';
  readonly what: string;
  /**
   * `repaired`: from `source`. `repairable`: but nothing was to be changed. `isolated`: left as it is, because no copy can
   * be proved right; `copy` is where its bytes were set aside.
   */
  readonly outcome: 'repaired' | 'repairable' | 'isolated';
  readonly source?: string;
  readonly copy?: string;
}

/** How far a look at all pages is, and what it has found. */
export interface PassProgress {
  readonly repair: boolean;
  /** ISO 8601. */
  readonly startedAt: string;
  readonly endedAt?: string;
  readonly state: 'running' | 'done' | 'stopped' | 'failed';
  /** Why it failed. */
  readonly problem?: string;
  readonly firstPage: number;
  /** The next one. */
  readonly page: number;
  readonly endPage: number;
  readonly doneBytes: number;
  readonly totalBytes: number;
  /** Of those looked at, so many could be compared with a good copy on another node's disk. */
  readonly pagesCompared: number;
  /** Copies that neighbours have in bad order: theirs to repair. */
  readonly neighboursDamaged: number;
  readonly findings: readonly Finding[];
  /** Beyond those listed. */
  readonly findingsLeftOut: number;
}

export interface PassOptions {
  /** What can be repaired is. Without it nothing is changed, and nothing set aside. */
  readonly repair: boolean;
  /** 0: as fast as it goes. */
  readonly bytesPerSecond: number;
  /** For copies of what cannot be repaired. */
  readonly asideDir: string;
  readonly signal: AbortSignal;
  readonly onFinding: (finding: Finding) => void;
  /** Before anything is written. */
  readonly onRepair: (page: number, why: string, source: string) => void;
}

const findingsMax = 10_000;
/**
 * A batch is what is looked at within so much time, for a neighbour that gives way to its log is not waited for much longer.
 * Smaller ones cost more: a question and its answer wake a dozen threads on two nodes, whatever they are about.
 */
const batchMs = 500;
/** What a page is may change under the look at it: then it is looked at again. */
const triesMax = 5;
const pinnedMs = 20;

type Writable<T> = { -readonly [Key in keyof T]: T[Key] };

/** Looks at every complete page of a node once: memory against disk against the neighbours' disks. */
export class Pass {
  readonly #pages: Pages;
  readonly #options: PassOptions;
  /** Pages that nothing more is to be said of. */
  readonly #isolated = new Set<number>();
  readonly #progress: Writable<Omit<PassProgress, 'findings'>> & { findings: Finding[] };

  constructor(pages: Pages, options: PassOptions) {
    this.#pages = pages;
    this.#options = options;
    this.#progress = {
      repair: options.repair,
      startedAt: new Date().toISOString(),
      state: 'running',
      firstPage: 0,
      page: 0,
      endPage: 0,
      doneBytes: 0,
      totalBytes: 0,
      pagesCompared: 0,
      neighboursDamaged: 0,
      findings: [],
      findingsLeftOut: 0,
    };
  }

  get progress(): PassProgress {
    return { ...this.#progress, findings: [...this.#progress.findings] };
  }

  /** Never throws: why it ended is in {@link progress}. `from`: a page of a pass that was not finished. */
  async run(from = 0): Promise<PassProgress> {
    try {
      await this.#run(from);
      this.#progress.state = this.#options.signal.aborted ? 'stopped' : 'done';
    } catch (error) {
      this.#progress.state = 'failed';
      this.#progress.problem = (error as Error).message;
    }
    this.#progress.endedAt = new Date().toISOString();
    return this.progress;
  }

  async #run(from: number): Promise<void> {
    const { signal, bytesPerSecond, repair } = this.#options;
    const { first, end, pageBytes } = await this.#pages.complete();
    for (const { file, firstPage, bytes } of await this.#pages.shortSegments(repair)) {
      const what = `${file} has ${bytes} bytes, fewer than a segment`;
      this.#found({
        page: firstPage,
        place: 'file',
        what,
        outcome: repair ? 'repaired' : 'repairable',
        ...(repair && { source: 'zeros, until its pages are repaired' }),
      });
    }
    const progress = this.#progress;
    progress.firstPage = progress.page = from > first && from < end ? from : first;
    progress.endPage = end;
    progress.totalBytes = (end - progress.firstPage) * pageBytes;
    const paced = bytesPerSecond > 0 ? Math.floor((bytesPerSecond * batchMs) / 1000 / pageBytes) : Infinity;
    const batchMax = Math.min(Pages.countMax(pageBytes), Math.max(1, paced));
    let batch = 1;
    const startedMs = performance.now();
    let before: PageCopy | undefined;
    while (progress.page < end && !signal.aborted) {
      const count = Math.min(batch, end - progress.page);
      const lookedMs = performance.now();
      before = await this.#look(progress.page, count, before);
      const fitting = (count * batchMs) / (performance.now() - lookedMs);
      batch = Math.max(1, Math.min(batchMax, 2 * batch, Math.floor(fitting)));
      progress.page += count;
      progress.doneBytes += count * pageBytes;
      if (bytesPerSecond === 0) continue;
      const dueMs = startedMs + (progress.doneBytes / bytesPerSecond) * 1000;
      await sleep(Math.max(0, dueMs - performance.now()), undefined, { signal, ref: false }).catch(() => {});
    }
  }

  /** @returns the last page's copy, which the next batch has to continue */
  async #look(first: number, count: number, before: PageCopy | undefined): Promise<PageCopy | undefined> {
    const [own, neighbours] = await Promise.all([
      this.#pages.copies(first, count),
      this.#neighbours(first, count),
    ]);
    let last = before;
    for (const [i, { disk, memory }] of own.entries()) {
      const page = first + i;
      const others = neighbours.map(({ copies }) => copies[i] as PageCopy);
      if (others.some(({ state }) => state === 'good')) this.#progress.pagesCompared++;
      const continues =
        last === undefined || last.state !== 'good' || disk.state !== 'good' || follows(last, disk);
      const asOthers = others.every(({ state, sum }) => state !== 'good' || sum === disk.sum);
      const asMemory = memory.state === 'absent' || memory.sum === disk.sum;
      if (disk.state !== 'good' || !continues || !asOthers || !asMemory) await this.#settle(page);
      // Which of the two is wrong the decision says.
      if (!continues) await this.#settle(page - 1);
      this.#progress.neighboursDamaged += others.filter(
        ({ state }) => state === 'damaged' || state === 'stale',
      ).length;
      last = disk;
    }
    return last;
  }

  /** Who does not answer is left out. */
  async #neighbours(first: number, count: number): Promise<{ node: string; copies: PageCopy[] }[]> {
    const asked = await Promise.all(
      this.#pages.neighbours().map(async (node) => {
        try {
          return [{ node, copies: await this.#pages.copiesAt(node, first, count) }];
        } catch (error) {
          if (error instanceof WalshipError && error.code === 'WALSHIP_ERR_CLOSED') throw error;
          return [];
        }
      }),
    );
    return asked.flat();
  }

  /** Looks at one page again, by itself, and does what is to be done. */
  async #settle(page: number): Promise<void> {
    if (this.#isolated.has(page)) return;
    let why = '';
    for (let tries = 0; tries < triesMax; tries++) {
      const { own, neighbours } = await this.#holders(page);
      if (own.disk.state === 'absent') {
        const { first, end } = await this.#pages.complete();
        // Trimmed or cut meanwhile.
        if (page < first || page >= end) return;
      }
      const decision = decide({ own, neighbours, committedLsn: this.#pages.committedLsn });
      if (decision.verdict === 'healthy') return this.#settleMemory(page, own);
      if (decision.verdict === 'isolate') {
        why = decision.why;
        // What was cut and written anew under the look is in good order at the next one.
        if (tries === 0) continue;
        return this.#isolate(page, own.disk, why);
      }
      const outcome = await this.#repair(page, own, decision);
      if (outcome === undefined) return;
      why = `${decision.why}; it could not be repaired: ${outcome}`;
    }
    const { own } = await this.#holders(page);
    await this.#isolate(page, own.disk, why);
  }

  async #holders(page: number): Promise<{ own: Holder; neighbours: Holder[] }> {
    const first = Math.max(0, page - 1);
    const at = page - first;
    const [copies, others] = await Promise.all([
      this.#pages.copies(first, at + 2),
      this.#neighbours(first, at + 2),
    ]);
    const beside = (all: readonly PageCopy[]) => ({
      ...(at > 0 && { before: all[0] as PageCopy }),
      after: all[at + 1] as PageCopy,
    });
    const { disk, memory } = copies[at] as (typeof copies)[number];
    return {
      own: { node: this.#pages.node, disk, memory, ...beside(copies.map((each) => each.disk)) },
      neighbours: others.map(({ node, copies: theirs }) => ({
        node,
        disk: theirs[at] as PageCopy,
        ...beside(theirs),
      })),
    };
  }

  /** @returns why it could not be done; undefined if it was, or was not to be */
  async #repair(
    page: number,
    own: Holder,
    { why, sum, sources }: Extract<Decision, { verdict: 'repair' }>,
  ): Promise<string | undefined> {
    const finding = { page, place: 'disk' as const, what: why };
    if (!this.#options.repair) {
      this.#found({ ...finding, outcome: 'repairable', source: nameOf(sources[0] as Source, own.node) });
      return undefined;
    }
    const problems: string[] = [];
    for (const source of sources) {
      const name = nameOf(source, own.node);
      try {
        const bytes =
          source.node === own.node
            ? await this.#pages.bytesInMemory(page)
            : await this.#pages.bytesAt(source.node, page);
        if (this.#pages.sumOf(bytes) !== sum) throw new Error('what came is not what was judged');
        this.#options.onRepair(page, why, name);
        await this.#pages.repair(page, bytes, own.disk.sum);
        this.#found({ ...finding, outcome: 'repaired', source: name });
        return undefined;
      } catch (error) {
        if (error instanceof WalshipError && error.code === 'WALSHIP_ERR_CLOSED') throw error;
        problems.push(`${name}: ${(error as Error).message}`);
      }
    }
    return problems.join('; ');
  }

  /** The disk's copy is right. */
  async #settleMemory(page: number, { disk, memory }: Holder): Promise<void> {
    if (memory === undefined || memory.state === 'absent' || memory.sum === disk.sum) return;
    const finding = {
      page,
      lsn: disk.firstLsn,
      place: 'memory' as const,
      what: 'the page in memory is not the one on disk, which verifies',
    };
    if (!this.#options.repair) return this.#found({ ...finding, outcome: 'repairable', source: 'this disk' });
    for (let tries = 0; tries < triesMax; tries++) {
      if (await this.#pages.drop(page))
        return this.#found({ ...finding, outcome: 'repaired', source: 'this disk' });
      await sleep(pinnedMs);
    }
    this.#found({ ...finding, outcome: 'isolated' });
  }

  async #isolate(page: number, disk: PageCopy, what: string): Promise<void> {
    this.#isolated.add(page);
    const lsn = disk.state === 'good' || disk.state === 'stale' ? { lsn: disk.firstLsn } : {};
    const copy = this.#options.repair ? await this.#setAside(page) : {};
    this.#found({ page, ...lsn, place: 'disk', what, outcome: 'isolated', ...copy });
  }

  async #setAside(page: number): Promise<{ copy?: string }> {
    const bytes = await this.#pages.bytesOnDisk(page);
    const hex = (value: bigint) => value.toString(16).padStart(16, '0');
    const name = `page-${hex(BigInt(page))}-${hex(this.#pages.sumOf(bytes))}.bin`;
    const path = join(this.#options.asideDir, name);
    try {
      mkdirSync(this.#options.asideDir, { recursive: true });
      const file = await open(`${path}.new`, 'w');
      try {
        await file.writeFile(bytes);
        await file.datasync();
      } finally {
        await file.close();
      }
      renameSync(`${path}.new`, path);
      return { copy: path };
    } catch {
      // Without room for a copy the page itself is still there.
      return {};
    }
  }

  #found(finding: Finding): void {
    if (this.#progress.findings.length < findingsMax) this.#progress.findings.push(finding);
    else this.#progress.findingsLeftOut++;
    this.#options.onFinding(finding);
  }
}

function nameOf({ node, from }: Source, own: string): string {
  return node === own ? `this node's ${from}` : `'${node}'`;
}

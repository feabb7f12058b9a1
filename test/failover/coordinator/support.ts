import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type {
  ClusterView,
  Coordinator,
  Member,
  PrimaryRecord,
} from '../../../src/failover/coordinator/coordinator.js';
import type { CoordinatorSettings } from '../../../src/failover/coordinator/settings.js';

export const clusterId = 'contract';

export const record = (node: string, epoch: bigint, renewal = 0): PrimaryRecord => ({
  node,
  epoch,
  rule: { level: 'flushed', any: 1, nodes: ['b', 'c'] },
  leaseMs: 2000,
  renewal,
});

export const member = (node: string, priority = 0): Member => ({
  node,
  log: '127.0.0.1:7000',
  control: '127.0.0.1:7001',
  http: '127.0.0.1:7002',
  priority,
  nofailover: false,
});

/** A watch, and everything it told. */
export class Seen {
  readonly told: { view: ClusterView | undefined; why: string | undefined; at: number }[] = [];
  readonly stop: () => void;
  #wake = () => {};

  constructor(coordinator: Coordinator) {
    this.stop = coordinator.watch((view, why) => {
      this.told.push({ view, why: why?.message, at: performance.now() });
      this.#wake();
    });
  }

  get last() {
    return this.told.at(-1);
  }

  /** Waits until the last that was told is so. */
  async until(
    what: string,
    holds: (view: ClusterView | undefined) => boolean,
    milliseconds = 5000,
  ): Promise<void> {
    const deadline = performance.now() + milliseconds;
    while (this.last === undefined || !holds(this.last.view)) {
      const left = deadline - performance.now();
      if (left <= 0) throw new Error(`the watch did not tell in ${milliseconds} ms: ${what}`);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, left);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }
}

export interface Swap {
  readonly expected: bigint;
  readonly revision: bigint;
  readonly epoch: bigint;
}

/** What a worker process told until it ended or was killed. */
export class Swapper {
  readonly won: Swap[] = [];
  readonly unknown: string[] = [];
  lost = 0;
  readonly ended: Promise<void>;
  readonly #child;
  #output = '';
  #errors = '';
  #killed = false;
  #wake = () => {};

  private constructor(script: string, task: unknown) {
    const file = fileURLToPath(new URL(script, import.meta.url));
    this.#child = spawn(process.execPath, [file, JSON.stringify(task)], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.#child.stdout.setEncoding('utf8').on('data', (text: string) => {
      const lines = (this.#output + text).split('\n');
      this.#output = lines.pop() as string;
      for (const line of lines) this.#take(line.split(' '));
      this.#wake();
    });
    this.#child.stderr.on('data', (text) => {
      this.#errors += text;
    });
    this.ended = new Promise((resolve, reject) => {
      this.#child.on('close', (code) => {
        this.#wake();
        if (code === 0 || this.#killed) resolve();
        else reject(new Error(`${script} ended with ${code}: ${this.#errors}`));
      });
    });
  }

  /** A node that swaps the record. */
  static ofRecord(settings: CoordinatorSettings, node: string, wins = 1_000_000): Swapper {
    return new Swapper('worker.mjs', { settings, node, wins });
  }

  /** A process that replaces the document until it is killed. */
  static ofDocument(path: string): Swapper {
    return new Swapper('writer.mjs', { path });
  }

  /** Until it has won for the first time, or ended. */
  async started(): Promise<void> {
    while (this.won.length === 0 && this.#child.exitCode === null) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  signal(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }

  async kill(): Promise<void> {
    this.#killed = true;
    this.#child.kill('SIGKILL');
    await this.ended;
  }

  #take([what, expected = '', revision = '', epoch = '']: string[]): void {
    if (what === 'won') {
      this.won.push({ expected: BigInt(expected), revision: BigInt(revision), epoch: BigInt(epoch) });
    } else if (what === 'lost') this.lost++;
    else if (what === 'unknown') this.unknown.push(expected);
  }
}

/**
 * Every revision has one winner, every winner the revision that it named, and epochs follow each other: the swaps make
 * one chain. `gaps`: how many of the chain may be missing, because the winner died before it said so.
 */
export function assertOneChain(swaps: readonly Swap[], gaps: number): void {
  const sorted = [...swaps].sort((a, b) => (a.revision < b.revision ? -1 : a.revision > b.revision ? 1 : 0));
  let missing = 0;
  let before: Swap | undefined;
  for (const swap of sorted) {
    if (swap.revision <= swap.expected) throw new Error(`revision ${swap.revision} came of ${swap.expected}`);
    if (before !== undefined) {
      if (swap.revision === before.revision) throw new Error(`revision ${swap.revision} was won twice`);
      if (swap.expected === before.expected) throw new Error(`two replaced revision ${swap.expected}`);
      if (swap.expected < before.revision)
        throw new Error(
          `revision ${before.revision} was won and then lost: ${swap.revision} came of ${swap.expected}`,
        );
      const skipped = swap.epoch - before.epoch - 1n;
      if (skipped < 0n) throw new Error(`epoch ${swap.epoch} came after ${before.epoch}`);
      if ((skipped === 0n) !== (swap.expected === before.revision))
        throw new Error(
          `revision ${swap.revision} of epoch ${swap.epoch} does not follow ${before.revision}`,
        );
      missing += Number(skipped);
    }
    before = swap;
  }
  if (missing > gaps) throw new Error(`${missing} swaps are missing from the chain, at most ${gaps} can be`);
}

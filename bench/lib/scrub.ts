import { closeSync, openSync, readdirSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { Pages } from '../../src/consistency/pages.js';
import { Scrubber } from '../../src/consistency/scrubber.js';
import type { Engine } from '../../src/index.js';

let running: Scrubber | undefined;

/** Looks at the pages of an engine over and over, at this pace, until it is told another one; 0: not at all. */
export async function scrubAt(engine: Engine, dir: string, bytesPerSecond: number): Promise<void> {
  await running?.stop();
  running = new Scrubber(new Pages(engine), {
    dir: join(dir, 'scrub'),
    settings: { bytesPerSecond, pauseMs: 0 },
    onEvent: ({ event, message }) => {
      if (event !== 'scrub-begun' && event !== 'scrub-ended') throw new Error(message);
    },
  });
  running.start();
}

/** Bytes per second at which all complete pages are read, checked and summed, on one thread. */
export async function copiesRate(engine: Engine, seconds: number): Promise<number> {
  const pages = new Pages(engine);
  const started = performance.now();
  let done = 0;
  while (performance.now() - started < seconds * 1000) {
    const { first, end, pageBytes } = await pages.complete();
    const count = Pages.countMax(pageBytes);
    for (let page = first; page < end; page += count) {
      const copies = await pages.copies(page, Math.min(count, end - page));
      for (const { disk } of copies) {
        // Trimmed meanwhile.
        if (disk.state === 'absent') continue;
        if (disk.state !== 'good') throw new Error('a page is in bad order');
        done += pageBytes;
      }
    }
  }
  return (done / (performance.now() - started)) * 1000;
}

/** Bytes per second at which the same files are only read, a page at a time. */
export async function readRate(dir: string, pageBytes: number, seconds: number): Promise<number> {
  const files = readdirSync(dir).filter((name) => name.endsWith('.wal'));
  const buffer = Buffer.alloc(pageBytes);
  const started = performance.now();
  let done = 0;
  while (performance.now() - started < seconds * 1000) {
    for (const name of files) {
      const file = openSync(join(dir, name), 'r');
      for (let read = 0; ; done += read) {
        read = readSync(file, buffer);
        if (read === 0) break;
      }
      closeSync(file);
    }
  }
  return (done / (performance.now() - started)) * 1000;
}

// What disks, file systems and people do to segment files, done on purpose.
import {
  closeSync,
  copyFileSync,
  existsSync,
  ftruncateSync,
  openSync,
  readSync,
  unlinkSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import type { Random } from '../simulation/random.js';

export interface Layout {
  readonly pageBytes: number;
  readonly segmentPages: number;
}

/** One node's segment files. */
export class Segments {
  readonly #dir: string;
  readonly #layout: Layout;

  constructor(dir: string, layout: Layout) {
    this.#dir = dir;
    this.#layout = layout;
  }

  fileOf(page: number): string {
    const first = page - (page % this.#layout.segmentPages);
    return join(this.#dir, `${first.toString(16).padStart(16, '0')}.wal`);
  }

  offsetOf(page: number): number {
    return (page % this.#layout.segmentPages) * this.#layout.pageBytes;
  }

  /** Zeros for what is not there. */
  read(page: number): Buffer {
    const bytes = Buffer.alloc(this.#layout.pageBytes);
    if (!existsSync(this.fileOf(page))) return bytes;
    const file = openSync(this.fileOf(page), 'r');
    readSync(file, bytes, 0, bytes.length, this.offsetOf(page));
    closeSync(file);
    return bytes;
  }

  write(page: number, bytes: Buffer, within = 0): void {
    const file = openSync(this.fileOf(page), 'r+');
    writeSync(file, bytes, 0, bytes.length, this.offsetOf(page) + within);
    closeSync(file);
  }
}

/** Damages something and gives the pages that it may have changed. */
export type Damage = (segments: Segments, page: number, random: Random, layout: Layout) => number[];

const flippedBit: Damage = (segments, page, random, { pageBytes }) => {
  const at = random.below(pageBytes);
  const byte = segments.read(page).subarray(at, at + 1);
  byte[0] = (byte[0] as number) ^ (1 << random.below(8));
  segments.write(page, byte, at);
  return [page];
};

const zeroedPage: Damage = (segments, page, _, { pageBytes }) => {
  segments.write(page, Buffer.alloc(pageBytes));
  return [page];
};

/** As by a write that went to the wrong sector. */
const overwrittenPiece: Damage = (segments, page, random, { pageBytes }) => {
  const length = 512;
  const at = length * random.below(pageBytes / length);
  segments.write(page, Buffer.alloc(length, 0xa5), at);
  return [page];
};

const pagesOf = (page: number, { segmentPages }: Layout) => {
  const first = page - (page % segmentPages);
  return Array.from({ length: segmentPages }, (_, i) => first + i);
};

const swappedPages: Damage = (segments, page, random, layout) => {
  const others = pagesOf(page, layout).filter((each) => each !== page);
  const other = others[random.below(others.length)] as number;
  const [here, there] = [segments.read(page), segments.read(other)];
  segments.write(page, there);
  segments.write(other, here);
  return [page, other];
};

const truncatedSegment: Damage = (segments, page, random, layout) => {
  const file = openSync(segments.fileOf(page), 'r+');
  ftruncateSync(file, segments.offsetOf(page) + random.below(layout.pageBytes));
  closeSync(file);
  return pagesOf(page, layout).filter((each) => each >= page);
};

/** The content of another segment under this one's name. */
const staleSegment: Damage = (segments, page, _, layout) => {
  const other = page >= layout.segmentPages ? page - layout.segmentPages : page + layout.segmentPages;
  copyFileSync(segments.fileOf(other), segments.fileOf(page));
  return pagesOf(page, layout);
};

const removedSegment: Damage = (segments, page, _, layout) => {
  unlinkSync(segments.fileOf(page));
  return pagesOf(page, layout);
};

export const pageDamages = { flippedBit, zeroedPage, overwrittenPiece };
export const damages: Readonly<Record<string, Damage>> = {
  ...pageDamages,
  swappedPages,
  truncatedSegment,
  staleSegment,
  removedSegment,
};

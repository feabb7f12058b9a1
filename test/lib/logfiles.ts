// Reads segment files without the product: what a node has on disk, judged from the outside. The layout is that of
// native/log/page.h and frame.h.
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Acknowledged } from './protocol.js';
import { makeRecord } from './records.mjs';

const pageMagic = 0x31505357;
const frameMagic = 0x31465357;
const headerBytes = 64;

export interface LogCopy {
  readonly dir: string;
  readonly segments: readonly string[];
  readonly firstLsn: bigint;
  readonly endLsn: bigint;
  readonly payload: Buffer;
  readonly frames: number;
  readonly pages: number;
  /** Tails that were cut off. */
  readonly diverged: readonly string[];
}

export function segmentFiles(dir: string): string[] {
  return readdirSync(dir)
    .filter((name) => /^[0-9a-f]{16}\.wal$/.test(name))
    .sort();
}

export function divergedFiles(dir: string): string[] {
  return existsSync(dir) ? readdirSync(dir).filter((name) => name.startsWith('diverged-')) : [];
}

/** Takes a closed log apart. Throws where pages or frames do not follow one another, or something is left behind them. */
export function readLog(dir: string): LogCopy {
  const segments = segmentFiles(dir);
  const parts: Buffer[] = [];
  let firstLsn: bigint | undefined;
  let lsn = 0n;
  let parent = 0n;
  let frames = 0;
  let pages = 0;
  let over = false;
  for (const name of segments) {
    const file = readFileSync(join(dir, name));
    const where = (at: number) => `${join(dir, name)} at offset ${at}`;
    let pageBytes = 0;
    for (let at = 0; at < file.length; at += pageBytes) {
      if (file.readUInt32LE(at) !== pageMagic) {
        if (pageBytes === 0) pageBytes = 1 << 16;
        if (!isZero(file.subarray(at))) throw new Error(`${where(at)}: neither a page nor zeros`);
        over = true;
        break;
      }
      if (over) throw new Error(`${where(at)}: a page behind the end of the log`);
      pageBytes = 2 ** file.readUInt16LE(at + 6);
      const pageLsn = file.readBigUInt64LE(at + 16);
      if (firstLsn === undefined) {
        firstLsn = lsn = pageLsn;
        parent = file.readBigUInt64LE(at + 32);
      }
      if (pageLsn !== lsn) throw new Error(`${where(at)}: the page begins at LSN ${pageLsn}, not ${lsn}`);
      pages++;
      let offset = at + headerBytes;
      const end = at + pageBytes;
      while (offset + headerBytes <= end && file.readUInt32LE(offset) === frameMagic) {
        const length = file.readUInt32LE(offset + 24);
        if (file.readBigUInt64LE(offset + 16) !== lsn) throw new Error(`${where(offset)}: not LSN ${lsn}`);
        if (file.readBigUInt64LE(offset + 48) !== parent) throw new Error(`${where(offset)}: wrong parent`);
        parent = file.readBigUInt64LE(offset + 56);
        parts.push(file.subarray(offset + headerBytes, offset + headerBytes + length));
        lsn += BigInt(length);
        frames++;
        offset += Math.ceil((headerBytes + length) / 8) * 8;
      }
      if (!isZero(file.subarray(offset, end)))
        throw new Error(`${where(offset)}: not zero behind the last frame`);
    }
  }
  return {
    dir,
    segments,
    firstLsn: firstLsn ?? 0n,
    endLsn: lsn,
    payload: Buffer.concat(parts),
    frames,
    pages,
    diverged: divergedFiles(dir),
  };
}

const zeros = Buffer.alloc(1 << 20);

function isZero(bytes: Buffer): boolean {
  for (let at = 0; at < bytes.length; at += zeros.length) {
    const part = bytes.subarray(at, at + zeros.length);
    if (part.compare(zeros, 0, part.length) !== 0) return false;
  }
  return true;
}

/** As `cmp`: every segment file that both have, and both must have the same, unless one begins later (trimmed). */
export function compareSegments(one: LogCopy, other: LogCopy): number {
  const common = one.segments.filter((name) => other.segments.includes(name));
  const begin = (copy: LogCopy) => copy.segments[0] ?? '';
  const later = begin(one) > begin(other) ? begin(one) : begin(other);
  for (const copy of [one, other]) {
    const missing = copy.segments.filter((name) => name >= later && !common.includes(name));
    if (missing.length > 0) throw new Error(`${missing} of ${copy.dir} is not in the other log`);
  }
  let bytes = 0;
  for (const name of common) {
    const a = readFileSync(join(one.dir, name));
    const b = readFileSync(join(other.dir, name));
    if (!a.equals(b)) {
      let at = 0;
      while (at < a.length && a[at] === b[at]) at++;
      throw new Error(
        `${name} differs between ${one.dir} and ${other.dir} at offset ${at} (of ${a.length}, ${b.length})`,
      );
    }
    bytes += a.length;
  }
  return bytes;
}

/** Throws unless every record stands where it was acknowledged, byte for byte. */
export function assertRecords(copy: LogCopy, acknowledged: Iterable<Acknowledged>): number {
  let count = 0;
  for (const { lsn, writer, number, length } of acknowledged) {
    const from = Number(lsn - copy.firstLsn) - length;
    const what = `record ${writer}/${number}, ${length} bytes up to LSN ${lsn}, was acknowledged`;
    if (lsn > copy.endLsn) throw new Error(`${what}, but ${copy.dir} ends at LSN ${copy.endLsn}`);
    if (from < 0) continue; // trimmed
    if (!copy.payload.subarray(from, from + length).equals(makeRecord(writer, number, length))) {
      throw new Error(`${what}, but ${copy.dir} has other bytes there`);
    }
    count++;
  }
  return count;
}

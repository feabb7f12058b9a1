// What a durable write costs without walship: written and synced as the log does it.
import { closeSync, fdatasyncSync, fsyncSync, mkdirSync, openSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { performance } from 'node:perf_hooks';
import { quantile } from './statistics.js';

export interface SyncSettings {
  readonly dir: string;
  readonly bytes: number;
  readonly seconds: number;
}

export interface SyncTimes {
  readonly count: number;
  readonly p50Us: number;
  readonly p99Us: number;
}

const fileBytes = 32 << 20;

/** Writes `bytes` one behind the other into a preallocated file of zeros, each followed by an `fdatasync`. Blocks. */
export function measureSyncs({ dir, bytes, seconds }: SyncSettings): SyncTimes {
  mkdirSync(dir, { recursive: true });
  const file = join(dir, `sync-${process.pid}`);
  const fd = openSync(file, 'w+');
  try {
    const zeros = Buffer.alloc(1 << 20);
    for (let at = 0; at < fileBytes; at += zeros.length) writeSync(fd, zeros, 0, zeros.length, at);
    fsyncSync(fd);
    const payload = Buffer.alloc(bytes, 0xa5);
    const times: number[] = [];
    const until = performance.now() + seconds * 1000;
    let at = 0;
    for (let before = performance.now(); before < until || times.length === 0; ) {
      writeSync(fd, payload, 0, bytes, at);
      fdatasyncSync(fd);
      const after = performance.now();
      times.push((after - before) * 1000);
      before = after;
      at = at + 2 * bytes <= fileBytes ? at + bytes : 0;
    }
    const all = Float64Array.from(times);
    return { count: all.length, p50Us: quantile(all, 0.5), p99Us: quantile(all, 0.99) };
  } finally {
    closeSync(fd);
    rmSync(file, { force: true });
  }
}

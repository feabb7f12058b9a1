import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const { WALSHIP_LAB, WALSHIP_LAB_DEVICES = '' } = process.env;

/** Where a node of a bench is reached. */
export interface Host {
  readonly address: string;
  /** Its RDMA device; undefined outside of the Soft-RoCE lab. */
  readonly device: string | undefined;
}

/** In the Soft-RoCE lab one host per device, one after the other; else this machine's loopback, for any number. */
export function hosts(count: number): Host[] {
  const devices = WALSHIP_LAB_DEVICES.split(',').filter((entry) => entry !== '');
  return Array.from({ length: count }, (_, index) => {
    const entry = devices[index % Math.max(1, devices.length)];
    if (entry === undefined) return { address: '127.0.0.1', device: undefined };
    const colon = entry.indexOf(':');
    return { address: entry.slice(colon + 1), device: entry.slice(0, colon) };
  });
}

/** Inside a guest of the Soft-RoCE lab. */
export const inLab = WALSHIP_LAB === '1';

/** The memory file system, where a log costs no disk. */
export const memoryFolder = '/dev/shm';

/** The folder for logs on a disk unless one is given. The lab's guests have none: their /tmp is in memory. */
export const diskFolder = inLab ? '/tmp' : fileURLToPath(new URL('../../build/bench', import.meta.url));

/** A fresh folder below `parent` that is gone again when the process has ended. */
export function scratch(parent: string): string {
  mkdirSync(parent, { recursive: true });
  const dir = mkdtempSync(join(resolve(parent), 'walship-bench-'));
  process.on('exit', () => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

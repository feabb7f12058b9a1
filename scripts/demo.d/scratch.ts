// What the demonstration wrote, removed while the last of those who write there are about to end.
import { rmSync } from 'node:fs';

const tries = 50;

/**
 * Removes a directory into which threads and processes may still write for a moment.
 * `rmSync` lists a directory once: with `maxRetries` it tries again to remove it, but not what has come since.
 */
export function removeScratch(path: string): void {
  for (let left = tries; ; left--) {
    try {
      return rmSync(path, { recursive: true, force: true });
    } catch (error) {
      if (left === 0 || (error as NodeJS.ErrnoException).code !== 'ENOTEMPTY') throw error;
    }
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20);
  }
}

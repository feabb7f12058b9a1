// A disk that can be filled: a small tmpfs. Needs root.
import { execFileSync } from 'node:child_process';
import { closeSync, fstatSync, ftruncateSync, mkdirSync, openSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';

export class Disk {
  readonly dir: string;
  readonly #filler: string;

  constructor(dir: string, mebibytes: number) {
    this.dir = dir;
    // Beside the log: it holds only what is its own.
    this.#filler = join(dir, 'filler');
    mkdirSync(dir, { recursive: true });
    const options = ['-t', 'tmpfs', '-o', `size=${mebibytes}m`, 'walship-test', dir];
    execFileSync('mount', options, { stdio: ['ignore', 'pipe', 'pipe'] });
  }

  /** Where the log is to be. */
  get log(): string {
    return join(this.dir, 'log');
  }

  fill(leaveBytes = 0): void {
    const fd = openSync(this.#filler, 'a');
    try {
      for (const bytes of [1 << 20, 4096]) {
        const some = Buffer.alloc(bytes);
        while (writeSync(fd, some) === bytes);
      }
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error;
      ftruncateSync(fd, Math.max(0, fstatSync(fd).size - leaveBytes));
    } finally {
      closeSync(fd);
    }
  }

  empty(): void {
    rmSync(this.#filler, { force: true });
  }

  /** Lazily: a process that did not end may hold files in it. */
  remove(): void {
    execFileSync('umount', ['-l', this.dir]);
  }
}

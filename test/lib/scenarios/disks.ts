// Disks that are full or read-only. Each is a small tmpfs of its own.
import { execFileSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'vitest';
import type { Cluster } from '../cluster.js';
import type { Scenario } from '../scenario.js';

const mount = (...args: string[]) => void execFileSync('mount', args, { stdio: ['ignore', 'pipe', 'pipe'] });

/** A disk of `mebibytes` for node `index`, mounted until the end of the scenario. */
function smallDisk(cluster: Cluster, index: number, mebibytes: number): string {
  const dir = join(cluster.base, String.fromCharCode(97 + index));
  mkdirSync(dir, { recursive: true });
  mount('-t', 'tmpfs', '-o', `size=${mebibytes}m`, 'walship-test', dir);
  cluster.onEnd(() => {
    // Lazily: a node that a failed scenario left open still holds files in it.
    execFileSync('umount', ['-l', dir]);
  });
  return dir;
}

const grow = (dir: string, mebibytes: number) => mount('-o', `remount,size=${mebibytes}m`, dir);

export const disks: readonly Scenario[] = [
  {
    name: "the primary's disk is full: commits wait and nothing is lost; with space they go on",
    needs: ['root'],
    options: { commitRule: { level: 'flushed', any: 1 } },
    async body(cluster) {
      const dir = smallDisk(cluster, 0, 6);
      await cluster.start([0, 0]);
      await cluster.load(0);
      await cluster.until('the disk is full', () => cluster.events(0, 'storage-problem').length > 0, 20);
      const [problem] = cluster.events(0, 'storage-problem');
      expect(problem?.code).toBe('WALSHIP_ERR_DISK_FULL');
      expect(problem?.message).toContain(dir);
      expect((await cluster.status(0)).storageProblem).toContain(dir);
      await cluster.until(
        'commits wait, and an event says so',
        () => cluster.events(0, 'rule-failing').length > 0,
      );
      const stood = cluster.acknowledgedNow();
      const { committed, flushed } = (await cluster.status(0)).positions;
      expect(committed).toBeLessThanOrEqual(flushed);
      grow(dir, 64);
      const took = await cluster.until(
        'the disk is well again',
        () => cluster.events(0, 'storage-ok').length > 0,
      );
      cluster.note(`${stood} records before it was full; goes on ${took.toFixed(0)} ms after there is space`);
      await cluster.progress(100);
      expect((await cluster.status(0)).storageProblem).toBe('');
      await cluster.verify();
    },
  },
  {
    name: "a standby's disk is full: it stalls alone, and goes on with space",
    needs: ['root'],
    options: { stallMs: 500 },
    async body(cluster) {
      const dir = smallDisk(cluster, 1, 6);
      await cluster.start([0, 0, 0]);
      await cluster.load(0);
      await cluster.until('the disk is full', () => cluster.events(1, 'storage-problem').length > 0, 20);
      await cluster.progress(300);
      await cluster.until('the primary reports the stall', () =>
        cluster.events(0, 'stalled').some(({ node }) => node === 'b'),
      );
      grow(dir, 128);
      await cluster.until('it goes on', () => cluster.events(1, 'storage-ok').length > 0);
      await cluster.caughtUp(1, 0, 20).catch(() => undefined);
      await cluster.verify();
    },
  },
  {
    name: 'a full disk that is closed and opened again keeps what was flushed',
    hostOnly: true,
    needs: ['root'],
    options: { commitRule: { level: 'flushed', any: 1 } },
    async body(cluster) {
      const dir = smallDisk(cluster, 1, 6);
      await cluster.start([0, 0]);
      await cluster.load(0);
      await cluster.until('the disk is full', () => cluster.events(1, 'storage-problem').length > 0, 20);
      await cluster.kill(1);
      grow(dir, 64);
      await cluster.open(1);
      await cluster.follow(1, 0);
      await cluster.progress(100);
      await cluster.verify();
    },
  },
  {
    name: 'a read-only disk is refused at opening, with its name; once writable the node comes back',
    hostOnly: true,
    needs: ['root'],
    async body(cluster) {
      const dir = smallDisk(cluster, 1, 32);
      await cluster.start([0, 0, 0]);
      await cluster.load(0);
      await cluster.progress(50);
      await cluster.close(1);
      mount('-o', 'remount,ro', dir);
      await expect(cluster.open(1)).rejects.toMatchObject({
        code: 'WALSHIP_ERR_DISK_READONLY',
        message: expect.stringContaining(dir),
      });
      mount('-o', 'remount,rw', dir);
      await cluster.open(1);
      await cluster.follow(1, 0);
      await cluster.progress(50);
      await cluster.verify();
    },
  },
  {
    name: 'no space for the first segment: opening says so',
    hostOnly: true,
    needs: ['root'],
    async body(cluster) {
      const dir = smallDisk(cluster, 0, 1);
      const outcome = await cluster.open(0).then(
        () => 'opened',
        (error: { code: string; message: string }) => `${error.code} ${error.message}`,
      );
      cluster.note(outcome);
      if (outcome === 'opened') {
        // Segments are made when the first byte needs one.
        const { process } = cluster.member(0);
        await process.promote();
        await process.append(1, 0, 1000);
        await cluster.until('the problem is reported', () => cluster.events(0, 'storage-problem').length > 0);
        grow(dir, 16);
        await cluster.until('and over', () => cluster.events(0, 'storage-ok').length > 0);
        await cluster.close(0);
      } else {
        expect(outcome).toMatch(/^WALSHIP_ERR_DISK_FULL .*space|room/);
        expect(outcome).toContain(dir);
      }
    },
  },
];

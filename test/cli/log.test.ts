// log inspect, verify and export on a log that an engine wrote.
import { createHash } from 'node:crypto';
import { copyFileSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { Engine } from '../../src/index.js';
import { pattern, scratch, secret, walship } from './support.js';

const payload = pattern(2_500_000, 7);
const segment = '0000000000000010.wal';

/** `payload` in three segments of 1 MiB, in appends of many sizes. */
async function writeLog(dir: string): Promise<void> {
  const engine = await Engine.open({
    dir,
    nodeId: 'a',
    cluster: { id: 'cli', secret },
    log: { pageBytes: 65536, segmentBytes: 1048576 },
    arena: { bytes: 4194304, hugePages: false },
    transport: 'tcp',
  });
  await engine.promote();
  let end = 0n;
  for (let at = 0, i = 1; at < payload.length; i++) {
    const next = Math.min(payload.length, at + ((i * 7919) % 9000) + 1);
    end = await engine.appendWhenWritable(payload.subarray(at, next));
    at = next;
  }
  await engine.committed(end);
  await engine.close();
}

function copyOf(dir: string, name: string): string {
  const copy = join(scratch(), name);
  mkdirSync(copy);
  for (const file of readdirSync(dir)) copyFileSync(join(dir, file), join(copy, file));
  return copy;
}

test('inspect, verify and export of a log, whole and damaged', { timeout: 60_000 }, async () => {
  const dir = join(scratch(), 'log');
  await writeLog(dir);

  const inspected = await walship(['log', 'inspect', dir, '--segments']);
  expect(inspected.code).toBe(0);
  expect(inspected.stdout).toMatch(/^range +0\/0 to 0\/2625A0$/m);
  expect(inspected.stdout).toMatch(/^state +closed cleanly$/m);
  expect(inspected.stdout).toMatch(/^sizes +pages of 64KiB, segments of 1MiB$/m);
  expect(inspected.stdout).toMatch(/^epoch 1 +from 0\/0$/m);
  expect(inspected.stdout).toMatch(new RegExp(`^0/[0-9A-F]+ +16 +${join(dir, segment)}$`, 'm'));

  const verified = await walship(['log', 'verify', dir]);
  expect(verified).toMatchObject({ code: 0, stderr: '' });
  expect(verified.stdout).toMatch(
    /^0\/0 to 0\/2625A0: \d+ pages, \d+ frames, 2\.38 MiB of payload; no problems\n$/,
  );

  const whole = await walship(['log', 'export', dir]);
  expect(whole.bytes.equals(payload)).toBe(true);
  expect(whole.stderr).toBe('2500000 bytes, 0/0 to 0/2625A0\n');
  const file = join(scratch(), 'piece');
  const ranged = await walship(['log', 'export', dir, '--from', '0/F4241', '--to', '1000777', '--out', file]);
  expect(ranged).toMatchObject({ code: 0, stdout: '' });
  expect(readFileSync(file).equals(payload.subarray(0xf4241, 1000777))).toBe(true);
  const none = await walship(['log', 'export', dir, '--from', '5', '--to', '5']);
  expect(none).toMatchObject({ code: 0, stdout: '' });

  // Ranges that are not there.
  expect(await walship(['log', 'export', dir, '--from', '9', '--to', '4'])).toMatchObject({
    code: 1,
    stderr: expect.stringMatching(/behind its end at LSN 4 \[WALSHIP_ERR_LOG_RANGE\]/),
  });
  expect(await walship(['log', 'export', dir, '--to', '3000000'])).toMatchObject({
    code: 1,
    stderr: expect.stringMatching(/ends at LSN 2500000, before LSN 3000000 .*\[WALSHIP_ERR_LOG_RANGE\]/),
  });
  expect(await walship(['log', 'inspect', `${dir}/nowhere`])).toMatchObject({
    code: 1,
    stderr: expect.stringMatching(/nowhere does not exist.* \[WALSHIP_ERR_LOG_NOT_FOUND\]/),
  });
  expect(await walship(['log', 'export', dir, '--out', '/nowhere/file'])).toMatchObject({
    code: 1,
    stderr: expect.stringMatching(/cannot write the export.*\[WALSHIP_ERR_OUTPUT\]/),
  });

  // One bit, in the payload of a page in the middle of the second segment.
  const flipped = copyOf(dir, 'flipped');
  const damaged = readFileSync(join(flipped, segment));
  const place = 5 * 65536 + 30_000;
  damaged[place] = (damaged[place] as number) ^ 0x10;
  writeFileSync(join(flipped, segment), damaged);
  const found = await walship(['log', 'verify', flipped]);
  expect(found.code).toBe(4);
  const [, offset] =
    new RegExp(`^PROBLEM  ${join(flipped, segment)} at offset (\\d+): .*\\[WALSHIP_ERR_`, 'm').exec(
      found.stdout,
    ) ?? [];
  // The frame that holds the bit begins at or before it, in the same page.
  expect(Number(offset)).toBeGreaterThanOrEqual(5 * 65536);
  expect(Number(offset)).toBeLessThanOrEqual(place);
  expect(found.stdout).toMatch(/; 1 problem\n$/);
  const json = JSON.parse((await walship(['log', 'verify', flipped, '--json'])).stdout);
  expect(json.problems).toMatchObject([{ file: join(flipped, segment), offset: Number(offset) }]);
  const partly = await walship(['log', 'export', flipped]);
  expect(partly.code).toBe(4);
  expect(partly.stderr).toMatch(/\[WALSHIP_ERR_LOG_CORRUPT\]\nwhat lies before it has been written\n$/);
  expect(partly.bytes.length).toBeGreaterThan(1_000_000);
  expect(partly.bytes.equals(payload.subarray(0, partly.bytes.length))).toBe(true);

  // A missing segment keeps the log from being opened: inspect says so too.
  const gap = copyOf(dir, 'gap');
  rmSync(join(gap, segment));
  expect(await walship(['log', 'verify', gap])).toMatchObject({
    code: 4,
    stdout: expect.stringMatching(/pages 16 to 31 are missing.*\[WALSHIP_ERR_LOG_SEGMENT_MISSING\]/),
  });
  const unopenable = await walship(['log', 'inspect', gap]);
  expect(unopenable.code).toBe(4);
  expect(unopenable.stdout).toMatch(/^state +cannot be opened$/m);
  expect(unopenable.stdout).toMatch(/^PROBLEM .*\[WALSHIP_ERR_LOG_SEGMENT_MISSING\]$/m);

  // All of this has changed nothing.
  expect(
    createHash('sha256')
      .update((await walship(['log', 'export', dir])).bytes)
      .digest('hex'),
  ).toBe(createHash('sha256').update(payload).digest('hex'));
});

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterAll, describe, expect, it } from 'vitest';
import { laggingStandbys } from '../../bench/cache/model.js';
import { footprint, readTrace, writeTrace } from '../../bench/cache/trace.js';

const dir = mkdtempSync(join(tmpdir(), 'walship-trace-'));
afterAll(() => rmSync(dir, { recursive: true }));

describe('a trace file', () => {
  it('reads back as it was written, without its comments', () => {
    const trace = laggingStandbys(1000);
    const path = join(dir, 'standbys.trace.gz');
    writeTrace(path, trace.accesses, 'a model\nof two lines');
    expect(readTrace(path, 'standbys')).toEqual(trace);
    expect(footprint(trace)).toBe(1000);
  });

  it('is refused with the place of the first line that is not of its form', () => {
    for (const line of ['1 2', '1 2 x', 'x 2 a', '1 -2 a', '0 2 a', '1 9007199254740993 a', '1 2 a ']) {
      const path = join(dir, 'bad.trace.gz');
      writeFileSync(path, gzipSync(`# comment\n1 1 a\n${line}\n`));
      expect(() => readTrace(path, 'bad'), line).toThrow('bad.trace.gz, line 3: ');
    }
  });
});

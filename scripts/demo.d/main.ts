// The conductor of the demonstration: its options, and how it ends.
import { existsSync, mkdirSync, mkdtempSync, readdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { Demo } from './demo.js';

function wrongOption(message: string): never {
  process.stderr.write(`scripts/demo: ${message}\nTry scripts/demo --help.\n`);
  process.exit(2);
}

function options(): { seconds: number; base: string; keep: boolean } {
  let values: { seconds?: string; keep?: string };
  try {
    values = parseArgs({ options: { seconds: { type: 'string' }, keep: { type: 'string' } } }).values;
  } catch (error) {
    return wrongOption((error as Error).message);
  }
  const seconds = Number(values.seconds ?? 16);
  if (!(seconds >= 6 && seconds <= 3600)) wrongOption('--seconds takes a number from 6 to 3600');
  if (values.keep === undefined) {
    return { seconds, base: mkdtempSync(join(tmpdir(), 'walship-demo-')), keep: false };
  }
  const base = resolve(values.keep);
  if (existsSync(base) && readdirSync(base).length > 0) wrongOption(`--keep: ${base} is not empty`);
  mkdirSync(base, { recursive: true });
  return { seconds, base, keep: true };
}

const demo = new Demo(options());
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => {
    demo.end();
    process.stderr.write('\nscripts/demo: interrupted\n');
    process.exit(130);
  });
}
let code = 1;
try {
  code = await demo.run();
} catch (error) {
  process.stderr.write(`scripts/demo: ${error instanceof Error ? error.message : String(error)}\n`);
}
// After a failure something of the show may still be under way.
process.exit(code);

// The conductor of the demonstration: its options, and how it ends.
import { existsSync, mkdirSync, mkdtempSync, readdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import type { Demonstration, DemoOptions } from './demonstration.js';

function wrongOption(message: string): never {
  process.stderr.write(`scripts/demo: ${message}\nTry scripts/demo --help.\n`);
  process.exit(2);
}

const databases = ['sqlite', 'postgres'] as const;
type Database = (typeof databases)[number];

function options(): DemoOptions & { readonly database: Database } {
  let values: { seconds?: string; keep?: string; database?: string };
  try {
    const string = { type: 'string' } as const;
    values = parseArgs({ options: { seconds: string, keep: string, database: string } }).values;
  } catch (error) {
    return wrongOption((error as Error).message);
  }
  const seconds = Number(values.seconds ?? 16);
  if (!(seconds >= 6 && seconds <= 3600)) wrongOption('--seconds takes a number from 6 to 3600');
  const database = databases.find((each) => each === (values.database ?? 'sqlite'));
  if (database === undefined) return wrongOption(`--database takes ${databases.join(' or ')}`);
  if (values.keep === undefined) {
    return { seconds, base: mkdtempSync(join(tmpdir(), 'walship-demo-')), keep: false, database };
  }
  const base = resolve(values.keep);
  if (existsSync(base) && readdirSync(base).length > 0) wrongOption(`--keep: ${base} is not empty`);
  mkdirSync(base, { recursive: true });
  return { seconds, base, keep: true, database };
}

async function demonstration(): Promise<Demonstration> {
  const { database, ...chosen } = options();
  if (database === 'sqlite') return new (await import('./sqlite/demo.js')).SqliteDemo(chosen);
  return new (await import('./postgres/demo.js')).PostgresDemo(chosen);
}

const demo = await demonstration();
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

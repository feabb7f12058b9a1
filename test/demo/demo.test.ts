import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, onTestFailed, test } from 'vitest';

// Not scripts/demo itself: its set-up step would build the package anew under the tests that use it.
const demo = ['--import', 'tsx', 'scripts/demo.d/main.ts'];
const scratch = mkdtempSync(join(tmpdir(), 'walship-demo-test-'));
chmodSync(scratch, 0o755); // PostgreSQL's servers run as another user than root.
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

function start(args: readonly string[], name: string) {
  // A temporary directory of its own, so that what is left behind can be told.
  const directory = mkdtempSync(join(scratch, `${name}-`));
  chmodSync(directory, 0o755);
  const child = spawn(process.execPath, [...demo, ...args], { env: { ...process.env, TMPDIR: directory } });
  let output = '';
  onTestFailed(() => console.log(output));
  const said = (text: string) => new Promise<void>((resolve) => waiting.push({ text, resolve }));
  const waiting: { text: string; resolve: () => void }[] = [];
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      output += chunk;
      for (const { text, resolve } of waiting) if (output.includes(text)) resolve();
    });
  }
  const leftBehind = () => readdirSync(directory).filter((entry) => entry.startsWith('walship-demo-'));
  const nodes = () => [...output.matchAll(/process (\d+), listens/g)].map((match) => Number(match[1]));
  return { child, said, output: () => output, leftBehind, nodes, exit: once(child, 'exit') };
}

const runs = (pid: number) => existsSync(`/proc/${pid}`);

/** Whose command line names it. */
function processesOf(directory: string): string[] {
  return readdirSync('/proc').filter((name) => {
    try {
      return readFileSync(`/proc/${name}/cmdline`, 'utf8').includes(directory);
    } catch {
      return false;
    }
  });
}

async function until(good: () => boolean): Promise<void> {
  while (!good()) await new Promise((wake) => setTimeout(wake, 50));
}

test('a short run loses nothing, says so in its table and tidies up', { timeout: 120_000 }, async () => {
  const run = start(['--seconds', '6'], 'run');
  const [code] = await run.exit;
  const output = run.output();
  expect(output).toContain('\n── the proof');
  expect(output).toContain('SQLite on all three nodes: integrity_check ok');
  expect(output).toMatch(/note: the coordinator is a directory of this machine/);
  // On a host that is much too busy a node may be taken for dead, and the roles be others.
  expect(output).toMatch(/the chain: node-\d → node-\d → node-\d\n/);
  const killed = [...output.matchAll(/(node-\d): process \d+ killed \(SIGKILL\)/g)].map(([, name]) => name);
  expect(killed).toHaveLength(2);
  for (const name of killed) expect(output).toContain(`${name}: back as a standby, and has all it missed`);
  expect(output).toContain(`${killed[1]} was the primary: `);
  const takeOver = /(node-\d) has taken over, in epoch \d+: (\d+) ms from the kill/.exec(output);
  expect(takeOver?.[1]).not.toBe(killed[1]);
  expect(Number(takeOver?.[2])).toBeGreaterThan(0);
  expect(output).toMatch(
    /node-\d has the primary's role, in epoch \d+: for \d+ ms .* and \d+ clients were left in doubt/,
  );
  const unknown = /(\d+) of the (\d+) transactions whose outcome their clients never learned/.exec(output);
  expect(Number(unknown?.[2])).toBeGreaterThan(0);
  expect(Number(unknown?.[1])).toBeLessThanOrEqual(Number(unknown?.[2]));
  for (const proven of ['the database, ', ' segment files: ']) {
    expect(output).toMatch(new RegExp(`${proven}.*the same on all three nodes, byte for byte`));
  }
  expect(output).toMatch(/; node-[123] shows \d+ rows, \d+\.\d ms old/);
  const counted = [
    'all three nodes are up',
    'the last standby is killed and comes back',
    'the primary is killed and comes back',
    'the primary hands over, as planned',
  ].map((title) => {
    const row = new RegExp(`^${title} +(\\d+) +\\d+ .*B .* ms .* ms +\\d+ ms +(\\d+) .* ms .* ms$`, 'm').exec(
      output,
    );
    // Live queries.
    expect(Number(row?.[2])).toBeGreaterThan(0);
    return Number(row?.[1]);
  });
  for (const transactions of counted) expect(transactions).toBeGreaterThan(0);
  const all = counted.reduce((sum, each) => sum + each, 0);
  expect(output).toContain(`\n${all} transactions acknowledged, nothing is missing, nothing is doubled.\n`);
  expect(code).toBe(0);
  expect(run.nodes()).toHaveLength(5);
  expect(run.nodes().filter(runs)).toEqual([]);
  expect(run.leftBehind()).toEqual([]);
});

test('Ctrl-C ends every process and leaves nothing behind', { timeout: 60_000 }, async () => {
  const run = start([], 'interrupted');
  await run.said('transactions/s');
  run.child.kill('SIGINT');
  const [code] = await run.exit;
  expect(code).toBe(130);
  expect(run.nodes()).toHaveLength(3);
  await until(() => !run.nodes().some(runs));
  expect(run.leftBehind()).toEqual([]);
});

test('nodes end and tidy up when the conductor is killed', { timeout: 60_000 }, async () => {
  const run = start([], 'orphaned');
  await run.said('transactions/s');
  // Stopped meanwhile, so that each has something to report to the conductor before it hears of its death.
  for (const pid of run.nodes()) process.kill(pid, 'SIGSTOP');
  run.child.kill('SIGKILL');
  await run.exit;
  for (const pid of run.nodes()) process.kill(pid, 'SIGCONT');
  await until(() => !run.nodes().some(runs));
  expect(run.leftBehind()).toEqual([]);
});

const withPostgres = test.skipIf(!existsSync('/usr/lib/postgresql/15/bin/postgres'));

withPostgres(
  'with PostgreSQL nothing is lost, and nothing is left behind',
  { timeout: 240_000 },
  async () => {
    const run = start(['--database', 'postgres', '--seconds', '8'], 'postgres');
    const [code] = await run.exit;
    const output = run.output();
    expect(output).toContain('an empty database cluster, with checksums');
    expect(output).toMatch(/the chain: node-1 → node-2 → node-3\n/);
    const [, dead, heir] =
      /(node-\d): the host is dead[\s\S]*?(node-\d) has taken over: \d+ ms from the death to a transaction/.exec(
        output,
      ) ?? [];
    expect(heir).not.toBe(dead);
    // On a host that is much too busy a node may be taken for dead, and the epochs be more; a rewinding whose other end is
    // lost so is done over as a copy.
    expect(output).toMatch(
      new RegExp(`${dead}: the server returns as a standby: (rewound|made anew) by pg_`),
    );
    expect(output).toMatch(new RegExp(`${dead}: follows as a standby after`));
    const epoch = /\$ walship switchover --to node-\d\n.*'node-\d' is the primary in epoch (\d+)\n/s.exec(
      output,
    )?.[1];
    expect(Number(epoch)).toBeGreaterThanOrEqual(3);
    const primary = /^node-\d +primary +(\d+) .* walship streaming sync, flush 0\/\w+, replay 0\/\w+$/m;
    const timeline = primary.exec(output)?.[1];
    expect(Number(timeline)).toBeGreaterThanOrEqual(3);
    const standbys = output.matchAll(/^node-\d +standby +(\d+) +0\/\w+ +0\/\w+ +streaming from /gm);
    expect([...standbys].map(([, of]) => of)).toEqual([timeline, timeline]);
    for (const proof of [
      /[1-9]\d* rows of one client: every one that was acknowledged is on all three servers, once/,
      /[1-9]\d* transactions of pgbench acknowledged/,
      /every table is the same on all three servers/,
      /pg_amcheck: every table and index of all three servers is sound/,
      /pg_checksums: \d{4,} pages of the three data directories, every checksum right/,
      /pg_wal: [3-9] segments, the same bytes/,
      /pg_waldump over both: [1-9]\d* records of the newest segments, the same/,
      /^[1-9]\d* transactions acknowledged by PostgreSQL, nothing is missing, nothing is doubled\.$/m,
    ])
      expect(output).toMatch(proof);
    expect(code).toBe(0);
    expect(run.leftBehind()).toEqual([]);
  },
);

withPostgres(
  'with PostgreSQL, too, Ctrl-C and a killed conductor leave nothing behind',
  { timeout: 120_000 },
  async () => {
    for (const signal of ['SIGINT', 'SIGKILL'] as const) {
      const run = start(['--database', 'postgres'], signal);
      await Promise.race([run.said('made by pg_basebackup'), run.exit]);
      expect(run.output()).toContain('made by pg_basebackup');
      const [left] = run.leftBehind();
      run.child.kill(signal);
      const [code] = await run.exit;
      expect(code).toBe(signal === 'SIGINT' ? 130 : null);
      await until(() => run.leftBehind().length === 0);
      // Whoever tidies up is the last to go.
      await until(() => processesOf(left as string).length === 0);
    }
  },
);

test.each([
  [['--database', 'oracle'], '--database takes sqlite or postgres'],
  [['--seconds', '1'], '--seconds takes a number from 6 to 3600'],
  [['--seconds', 'ten'], '--seconds takes a number from 6 to 3600'],
  [['--keep', 'scripts'], 'is not empty'],
  [['--fast'], "Unknown option '--fast'"],
])('refuses %j with exit code 2', async (args, message) => {
  const run = start(args, 'refused');
  const [code] = await run.exit;
  expect(run.output()).toContain(message);
  expect(code).toBe(2);
  expect(run.leftBehind()).toEqual([]);
});

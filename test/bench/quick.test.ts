// Every bench in its quick form: that it runs, and that its last line has the form other programs read.
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const root = fileURLToPath(new URL('../..', import.meta.url));

interface Case {
  readonly id: string;
  readonly value: number;
  readonly unit: string;
  readonly limit: { readonly name: string; readonly value: number };
  readonly ratio: number;
}

function bench(...args: string[]): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(process.execPath, ['--import', 'tsx', 'bench/run.ts', ...args], {
    cwd: root,
    encoding: 'utf8',
  });
}

const expected: Readonly<Record<string, readonly string[]>> = {
  ship: ['ship/tcp/128B/received', 'ship/tcp/4KiB/received', 'ship/tcp/64KiB/received'],
  commit: [
    'commit/tcp/512B/async',
    'commit/tcp/512B/received',
    'commit/tcp/512B/flushed',
    'commit/tcp/512B/applied',
    'commit/tcp/512B/received/js',
    'commit/tcp/512B/flushed/js',
    'commit/tcp/512B/received/event',
    'commit/tcp/512B/flushed/event',
  ],
  cascade: [
    'cascade/tcp/depth1/received',
    'cascade/tcp/depth2/received',
    'cascade/tcp/depth4/added',
    'cascade/tcp/depth4/egress',
    'cascade/tcp/fanout4/throughput',
    'cascade/tcp/stopped-leaf/received',
  ],
  sqlite: [
    'sqlite/autocommit/async',
    'sqlite/bulk/async',
    'sqlite/autocommit/wait-received',
    'sqlite/staleness',
    'sqlite/reads/standby',
  ],
  scrub: ['memory', 'disk'].flatMap((folder) => [
    `scrub/tcp/pages/${folder}`,
    ...['off', 'default', 'full'].map((pace) => `scrub/tcp/commit/${folder}/${pace}`),
  ]),
  append: ['append/tcp/128B/native', 'append/tcp/128B/js', 'append/tcp/128B/js-busy'],
  postgres: [
    ...['remote_write', 'on', 'remote_apply'].flatMap((level) => [
      `postgres/commit/${level}`,
      `postgres/cascade/commit/${level}`,
    ]),
    'postgres/pgbench/on/c1',
    'postgres/cascade/pgbench/on/c1',
    ...['message', 'copy', 'backlog'].flatMap((workload) => [
      `postgres/wal/${workload}/received`,
      `postgres/wal/${workload}/flushed`,
      `postgres/wal/${workload}/cpu`,
    ]),
  ],
  'failover --database postgres': ['failover/postgres/walship/p50', 'failover/postgres/walship/p99'],
};

test.each(Object.entries(expected))(
  '%s measures what its ids say and prints it as JSON',
  { timeout: 300_000 },
  (command, ids) => {
    const [name = '', ...args] = command.split(' ');
    const { status, stdout, stderr } = bench(name, ...args, '--quick', '--json');
    expect(stderr).toBe('');
    expect(status).toBe(0);
    const last = stdout.trimEnd().split('\n').at(-1) as string;
    const result = JSON.parse(last) as { bench: string; machine: { cores: number }; cases: Case[] };
    expect(result.bench).toBe(name);
    expect(result.machine.cores).toBeGreaterThan(0);
    expect(result.cases.map(({ id }) => id)).toEqual(expect.arrayContaining([...ids]));
    for (const one of result.cases) {
      expect(one.limit.value, one.id).toBeGreaterThan(0);
      expect(one.ratio, one.id).toBeCloseTo(one.value / one.limit.value, 9);
      expect(one.unit, one.id).not.toBe('');
      // What another hop adds may be nothing in one round; all else is an amount.
      if (!one.id.endsWith('/added')) expect(one.value, one.id).toBeGreaterThan(0);
    }
  },
);

test('without a name it lists the benches', () => {
  const { status, stdout } = bench();
  expect(status).toBe(0);
  const names = Object.keys(expected).map((command) => command.split(' ')[0]);
  for (const name of [...names, 'cache']) expect(stdout).toContain(`  ${name} `);
});

test.each([
  [['nonsense'], "there is no bench 'nonsense'"],
  [['ship', '--transport', 'carrier-pigeon'], '--transport is tcp or verbs'],
  [['ship', '--seconds', '0.5'], '--seconds is a whole number'],
  [['ship', '--transport', 'verbs'], 'scripts/softroce'],
  [['ship', '--database', 'postgres'], '--database is postgres, and of the bench failover alone'],
  [['failover', '--versus', 'patroni'], '--versus is patroni, with --database postgres'],
])('%j is refused', (args, message) => {
  const { status, stderr } = bench(...args);
  expect(status).toBe(1);
  expect(stderr).toContain(message);
});

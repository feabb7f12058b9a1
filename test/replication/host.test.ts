// Hosts that lack what RDMA needs: the package loads and runs, and says exactly what is missing.
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, realpathSync, rmSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { credentials, smallArena, smallLog } from '../lib/cluster.js';
import { runInline } from '../lib/inline.js';

const script = `
  const { verbs } = capabilities();
  const { rmSync } = await import('node:fs');
  const lines = { state: verbs.state, detail: verbs.detail, devices: verbs.devices.length };
  for (const transport of ['auto', 'verbs']) {
    try {
      const engine = await Engine.open({ ...argument, transport });
      lines[transport] = engine.verbsProblem;
      await engine.promote();
      await engine.committed(engine.append(Buffer.from('works')));
      await engine.close();
    } catch (error) {
      lines[transport] = error.code + ': ' + error.message;
    }
  }
  console.log(JSON.stringify(lines));`;

interface Found {
  readonly state: string;
  readonly detail: string;
  readonly devices: number;
  readonly auto: string;
  readonly verbs: string;
}

async function look(prefix: readonly string[] = []): Promise<Found> {
  const dir = mkdtempSync('/dev/shm/walship-host-');
  try {
    const argument = { dir: `${dir}/a`, nodeId: 'a', cluster: credentials, log: smallLog, arena: smallArena };
    const outcome = await runInline(script, argument, prefix);
    expect(outcome).toMatchObject({ code: 0, signal: null });
    return JSON.parse(outcome.stdout) as Found;
  } finally {
    rmSync(dir, { recursive: true });
  }
}

function libibverbs(): string {
  const found = /libibverbs\.so\.1 .*=> (\S+)/.exec(
    execFileSync('/sbin/ldconfig', ['-p'], { encoding: 'utf8' }),
  );
  return found?.[1] === undefined ? '' : realpathSync(found[1]);
}

const root = process.getuid?.() === 0;
/** Runs the command where `change` has been done to a mount namespace of its own. */
const where = (change: string) => [
  'unshare',
  '--mount',
  '--propagation',
  'private',
  'sh',
  '-c',
  `${change} && exec "$@"`,
  'sh',
];

describe('a host', () => {
  test('as it is: the state tells what there is', async () => {
    const found = await look();
    if (libibverbs() === '') expect(found.state).toBe('library-absent');
    else if (!existsSync('/sys/class/infiniband_verbs/abi_version'))
      expect(found.state).toBe('kernel-support-absent');
    else expect(['no-device', 'ready']).toContain(found.state);
    if (found.state !== 'ready') {
      expect(found.detail).not.toBe('');
      expect(found.auto).toContain(found.detail);
      expect(found.verbs).toMatch(/^WALSHIP_ERR_RDMA_UNAVAILABLE: /);
    }
    console.log(`this host: ${found.state}: ${found.detail}`);
  });

  test.skipIf(!root || libibverbs() === '')(
    'without libibverbs: library-absent, and what to install',
    async () => {
      const found = await look(where(`mount --bind /dev/null ${libibverbs()}`));
      expect(found.state).toBe('library-absent');
      expect(found.detail).toContain('libibverbs.so.1');
      expect(found.detail).toContain('rdma-core');
      expect(found.auto).toContain('libibverbs.so.1');
      expect(found.verbs).toMatch(/^WALSHIP_ERR_RDMA_UNAVAILABLE: /);
      expect(found.devices).toBe(0);
    },
  );

  test.skipIf(!root || libibverbs() === '')(
    'with a libibverbs that is another library: symbol-missing',
    async () => {
      const libc = /libz\.so\.1 .*=> (\S+)/.exec(
        execFileSync('/sbin/ldconfig', ['-p'], { encoding: 'utf8' }),
      )?.[1];
      const found = await look(where(`mount --bind ${realpathSync(libc ?? '')} ${libibverbs()}`));
      expect(found.state).toBe('symbol-missing');
      expect(found.detail).toContain('ibv_');
    },
  );

  test.skipIf(!root || libibverbs() === '')(
    'without user verbs in the kernel: kernel-support-absent',
    async () => {
      const found = await look(where('mount -t tmpfs none /sys/class'));
      expect(found.state).toBe('kernel-support-absent');
      expect(found.detail).toContain('ib_uverbs');
    },
  );
});

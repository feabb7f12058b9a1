import { expect, test } from 'vitest';
import { runInline } from '../lib/inline.js';

test('every rxe device of the lab is found, with a RoCE v2 address on its network device', async () => {
  const outcome = await runInline('console.log(JSON.stringify(capabilities().verbs));');
  expect(outcome).toMatchObject({ code: 0, stderr: '' });
  const { state, detail, devices } = JSON.parse(outcome.stdout) as {
    state: string;
    detail: string;
    devices: { name: string; ports: { state: string; gids: { address: string; type: string }[] }[] }[];
  };
  expect({ state, detail }).toEqual({ state: 'ready', detail: '' });
  const wanted = (process.env['WALSHIP_LAB_DEVICES'] ?? '').split(',').map((each) => each.split(':'));
  for (const [name, address] of wanted) {
    const port = devices.find((device) => device.name === name)?.ports[0];
    expect(port?.state).toBe('ACTIVE');
    expect(port?.gids.some((gid) => gid.type === 'RoCE v2' && gid.address === address)).toBe(true);
  }
});

test('without user verbs in the kernel: kernel-support-absent', async () => {
  const hidden = ['unshare', '--mount', '--propagation', 'private', 'sh', '-c'];
  const prefix = [...hidden, 'mount -t tmpfs none /sys/class && exec "$@"', 'sh'];
  const outcome = await runInline('console.log(capabilities().verbs.state);', {}, prefix);
  expect(outcome.stdout.trim()).toBe('kernel-support-absent');
});

import { describe, expect, test } from 'vitest';
import { RailKeeper, type RailPort } from '../../src/cluster/rail-keeper.js';
import { type Host, inSubnet, railEnds, railsTo } from '../../src/cluster/rails.js';
import type { NativeRails, NativeRailTarget, NativeVerbs, RailEnd } from '../../src/engine/native.js';
import { dispatchSettings } from '../../src/engine/options.js';

const host: Host = {
  addresses: [
    { name: 'lo', address: '127.0.0.1', cidr: '127.0.0.1/8', internal: true },
    { name: 'eth0', address: '10.0.0.2', cidr: '10.0.0.2/24', internal: false },
    { name: 'eth1', address: '10.1.0.2', cidr: '10.1.0.2/24', internal: false },
    { name: 'eth1', address: 'fd00::2', cidr: 'fd00::2/64', internal: false },
    { name: 'eth1', address: 'fe80::2', cidr: 'fe80::2/64', internal: false },
  ],
  number: (path) =>
    ({
      '/sys/class/net/eth0/speed': 100_000,
      '/sys/class/net/eth0/mtu': 9000,
      '/sys/class/net/eth0/device/numa_node': 1,
      '/sys/class/net/eth1/speed': -1, // what a link that is down says
      '/sys/class/net/eth1/mtu': 1500,
    })[path],
};

const verbs = {
  state: 'ready',
  detail: '',
  devices: [
    {
      name: 'mlx5_0',
      problem: '',
      ports: [
        {
          port: 1,
          state: 'ACTIVE',
          linkLayer: 'Ethernet',
          speed: '200 Gb/sec (4X HDR)',
          mtuBytes: 4096,
          gids: [{ index: 3, address: '10.0.0.2', type: 'RoCE v2', netdev: 'eth0' }],
        },
      ],
    },
  ],
} as NativeVerbs;
const all = () => true;

const end = (address: string, port = 7100, device = ''): RailEnd => ({
  host: address,
  port,
  device,
  speedMbps: 0,
  mtuBytes: 0,
  numaNode: -1,
});

test('subnets', () => {
  expect(inSubnet('10.0.0.77', '10.0.0.2/24')).toBe(true);
  expect(inSubnet('10.0.1.77', '10.0.0.2/24')).toBe(false);
  expect(inSubnet('10.0.1.77', '10.0.0.2/16')).toBe(true);
  expect(inSubnet('fd00::1:2', 'fd00::2/64')).toBe(true);
  expect(inSubnet('fd01::2', 'fd00::2/64')).toBe(false);
  expect(inSubnet('10.0.0.1', 'fd00::2/64')).toBe(false);
  expect(inSubnet('10.0.0.1', null)).toBe(false);
  expect(inSubnet('db.example', '10.0.0.2/24')).toBe(false);
});

describe('what a node tells of the ways to it', () => {
  test('the addresses that it listens on, with device, speed, MTU and NUMA node', () => {
    expect(
      railEnds(
        [
          { host: '10.0.0.2', port: 7100 },
          { host: '10.1.0.2', port: 0 },
        ],
        verbs,
        all,
        host,
      ),
    ).toEqual([
      { host: '10.0.0.2', port: 7100, device: 'mlx5_0', speedMbps: 200_000, mtuBytes: 4096, numaNode: 1 },
      { host: '10.1.0.2', port: 0, device: '', speedMbps: 0, mtuBytes: 1500, numaNode: -1 },
    ]);
  });

  test('over TCP alone it is the network device that counts', () => {
    expect(railEnds([{ host: '10.0.0.2', port: 1 }], undefined, all, host)).toEqual([
      { host: '10.0.0.2', port: 1, device: '', speedMbps: 100_000, mtuBytes: 9000, numaNode: 1 },
    ]);
    expect(railEnds([{ host: '10.0.0.2', port: 1 }], verbs, () => false, host)[0]?.device).toBe('');
  });

  test('a wildcard is every address that others can reach; a name is none', () => {
    const hosts = (name: string) =>
      railEnds([{ host: name, port: 1 }], undefined, all, host).map((one) => one.host);
    expect(hosts('0.0.0.0')).toEqual(['10.0.0.2', '10.1.0.2']);
    expect(hosts('::')).toEqual(['10.0.0.2', '10.1.0.2', 'fd00::2']);
    expect(hosts('db1.example')).toEqual([]);
  });
});

describe('what rails a standby makes of that', () => {
  const devices = [
    { device: 'mlx5_0', port: 1, address: '10.0.0.2' },
    { device: 'mlx5_1', port: 1, address: '10.1.0.2' },
  ];
  const local = { devices, addresses: ['10.0.0.2', '10.1.0.2'], transports: 3 };
  const shown = (ends: RailEnd[], from = local) =>
    railsTo('a', ends, from, host).map(
      ({ name, source, near }) => `${name} from ${source || 'any'}${near ? '' : ', far'}`,
    );

  test('RDMA with the device, and TCP from the address, in the same subnet', () => {
    expect(shown([end('10.1.0.1', 7100, 'x'), end('10.0.0.1', 7101, 'y')])).toEqual([
      'verbs:mlx5_1@10.1.0.1:7100 from 10.1.0.2',
      'tcp@10.1.0.1:7100 from 10.1.0.2',
      'verbs:mlx5_0@10.0.0.1:7101 from 10.0.0.2',
      'tcp@10.0.0.1:7101 from 10.0.0.2',
    ]);
  });

  test('each in its turn where that does not tell', () => {
    expect(shown([end('10.9.0.1', 1, 'x'), end('10.9.1.1', 2, 'y'), end('10.9.2.1', 3, 'z')])).toEqual([
      'verbs:mlx5_0@10.9.0.1:1 from 10.0.0.2, far',
      'tcp@10.9.0.1:1 from any, far',
      'verbs:mlx5_1@10.9.1.1:2 from 10.1.0.2, far',
      'tcp@10.9.1.1:2 from any, far',
      'verbs:mlx5_0@10.9.2.1:3 from 10.0.0.2, far',
      'tcp@10.9.2.1:3 from any, far',
    ]);
  });

  test('only what both sides can', () => {
    expect(shown([end('10.0.0.1')])).toEqual(['tcp@10.0.0.1:7100 from 10.0.0.2']);
    expect(shown([end('10.0.0.1', 7100, 'x')], { ...local, transports: 1 })).toEqual([
      'tcp@10.0.0.1:7100 from 10.0.0.2',
    ]);
    expect(shown([end('10.0.0.1', 7100, 'x')], { ...local, transports: 2 })).toEqual([
      'verbs:mlx5_0@10.0.0.1:7100 from 10.0.0.2',
    ]);
    expect(shown([end('10.0.0.1')], { ...local, transports: 2 })).toEqual([]);
    expect(shown([end('fd00::1')])).toEqual(['tcp@[fd00::1]:7100 from any']);
  });
});

describe('the keeper', () => {
  type Rail = NativeRails['rails'][number];
  const rail = (name: string, changed: Partial<Rail> = {}): Rail => ({
    name,
    carries: false,
    spare: false,
    heardMsAgo: 0,
    retransmits: 0,
    failures: 0,
    ...changed,
  });

  function kept(status: NativeRails | undefined, settings: Parameters<typeof dispatchSettings>[0] = {}) {
    const plans: { rails: readonly NativeRailTarget[]; upstream: string }[] = [];
    const orders: { carry: readonly string[]; why: string }[] = [];
    const at = { status };
    const port: RailPort = {
      status: () => at.status,
      setRails: async (rails, upstream) => {
        plans.push({ rails, upstream });
        return true;
      },
      steer: (_, carry, why) => orders.push({ carry, why }),
    };
    const keeper = new RailKeeper(
      port,
      dispatchSettings(settings),
      { devices: [], addresses: [], transports: 1 },
      host,
    );
    keeper.start();
    const look = () => keeper.choose({});
    return { keeper, plans, orders, at, look };
  }

  const ends = [end('10.0.0.1'), end('10.1.0.1')];
  const names = ['tcp@10.0.0.1:7100', 'tcp@10.1.0.1:7100'];

  test('one rail: no spare link, nothing to decide', async () => {
    const { keeper, plans, orders, look } = kept({
      rails: [rail('tcp@10.0.0.1:7100', { carries: true })],
      railsNode: 'a',
      railEnds: [end('10.0.0.1')],
    });
    await look();
    keeper.stop();
    expect(plans.at(-1)?.rails ?? []).toEqual([]);
    expect(orders).toEqual([]);
    expect(keeper.status().rails).toMatchObject([{ part: 'carries', why: 'the only one' }]);
  });

  test('a spare link for each of several, and none for what is excluded', async () => {
    const { keeper, plans, look } = kept(
      {
        rails: [rail(names[0] as string, { carries: true })],
        railsNode: 'a',
        railEnds: [...ends, end('10.2.0.1')],
      },
      { exclude: ['*@10.2.*'] },
    );
    await look();
    keeper.stop();
    expect(plans).toMatchObject([{ upstream: 'a', rails: [{ name: names[0] }, { name: names[1] }] }]);
    expect(keeper.status().rails.map(({ name, part }) => [name, part])).toEqual([
      [names[0], 'carries'],
      [names[1], 'down'],
      ['tcp@10.2.0.1:7100', 'excluded'],
    ]);
  });

  test('who came by a way that the upstream does not tell of stays there', async () => {
    const { keeper, plans, orders, look } = kept({
      rails: [rail('tcp@192.0.2.7:443', { carries: true })],
      railsNode: 'a',
      railEnds: ends,
    });
    await look();
    keeper.stop();
    expect(plans.at(-1)?.rails ?? []).toEqual([]);
    expect(orders).toEqual([]);
  });

  test('a decision that the data plane has dropped is said again', async () => {
    const status = (carries: number): NativeRails => ({
      rails: names.map((name, index) => rail(name, { carries: index === carries, spare: true })),
      railsNode: 'a',
      railEnds: ends,
    });
    const { keeper, orders, at, look } = kept(status(0), { pin: [names[1] as string], returnMs: 0 });
    await look();
    await look();
    expect(orders.map(({ carry }) => carry)).toEqual([[names[1]], [names[1]]]);
    at.status = status(1);
    await look();
    await look();
    keeper.stop();
    expect(orders).toHaveLength(2);
  });

  test('another upstream is another matter', async () => {
    const { keeper, plans, at, look } = kept({
      rails: [rail(names[0] as string, { carries: true })],
      railsNode: 'a',
      railEnds: ends,
    });
    await look();
    at.status = undefined;
    await look();
    expect(keeper.status()).toEqual({ upstream: '', rails: [] });
    at.status = { rails: [rail(names[0] as string, { carries: true })], railsNode: 'b', railEnds: ends };
    await look();
    keeper.stop();
    expect(plans.map(({ upstream }) => upstream)).toEqual(['a', 'b']);
  });
});

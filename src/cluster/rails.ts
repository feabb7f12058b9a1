import { readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import { networkInterfaces } from 'node:os';
import type { NativeRailTarget, NativeVerbs, RailEnd } from '../engine/native.js';

/** A rail to an upstream, and how to connect over it. */
export interface RailPlan extends NativeRailTarget {
  readonly transport: 'tcp' | 'verbs';
  readonly near: boolean;
  readonly speedMbps: number;
}

/** An RDMA device that the engine has opened. */
export interface LocalDevice {
  readonly device: string;
  readonly port: number;
  /** Of its GID. */
  readonly address: string;
}

/** By what a downstream connects. */
export interface LocalEnds {
  readonly devices: readonly LocalDevice[];
  /** Its own addresses; none: the system chooses. */
  readonly addresses: readonly string[];
  /** Bits, as in `NativeSettings`. */
  readonly transports: number;
}

/** The network of this host, as far as rails are concerned. */
export interface Host {
  readonly addresses: readonly {
    readonly name: string;
    readonly address: string;
    readonly cidr: string | null;
    readonly internal: boolean;
  }[];
  /** The number in a small file of /sys; undefined where there is none. */
  number(path: string): number | undefined;
}

/** As the data plane has it (kRailsMax, a spare link for each). */
export const railsMax = 8;
const transportBit = { tcp: 1, verbs: 2 } as const;

export const thisHost: Host = {
  get addresses() {
    return Object.entries(networkInterfaces()).flatMap(([name, list]) =>
      (list ?? []).map(({ address, cidr, internal }) => ({ name, address, cidr, internal })),
    );
  },
  number(path) {
    try {
      const value = Number(readFileSync(path, 'utf8'));
      return Number.isFinite(value) ? value : undefined;
    } catch {
      return undefined; // no such device, or it does not say
    }
  },
};

/** `10.0.0.1:7400`, `[fd00::1]:7400`. */
const at = (host: string, port: number) => (host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`);

function bits(address: string): string | undefined {
  if (isIP(address) === 4) {
    return address
      .split('.')
      .map((part) => Number(part).toString(2).padStart(8, '0'))
      .join('');
  }
  if (isIP(address) !== 6) return undefined;
  const [head = '', tail] = address.split('%', 1)[0]?.split('::') ?? [];
  const groups = (text: string) => (text === '' ? [] : text.split(':'));
  const [first, last] = [groups(head), groups(tail ?? '')];
  if ([...first, ...last].some((group) => group.includes('.'))) return undefined;
  const zeros = tail === undefined ? [] : Array<string>(8 - first.length - last.length).fill('0');
  return [...first, ...zeros, ...last]
    .map((group) => Number.parseInt(group, 16).toString(2).padStart(16, '0'))
    .join('');
}

/** Whether `address` is in the subnet that `cidr` (`10.0.0.1/24`) is in. */
export function inSubnet(address: string, cidr: string | null): boolean {
  const [network, length] = cidr?.split('/') ?? [];
  const [left, right] = [bits(address), network === undefined ? undefined : bits(network)];
  if (left === undefined || right === undefined || left.length !== right.length) return false;
  return left.slice(0, Number(length)) === right.slice(0, Number(length));
}

/** `100 Gb/sec (4X EDR)` → 100000 */
const speedOf = (text: string) => Math.round(Number.parseFloat(text) * 1000) || 0;

/**
 * The addresses by which a node that listens on `listens` can be reached, with what is known of each way: what it tells its
 * downstreams. A wildcard stands for every address of the host that is not its own alone; a host name is left out.
 */
export function railEnds(
  listens: readonly { readonly host: string; readonly port: number }[],
  verbs: NativeVerbs | undefined,
  devices: (device: string, address: string) => boolean,
  host: Host,
): RailEnd[] {
  const ends = listens.flatMap(({ host: name, port: number }) => {
    if (name !== '' && name !== '0.0.0.0' && name !== '::') return isIP(name) ? [{ host: name, number }] : [];
    const outside = host.addresses.filter(
      ({ address, internal }) =>
        !internal && !address.startsWith('fe80') && (name === '::' || isIP(address) === 4),
    );
    return outside.map(({ address }) => ({ host: address, number }));
  });
  return ends.slice(0, railsMax).map(({ host: address, number }) => {
    const port = verbs?.devices
      .flatMap((device) => device.ports.map((one) => ({ device: device.name, ...one })))
      .find(
        (one) =>
          devices(one.device, address) && one.gids.some((gid) => gid.address === address && gid.netdev),
      );
    const netdev = host.addresses.find((one) => one.address === address)?.name ?? '';
    return {
      host: address,
      port: number,
      device: port?.device ?? '',
      speedMbps: port ? speedOf(port.speed) : Math.max(0, host.number(`/sys/class/net/${netdev}/speed`) ?? 0),
      mtuBytes: port?.mtuBytes ?? host.number(`/sys/class/net/${netdev}/mtu`) ?? 0,
      numaNode: host.number(`/sys/class/net/${netdev}/device/numa_node`) ?? -1,
    };
  });
}

/**
 * The rails to an upstream that has told its `ends`: for each of them TCP, and RDMA where both sides have a device. The
 * device, or the address, here is one in the same subnet, if there is one, and each in its turn: the upstream's first goes
 * with the first here.
 *
 * Names: `tcp@10.0.0.2:7400`, `verbs:rxe0@10.0.0.2:7400`; the data plane gives the same to the links it makes.
 */
export function railsTo(
  node: string,
  ends: readonly RailEnd[],
  { devices, addresses: own, transports }: LocalEnds,
  host: Host,
): RailPlan[] {
  const addresses = host.addresses;
  const subnetOf = (address: string) => addresses.find((one) => one.address === address)?.cidr ?? null;
  const rails: RailPlan[] = [];
  const turns = new Map<string, number>();
  const inTurn = <T>(choices: readonly T[], name: (choice: T) => string): T | undefined => {
    const key = choices.map(name).join();
    const turn = turns.get(key) ?? 0;
    turns.set(key, turn + 1);
    return choices[turn % choices.length];
  };
  for (const end of ends) {
    const target = { host: end.host, port: end.port, node, discardCommitted: false };
    const nearBy = addresses.some(({ cidr }) => inSubnet(end.host, cidr));
    if (end.device !== '' && (transports & transportBit.verbs) !== 0 && devices.length > 0) {
      const same = devices.filter(({ address }) => inSubnet(end.host, subnetOf(address)));
      const choices = same.length > 0 ? same : devices;
      const { device, address } = inTurn(choices, (choice) => choice.device) as LocalDevice;
      rails.push({
        ...target,
        name: `verbs:${device}@${at(end.host, end.port)}`,
        transport: 'verbs',
        transports: transportBit.verbs,
        device,
        source: isIP(address) === isIP(end.host) ? address : '',
        near: same.length > 0,
        speedMbps: end.speedMbps,
      });
    }
    if ((transports & transportBit.tcp) !== 0) {
      rails.push({
        ...target,
        name: `tcp@${at(end.host, end.port)}`,
        transport: 'tcp',
        transports: transportBit.tcp,
        device: '',
        source:
          inTurn(
            own.filter((address) => inSubnet(end.host, subnetOf(address))),
            (address) => address,
          ) ?? '',
        near: nearBy,
        speedMbps: end.speedMbps,
      });
    }
  }
  return rails;
}

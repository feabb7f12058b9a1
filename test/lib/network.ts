// Where the nodes of a test cluster live, and what can be done to the wires between them. The scenarios know only this.
import { execFile, execFileSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { promisify } from 'node:util';
import type { EngineOptions, Upstream } from '../../src/index.js';

export interface Network {
  readonly transport: 'tcp' | 'verbs';
  /** For the names of tests. */
  readonly label: string;
  /** How much slower than this machine's own processor: every patience of a test is multiplied by it. */
  readonly slow: number;
  /** What a workload appends unless the scenario says otherwise. */
  readonly bytesPerSecond: number;
  /** Cuts real wires. */
  readonly wires: boolean;
  /** Disturbs them with netem: the lab does, over TCP and over verbs; not every host's kernel has sch_netem. */
  readonly disturbs: boolean;
  readonly options: Pick<EngineOptions, 'transport' | 'links'>;
  /** Of node `index`, from 0. */
  address(index: number): string;
  /** A second way to every node, with wires of its own, where there is one. */
  readonly second?: SecondWay;
  /** An address of the test process itself that the nodes can reach. */
  readonly ownAddress: string;
  verbs(index: number): EngineOptions['verbs'];
  source(index: number): Pick<Upstream, 'source'>;
  /** The command under which the node's process runs. */
  prefix(index: number): readonly string[];
  cut(index: number): Promise<void>;
  heal(index: number): Promise<void>;
  netem(index: number, ...settings: string[]): Promise<void>;
  /** Ends netem. */
  clear(index: number): Promise<void>;
  close(): void;
}

export type SecondWay = Pick<Network, 'address' | 'verbs' | 'cut' | 'heal' | 'netem' | 'clear'>;

const run = (command: string, ...args: string[]) =>
  execFileSync(command, args, { stdio: ['ignore', 'pipe', 'pipe'], encoding: 'utf8' });
/** While a workload runs: the test goes on hearing what is acknowledged. */
const runAside = async (command: string, ...args: string[]): Promise<void> => {
  await promisify(execFile)(command, args);
};
const attempt = (command: string, ...args: string[]): string => {
  try {
    run(command, ...args);
    return '';
  } catch (error) {
    const { stderr, message } = error as Error & { stderr?: string };
    return (stderr || message).trim();
  }
};

const none = async () => {
  throw new Error('this network cannot do that');
};

const tcpLinks = {
  heartbeatMs: 20,
  timeoutMs: 1000,
  setupTimeoutMs: 2000,
  reconnectMsMin: 20,
  reconnectMsMax: 300,
};

/** Every node on 127.0.0.1: no wire to cut, nothing asked of the machine. */
export function loopback(): Network {
  return {
    transport: 'tcp',
    label: 'TCP on loopback',
    slow: 1,
    bytesPerSecond: 8 << 20,
    wires: false,
    disturbs: false,
    options: { transport: 'tcp', links: tcpLinks },
    address: () => '127.0.0.1',
    ownAddress: '127.0.0.1',
    verbs: () => undefined,
    source: () => ({}),
    prefix: () => [],
    cut: none,
    heal: none,
    netem: none,
    clear: none,
    close: () => {},
  };
}

/** Why namespaces cannot be had; empty if they can. */
export function namespacesProblem(): string {
  if (process.getuid?.() !== 0) return 'network namespaces need root';
  const name = `wsp${process.pid}`;
  const problem = attempt('ip', 'netns', 'add', name);
  if (problem === '') run('ip', 'netns', 'del', name);
  return problem;
}

/** Every node in a network namespace of its own, joined by veth pairs to a bridge. Needs root. */
export function namespaces(nodes: number): Network {
  removeLeftovers();
  const id = process.pid;
  const space = (index: number) => `ws${id}n${index}`;
  for (let index = 0; index < nodes; index++) {
    run('ip', 'netns', 'add', space(index));
    run('ip', '-n', space(index), 'link', 'set', 'lo', 'up');
  }
  /** A bridge with a port for every namespace, and `device` at the other end. */
  const way = (net: string, bridge: string, letter: string, device: string) => {
    const port = (index: number) => `ws${id}${letter}${index}`;
    run('ip', 'link', 'add', bridge, 'type', 'bridge', 'stp_state', '0', 'forward_delay', '0');
    run('ip', 'address', 'add', `${net}.254/24`, 'dev', bridge);
    run('ip', 'link', 'set', bridge, 'up');
    for (let index = 0; index < nodes; index++) {
      run('ip', 'link', 'add', port(index), 'type', 'veth', 'peer', 'name', device, 'netns', space(index));
      run('ip', 'link', 'set', port(index), 'master', bridge, 'up');
      run('ip', '-n', space(index), 'address', 'add', `${net}.${index + 1}/24`, 'dev', device);
      run('ip', '-n', space(index), 'link', 'set', device, 'up');
    }
    return {
      address: (index: number) => `${net}.${index + 1}`,
      verbs: () => undefined,
      cut: (index: number) => runAside('bridge', 'link', 'set', 'dev', port(index), 'state', '0'),
      heal: (index: number) => runAside('bridge', 'link', 'set', 'dev', port(index), 'state', '3'),
      netem: none,
      clear: none,
    };
  };
  const bridges = [`wsb${id}`, `wsb${id}s`] as const;
  const net = `10.98.${id % 250}`;
  const first = way(net, bridges[0], 'p', 'eth0');
  const second = way(`10.97.${id % 250}`, bridges[1], 'q', 'eth1');
  const close = () => {
    for (let index = 0; index < nodes; index++) attempt('ip', 'netns', 'del', space(index));
    for (const bridge of bridges) attempt('ip', 'link', 'del', bridge);
  };
  return {
    transport: 'tcp',
    label: 'TCP between namespaces',
    slow: 1,
    bytesPerSecond: 8 << 20,
    wires: true,
    disturbs: false,
    options: { transport: 'tcp', links: tcpLinks },
    ...first,
    second,
    ownAddress: `${net}.254`,
    source: () => ({}),
    prefix: (index) => ['nsenter', `--net=/run/netns/${space(index)}`],
    close,
  };
}

/** What a run that was killed could not remove. */
function removeLeftovers(): void {
  const spaces = existsSync('/run/netns') ? readdirSync('/run/netns') : [];
  for (const [name, pid] of spaces.map((each) => [each, /^ws(\d+)n\d+$/.exec(each)?.[1]] as const)) {
    if (pid !== undefined && !existsSync(`/proc/${pid}`)) attempt('ip', 'netns', 'del', name);
  }
  for (const link of readdirSync('/sys/class/net')) {
    const pid = /^wsb(\d+)s?$/.exec(link)?.[1];
    if (pid !== undefined && !existsSync(`/proc/${pid}`)) attempt('ip', 'link', 'del', link);
  }
}

/** Namespaces where they can be had, else loopback; the tests that need wires then say why they are skipped. */
export function tcpNetwork(nodes: number): Network {
  const problem = namespacesProblem();
  if (problem === '') return namespaces(nodes);
  console.log(`no network namespaces (${problem}): on loopback, without faults of the wire`);
  return loopback();
}

/**
 * The nodes of the Soft-RoCE lab. With more nodes than devices, devices are shared; with six devices the second three are
 * the nodes' second way.
 */
export function lab(transport: 'tcp' | 'verbs'): Network {
  const devices = (process.env['WALSHIP_LAB_DEVICES'] ?? '')
    .split(',')
    .filter((each) => each !== '')
    .map((each) => each.split(':') as [string, string]);
  if (devices.length === 0) throw new Error('not in the lab: scripts/softroce run --nodes 3 -- …');
  const perWay = devices.length >= 6 ? 3 : devices.length;
  const way = (from: number) => {
    const wire = (index: number) => from + (index % perWay);
    const control = (verb: string, index: number, ...args: string[]) =>
      runAside('walship-lab', verb, String(wire(index) + 1), ...args);
    return {
      address: (index: number) => devices[wire(index)]?.[1] as string,
      verbs: (index: number) =>
        transport === 'verbs' ? { device: devices[wire(index)]?.[0] as string } : undefined,
      cut: (index: number) => control('cut', index),
      heal: (index: number) => control('heal', index),
      netem: (index: number, ...settings: string[]) => control('netem', index, ...settings),
      clear: (index: number) => control('clear', index),
    };
  };
  const first = way(0);
  return {
    transport,
    label: transport === 'verbs' ? 'verbs over rxe' : 'TCP in the lab',
    slow: 4,
    bytesPerSecond: 512 << 10,
    wires: true,
    disturbs: true,
    // An emulated processor: what takes 1 ms elsewhere may take 50.
    options: {
      transport,
      links: {
        heartbeatMs: 50,
        timeoutMs: 3000,
        setupTimeoutMs: 8000,
        reconnectMsMin: 50,
        reconnectMsMax: 500,
      },
    },
    ...first,
    ...(devices.length >= 6 && { second: way(perWay) }),
    ownAddress: '127.0.0.1',
    source: (index) => ({ source: first.address(index) }),
    prefix: () => [],
    close: () => {},
  };
}

// What the network gives without walship, between the hosts of the bench's first hop, by the tools people trust.
import type { Transport } from './bench.js';
import { type Host, hosts } from './hosts.js';
import { freePort, Late, runPair } from './tools.js';

const timeoutMs = 120_000;
/** Longer than a thousand messages take anywhere; beside the seconds that a tool of perftest is asked for. */
const perftestMs = 60_000;
const MiB = 1 << 20;
/** As large as an acknowledgement on the wire. */
const ackBytes = 64;

export interface Throughput {
  readonly name: string;
  readonly bytesPerSecond: number;
  /** Processor time of sender and receiver together per byte; undefined where the tool does not say. */
  readonly cpuNsPerByte?: number;
}

export interface Waiting {
  /** Polls instead of sleeping. */
  readonly polling: boolean;
}

/** One stream, `bytes` at a time. */
export function throughputLimit(transport: Transport, bytes: number, seconds: number): Promise<Throughput> {
  const [from, to] = hosts(2) as [Host, Host];
  return transport === 'tcp' ? iperf(from, to, seconds) : writeBandwidth(from, to, bytes, seconds);
}

/** What a message of `bytes` and an answer of the size of an acknowledgement take, there and back: the median. */
export async function roundTripLimit(
  transport: Transport,
  bytes: number,
  seconds: number,
  { polling }: Waiting,
): Promise<{ name: string; us: number }> {
  const [from, to] = hosts(2) as [Host, Host];
  if (transport === 'tcp') {
    // The tool answers with as much as it was sent: half of the round trip of each size.
    const there = await sockperf(from, to, bytes, seconds, polling);
    const back = bytes === ackBytes ? there : await sockperf(from, to, ackBytes, seconds, polling);
    return { name: `sockperf round trip${polling ? ', polling' : ''}`, us: (there + back) / 2 };
  }
  // These print half of a round trip.
  const tool = polling ? ['ib_write_lat'] : ['ib_send_lat', '-e'];
  const there = await verbsLatency(tool, from, to, bytes);
  const back = bytes === ackBytes ? there : await verbsLatency(tool, from, to, ackBytes);
  return { name: `${tool.join(' ')} round trip`, us: there + back };
}

async function iperf(from: Host, to: Host, seconds: number): Promise<Throughput> {
  const port = await freePort(to.address);
  const output = await runPair(
    ['iperf3', '-s', '-1', '-B', to.address, '-p', String(port), '--forceflush'],
    ['iperf3', '-c', to.address, '-B', from.address, '-p', String(port), '-t', String(seconds), '-J'],
    port,
    timeoutMs,
  );
  const { end } = JSON.parse(output) as {
    end: {
      sum_received: { bits_per_second: number };
      cpu_utilization_percent: { host_total: number; remote_total: number };
    };
  };
  const bytesPerSecond = end.sum_received.bits_per_second / 8;
  const { host_total, remote_total } = end.cpu_utilization_percent;
  return {
    name: 'iperf3, one stream',
    bytesPerSecond,
    cpuNsPerByte: (((host_total + remote_total) / 100) * 1e9) / bytesPerSecond,
  };
}

async function sockperf(
  from: Host,
  to: Host,
  bytes: number,
  seconds: number,
  polling: boolean,
): Promise<number> {
  const port = await freePort(to.address);
  const size = Math.min(bytes, 65_000); // the most that it takes
  const common = ['--tcp', '-i', to.address, '-p', String(port), ...(polling ? ['--nonblocked'] : [])];
  const output = await runPair(
    ['sockperf', 'server', ...common],
    [
      'sockperf',
      'ping-pong',
      ...common,
      '--client_ip',
      from.address,
      '-m',
      String(size),
      '-t',
      String(seconds),
      '--full-rtt',
    ],
    port,
    timeoutMs,
  );
  return field(output, /percentile 50\.000\s*=\s*([\d.]+)/);
}

/**
 * The last row of at least `least` figures that a tool of perftest prints. It is run again, up to three times, when it fails
 * as it does now and then where the processors are emulated: it measures the speed of its clock at the end, and where that
 * went wrong all its figures are 0, inf or nan; and with `-e` it may wait for ever for an event.
 */
async function perftest(
  tool: readonly string[],
  from: Host,
  to: Host,
  more: readonly string[],
  least: number,
  seconds = 0,
): Promise<number[]> {
  for (let left = 3; ; left--) {
    let problem: Error;
    try {
      const output = await perftestOnce(tool, from, to, more, perftestMs + seconds * 1000);
      if (!output.includes('Correlation coefficient')) return numbers(output, least);
      problem = new Error(`${tool.join(' ')} cannot measure its clock here:\n${output.slice(0, 2000)}`);
    } catch (error) {
      if (!(error instanceof Late)) throw error;
      problem = error;
    }
    if (left === 0) throw problem;
    process.stderr.write(`${problem.message.split('\n')[0]}; it is run again\n`);
  }
}

async function perftestOnce(
  tool: readonly string[],
  from: Host,
  to: Host,
  more: readonly string[],
  timeoutMs: number,
): Promise<string> {
  // The control connection of both ends has no address of its own: any of this machine's ports will do.
  const port = await freePort('0.0.0.0');
  const line = (host: Host) => [
    ...tool,
    '-F',
    '-x',
    '1',
    '-d',
    host.device ?? '',
    '-p',
    String(port),
    ...more,
  ];
  return runPair(line(to), [...line(from), to.address], port, timeoutMs);
}

async function writeBandwidth(from: Host, to: Host, bytes: number, seconds: number): Promise<Throughput> {
  const size = ['-s', String(bytes), '-D', String(Math.max(2, seconds))];
  const row = await perftest(['ib_write_bw'], from, to, size, 5, seconds);
  return { name: 'ib_write_bw', bytesPerSecond: (row[3] as number) * MiB };
}

async function verbsLatency(tool: readonly string[], from: Host, to: Host, bytes: number): Promise<number> {
  const size = ['-s', String(bytes), '-n', '1000'];
  return (await perftest(tool, from, to, size, 9))[4] as number;
}

function field(output: string, pattern: RegExp): number {
  const found = Number(pattern.exec(output)?.[1]);
  if (!(found > 0)) throw new Error(`no figure in:\n${output.slice(-2000)}`);
  return found;
}

/** The last row of at least `least` numbers. */
function numbers(output: string, least: number): number[] {
  const rows = output.split('\n').map((line) => line.trim().split(/\s+/).map(Number));
  const row = rows.findLast(
    (each) => each.length >= least && each.every((number) => Number.isFinite(number)),
  );
  if (!row) throw new Error(`no row of ${least} numbers in:\n${output.slice(-2000)}`);
  return row;
}

// Real nodes whose replicas are watched.
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import type { MonitorSettings } from '../../src/consistency/settings.js';
import { type CommitRule, type EngineOptions, Node, type Replica } from '../../src/index.js';
import type { LogEntry } from '../../src/node/report.js';
import { NodeCommand, scratch, secret, until } from '../cli/support.js';

export const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
export const quick: MonitorSettings = {
  checkMs: 25,
  rateMs: 500,
  clearMs: 200,
  stallMs: 600,
  driftMs: 2000,
  driftBytes: 65_536,
};
const quickTable = `[monitor]
check_ms = 25
rate_ms = 500
clear_ms = 200
stall_ms = 600
drift_ms = 2000
drift_bytes = 65536
`;

export class Lab {
  readonly dir = scratch();

  engine(name: string, more: Partial<EngineOptions> = {}): EngineOptions {
    return {
      dir: join(this.dir, name),
      nodeId: name,
      cluster: { id: 'cli', secret },
      listen: '127.0.0.1:0',
      transport: 'tcp',
      commitRule: { level: 'async' } as CommitRule,
      log: { pageBytes: 65_536, segmentBytes: 1 << 20, spareSegments: 1 },
      arena: { bytes: 4 << 20, hugePages: false },
      ...more,
    };
  }

  /** A node in this process, and what it logs. */
  async node(
    name: string,
    role: 'primary' | 'standby',
    upstreamPort = 0,
    monitor = quick,
    more: Partial<EngineOptions> = {},
  ): Promise<{ node: Node; lines: LogEntry[] }> {
    const lines: LogEntry[] = [];
    const upstream = role === 'standby' ? { upstream: { address: `127.0.0.1:${upstreamPort}` } } : {};
    const config = {
      engine: this.engine(name, more),
      role,
      ...upstream,
      monitor,
      adminListen: '127.0.0.1:0',
    };
    const node = await Node.start(config, { log: (line) => lines.push(line) });
    onTestFinished(() => node.stop());
    return { node, lines };
  }

  standbyProcess(name: string, upstreamPort: number): Promise<NodeCommand> {
    return NodeCommand.start(this.dir, name, `upstream = "127.0.0.1:${upstreamPort}"`, [], quickTable);
  }
}

export function replica(node: Node, name: string): Replica {
  const found = node.status().monitor.replicas.find((each) => each.node === name);
  if (found === undefined) throw new Error(`${node.engine.nodeId} does not know ${name}`);
  return found;
}

export const knows = (node: Node, ...names: string[]) =>
  until(`${node.engine.nodeId} knows ${names}`, () =>
    names.every((name) =>
      node.status().monitor.replicas.some((each) => each.node === name && each.link === 'up'),
    ),
  );

/** Appends so often, until it is told to stop. */
export function load(node: Node, bytes: number, everyMs: number): { stop(): void } {
  const timer = setInterval(
    () => void node.engine.appendWhenWritable(Buffer.alloc(bytes, 1)).catch(() => {}),
    everyMs,
  );
  onTestFinished(() => clearInterval(timer));
  return { stop: () => clearInterval(timer) };
}

import { setTimeout as sleep } from 'node:timers/promises';
import { WalshipError } from '../engine/errors.js';
import { formatLsn } from '../engine/lsn.js';
import { readNodeConfig } from '../node/config.js';
import { Node } from '../node/node.js';
import { jsonLine, type LogEntry, textLine } from '../node/report.js';
import { exitCode, UsageError } from './exit.js';

export interface NodeOptions {
  readonly config: string;
  readonly logFormat: 'text' | 'json';
  readonly stdin?: boolean;
}

const stopMsMax = 10_000;

/** `walship node`: runs until a signal ends it. */
export async function runNode(options: NodeOptions): Promise<number> {
  const config = readNodeConfig(options.config);
  if (options.stdin && config.role !== 'primary' && !config.failover) {
    throw new UsageError(
      '--stdin appends to the log, which only a node with role = "primary" may do, or one with [failover]',
    );
  }
  const line = options.logFormat === 'json' ? jsonLine : textLine;
  const log = (entry: LogEntry) => process.stdout.write(`${line(entry)}\n`);
  const node = await Node.start(config, { log });

  let signals = 0;
  const onSignal = () => {
    signals++;
    if (signals > 1) process.exit(exitCode.failed);
    setTimeout(() => {
      log(
        problem(
          'stopping',
          `not stopped within ${stopMsMax / 1000} s: gives up; the next start recovers the log`,
        ),
      );
      process.exit(exitCode.failed);
    }, stopMsMax).unref();
    void node.stop();
  };
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, onSignal);

  if (options.stdin) {
    appendInput(node, log).catch((error: unknown) => {
      if (signals === 0)
        log(problem('input', `input is no longer appended: ${(error as Error).message}`, error));
    });
  }
  await node.done;
  return exitCode.ok;
}

const roleLookMs = 20;

/** With failover the input waits until this node is the primary. */
async function appendInput(node: Node, log: (entry: LogEntry) => void): Promise<void> {
  while (node.engine.role !== 'primary') await sleep(roleLookMs);
  let bytes = 0;
  let end = node.engine.positions.received;
  for await (const chunk of process.stdin as AsyncIterable<Buffer>) {
    for (let at = 0; at < chunk.length; at += node.engine.appendBytesMax) {
      end = await node.engine.appendWhenWritable(chunk.subarray(at, at + node.engine.appendBytesMax));
    }
    bytes += chunk.length;
  }
  await node.engine.committed(end);
  const message = `end of input: ${bytes} bytes appended and committed, up to LSN ${formatLsn(end)}`;
  log({ time: new Date(), level: 'info', event: 'input', message, facts: { bytes, lsn: String(end) } });
}

function problem(event: string, message: string, error?: unknown): LogEntry {
  const code = error instanceof WalshipError ? { code: error.code } : {};
  return { time: new Date(), level: 'error', event, message, ...code };
}

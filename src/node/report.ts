import type { FindingChange } from '../consistency/monitor.js';
import type { EngineEvent } from '../engine/engine.js';
import { formatLsn } from '../engine/lsn.js';

/** Something a node tells about itself: one line of its log. */
export interface LogEntry {
  readonly time: Date;
  readonly level: 'info' | 'warn' | 'error';
  /** The engine's event type, or one of the node's own: `starting`, `recovered`, `listening`, `admin`, `role`, … */
  readonly event: string;
  /** For people: one line, never empty. */
  readonly message: string;
  /** `WALSHIP_ERR_…` where something is wrong. */
  readonly code?: string;
  /** Facts for programs: `node`, `lsn`, `port`, … An LSN is decimal text. */
  readonly facts?: Readonly<Record<string, string | number | boolean>>;
}

const levels: Partial<Record<string, LogEntry['level']>> = {
  'upstream-down': 'warn',
  'upstream-unreachable': 'warn',
  'downstream-down': 'warn',
  'rail-down': 'warn',
  'connection-refused': 'warn',
  'rule-failing': 'warn',
  'lease-expired': 'warn',
  'log-cut': 'warn',
  'postgres-disconnected': 'warn',
  demoted: 'warn',
  'storage-problem': 'error',
  failed: 'error',
};

/** An event of the engine as a line; undefined for what is no news to a person. */
export function describeEvent(event: EngineEvent): LogEntry | undefined {
  const message = sentence(event);
  if (message === undefined) return undefined;
  return {
    time: new Date(),
    // What a database says is as bad as its code.
    level: levels[event.type] ?? (event.type === 'postgres-server' && event.code !== '' ? 'warn' : 'info'),
    event: event.type,
    message,
    ...(event.code !== '' && { code: event.code }),
    facts: { ...(event.node !== '' && { node: event.node }), lsn: String(event.lsn), ...railsIn(event) },
  };
}

/** From which rails to which, of a change of them. */
function railsIn({ type, message }: EngineEvent): { readonly from?: string; readonly to?: string } {
  const [, from, to] = (type === 'rail-changed' && /^(.+?) → (.+?): /.exec(message)) || [];
  return from !== undefined && to !== undefined ? { from, to } : {};
}

/** What the monitor has found, or what is over, as a line. */
export function describeFinding({ on, finding }: FindingChange): LogEntry {
  const { kind, node, level, code, message } = finding;
  return {
    time: new Date(),
    level: on ? level : 'info',
    event: kind,
    message: on ? message : `no longer: ${kind} of ${node}`,
    ...(on && { code }),
    facts: { node, over: !on },
  };
}

function sentence({ type, node, message, lsn }: EngineEvent): string | undefined {
  switch (type) {
    case 'upstream-up':
      return `connected to upstream ${node}`;
    case 'upstream-down':
      return `lost upstream ${node}: ${message}`;
    case 'upstream-unreachable':
      return `cannot reach the upstream: ${message}`;
    case 'downstream-up':
      return `standby ${node} connected`;
    case 'downstream-down':
      return `standby ${node} is gone: ${message}`;
    case 'connection-refused':
      return `refused a connection${node === '' ? '' : ` from ${node}`}: ${message}`;
    case 'rail-changed':
      return `the link to ${node} moved: ${message}`;
    case 'rail-up':
      return `a rail to ${node} is up: ${message}`;
    case 'rail-down':
      return `a rail to ${node} is down: ${message}`;
    case 'epoch':
      return `${message}, as ${node} says`;
    case 'lease-renewed':
      return 'the lease is renewed; commits go on';
    case 'rule-failing':
    case 'lease-expired':
    case 'sqlite-snapshot':
    case 'sqlite-problem':
    case 'sqlite-capture-failed':
    case 'sqlite-commit-timeout':
    case 'postgres-server':
      return message;
    case 'postgres-connected':
      return `receives from the PostgreSQL server, from LSN ${formatLsn(lsn)} on`;
    case 'postgres-disconnected':
      return `lost the PostgreSQL server: ${message}`;
    case 'rule-met':
      return 'the commit rule is met again';
    case 'demoted':
      return `no longer primary, at LSN ${formatLsn(lsn)}`;
    case 'log-cut':
      return `cut the log: ${message}`;
    case 'storage-problem':
      return `the log cannot be written: ${message}`;
    case 'storage-ok':
      return 'the log can be written again';
    case 'failed':
      return `the storage has failed for good: ${message}`;
    // The monitor tells this, with more.
    case 'stalled':
    case 'moving':
    // The node tells this itself, with the epoch.
    case 'promoted':
    // Back-pressure comes and goes with the load.
    case 'writable':
      return undefined;
  }
}

/** A line for people. */
export function textLine({ time, level, message }: LogEntry): string {
  return `${time.toISOString()} ${level.toUpperCase().padEnd(5)} ${message.replace(/\s*\n\s*/g, ' ')}`;
}

/** A line for programs. */
export function jsonLine({ time, level, event, message, code, facts }: LogEntry): string {
  return JSON.stringify({ time, level, event, message, code, ...facts });
}

const quietMs = 30_000;
/** Also a link that an upstream refuses each time is told as lost. */
const repeated: ReadonlySet<string> = new Set([
  'upstream-unreachable',
  'upstream-down',
  'connection-refused',
  'election',
]);

/**
 * Lets through each of a kind of entries that retries repeat only when it differs from the last one, or once in a while.
 */
export class Repetitions {
  readonly #last = new Map<string, { message: string; at: number }>();

  isNews({ event, message, time }: LogEntry): boolean {
    if (!repeated.has(event)) {
      // What happened meanwhile makes the same refusal news again.
      this.#last.clear();
      return true;
    }
    const last = this.#last.get(event);
    if (last?.message === message && time.getTime() - last.at < quietMs) return false;
    this.#last.set(event, { message, at: time.getTime() });
    return true;
  }
}

import { EventEmitter } from 'node:events';
import { statfs } from 'node:fs/promises';
import type { Engine } from '../engine/engine.js';
import { WalshipError } from '../engine/errors.js';
import { type EngineOptions, retentionOf } from '../engine/options.js';
import {
  type FindingChange,
  initialMonitor,
  type MonitorReport,
  type MonitorSample,
  monitorStep,
} from './monitor.js';
import { type MonitorLimits, type MonitorSettings, monitorLimits } from './settings.js';

export interface ReplicaMonitorOptions {
  /** The engine's own options: where its log is, and how much of it is kept. */
  readonly engine: Pick<EngineOptions, 'dir' | 'log'>;
  readonly settings?: MonitorSettings | undefined;
  /** How many pages of the log are known to be damaged on disk. Default: none are. */
  readonly damagedPages?: () => number;
}

/** A look at what has changed follows at once; others in their turn. */
const newsworthy = new Set([
  'downstream-up',
  'downstream-down',
  'upstream-up',
  'upstream-down',
  'promoted',
  'log-cut',
]);

/**
 * Watches every replica that an engine knows of: itself, if it is a standby, and all below it. A primary thus sees the whole
 * tree. It looks every `checkMs`, and when a link comes or goes; it disturbs nothing.
 *
 * `finding` is emitted when something is found to be wrong, or about to be, and with `on` false when it is over.
 *
 * @example
 * const monitor = new ReplicaMonitor(engine, { engine: options });
 * monitor.on('finding', ({ on, finding }) => console.log(on ? finding.message : `over: ${finding.kind}`));
 * monitor.report().replicas.map(({ node, appliedLagMs }) => `${node}: ${appliedLagMs} ms`);
 */
export class ReplicaMonitor extends EventEmitter<{ finding: [change: FindingChange] }> {
  readonly #engine: Engine;
  readonly #options: ReplicaMonitorOptions;
  readonly #limits: MonitorLimits;
  readonly #timer: NodeJS.Timeout;
  #state = initialMonitor;
  #report: MonitorReport;
  #disk: MonitorSample['disk'];
  #asking = false;
  #upstream = '';
  #closed = false;
  readonly #onEvent = ({ type, node }: { readonly type: string; readonly node: string }) => {
    if (type === 'upstream-up') this.#upstream = node;
    if (newsworthy.has(type)) this.#tick();
  };

  /** @throws {WalshipError} `WALSHIP_ERR_CONFIG` that lists every problem of the settings */
  constructor(engine: Engine, options: ReplicaMonitorOptions) {
    super();
    this.#limits = monitorLimits(options.settings ?? {});
    this.#engine = engine;
    this.#options = options;
    engine.on('event', this.#onEvent);
    this.#timer = setInterval(() => this.#tick(), this.#limits.checkMs).unref();
    this.#askDisk();
    this.#report = this.#look();
  }

  /** As of the last look. */
  report(): MonitorReport {
    return this.#report;
  }

  /** Why no reads are to go to this node, or to one below it: kinds of findings. */
  distrust(): ReadonlyMap<string, readonly string[]> {
    const why = new Map<string, string[]>();
    for (const { node, kind, distrusted } of this.report().findings)
      if (distrusted) why.set(node, [...(why.get(node) ?? []), kind]);
    return why;
  }

  /** The engine stays open. */
  close(): void {
    this.#closed = true;
    clearInterval(this.#timer);
    this.#engine.off('event', this.#onEvent);
  }

  #tick(): void {
    this.#askDisk();
    try {
      this.#report = this.#look();
    } catch (error) {
      if (!(error instanceof WalshipError) || error.code !== 'WALSHIP_ERR_CLOSED') throw error;
      this.close();
    }
  }

  #look(): MonitorReport {
    const { state, report, changes } = monitorStep(
      this.#state,
      this.#sample(),
      performance.now(),
      this.#limits,
    );
    this.#state = state;
    // Whoever listens finds them in the report.
    if (changes.length > 0)
      queueMicrotask(() => {
        for (const change of changes) this.emit('finding', change);
      });
    return report;
  }

  /** A disk that hangs must not hold up the look: its last answer is used. */
  #askDisk(): void {
    if (this.#asking || this.#closed) return;
    this.#asking = true;
    statfs(this.#options.engine.dir)
      .then(
        ({ bavail, blocks, bsize }) => ({ freeBytes: bavail * bsize, totalBytes: blocks * bsize }),
        () => undefined,
      )
      .then((disk) => {
        this.#disk = disk;
        this.#asking = false;
      });
  }

  #sample(): MonitorSample {
    const engine = this.#engine;
    const { role, positions, nodes, links, upstreamTailLsn, log } = engine.status();
    const link = links.find(({ direction }) => direction === 'upstream');
    if (link) this.#upstream = link.node;
    const { segmentBytes, spareSegments, retainBytes, retainBytesMax } = retentionOf(
      this.#options.engine.log,
    );
    // The segments at both ends are there as a whole.
    const besideBytes = (2 + spareSegments) * segmentBytes;
    const mostBytes = retainBytesMax === 0 ? Number.POSITIVE_INFINITY : retainBytesMax;
    return {
      node: engine.nodeId,
      role,
      ...positions,
      ...(role === 'standby' && {
        upstream: {
          node: this.#upstream,
          tailLsn: upstreamTailLsn,
          streaming: link?.streaming === true,
        },
      }),
      lagMs: known(engine.receivedAgeMs),
      appliedLagMs: known(engine.appliedAgeMs),
      nodes,
      log: {
        bytesOnDisk: log.bytesOnDisk,
        usualBytesMax: retainBytes + besideBytes,
        laggingBytesMax: mostBytes + besideBytes,
        retainBytesMax: mostBytes,
        readers: log.readers,
      },
      disk: this.#disk,
      damagedPages: this.#options.damagedPages?.() ?? 0,
    };
  }
}

function known(ms: number): number | undefined {
  return Number.isFinite(ms) ? ms : undefined;
}

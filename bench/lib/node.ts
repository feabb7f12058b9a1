// A process of its own for one node of a bench. Does what its parent says over IPC; ends with it.
import { mkdirSync } from 'node:fs';
import type { DriveResult, DriveSettings } from '../../src/engine/native.js';
import {
  type CommitRule,
  Engine,
  type EngineOptions,
  type EngineStatus,
  type Upstream,
} from '../../src/index.js';
import { measureSyncs, type SyncSettings, type SyncTimes } from './disk.js';
import {
  type CommitTimes,
  commitInTurn,
  type JsRate,
  jsRate,
  type PacedCommits,
  pacedCommits,
} from './script.js';
import { copiesRate, readRate, scrubAt } from './scrub.js';
import { serve } from './serve.js';

let engine: Engine | undefined;
let dir = '';

function opened(): Engine {
  if (!engine) throw new Error('no engine is open in this process');
  return engine;
}

/** What a node process can be asked to do: one argument, one answer. */
const calls = {
  async open(options: EngineOptions): Promise<{ port: number }> {
    mkdirSync(options.dir, { recursive: true });
    engine = await Engine.open(options);
    dir = options.dir;
    return { port: engine.listenPort };
  },
  async close(): Promise<void> {
    await engine?.close();
    engine = undefined;
  },
  promote: (): Promise<bigint> => opened().promote(),
  follow: (upstream: Upstream): Promise<void> => opened().follow(upstream),
  async setCommitRule(rule: CommitRule): Promise<void> {
    opened().setCommitRule(rule);
  },
  status: async (): Promise<EngineStatus> => opened().status(),
  drive: (settings: DriveSettings): Promise<DriveResult> => opened().drive(settings),
  /** Of the whole process since it began, in seconds. */
  async cpuSeconds(): Promise<number> {
    const { user, system } = process.cpuUsage();
    return (user + system) / 1e6;
  },
  commitInTurn: (settings: { bytes: number; seconds: number; warmup: number }): Promise<CommitTimes> =>
    commitInTurn(opened(), settings),
  jsRate: (settings: { bytes: number; seconds: number }): Promise<JsRate> => jsRate(opened(), settings),
  pacedCommits: (settings: { bytes: number; seconds: number; perSecond: number }): Promise<PacedCommits> =>
    pacedCommits(opened(), settings),
  scrubAt: (bytesPerSecond: number): Promise<void> => scrubAt(opened(), dir, bytesPerSecond),
  copiesRate: ({ seconds }: { seconds: number }): Promise<number> => copiesRate(opened(), seconds),
  readRate: ({ pageBytes, seconds }: { pageBytes: number; seconds: number }): Promise<number> =>
    readRate(dir, pageBytes, seconds),
  measureSyncs: async (settings: SyncSettings): Promise<SyncTimes> => measureSyncs(settings),
};

export type Calls = typeof calls;

serve(calls);

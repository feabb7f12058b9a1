export type { CacheOptions } from './cache/settings.js';
export { type Capabilities, capabilities } from './engine/capabilities.js';
export {
  Engine,
  type EngineEvent,
  type EngineEventType,
  type EngineStatus,
  type LogChunk,
  type Positions,
  type ReadOptions,
} from './engine/engine.js';
export { WalshipError } from './engine/errors.js';
export { formatLsn, type Lsn, parseLsn } from './engine/lsn.js';
export type { LatencySummary, LinkStatus, Rail, StandbyStatus } from './engine/native.js';
export type { CommitRule, EngineOptions, Upstream } from './engine/options.js';

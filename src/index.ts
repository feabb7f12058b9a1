export type { CacheOptions } from './cache/settings.js';
export type { Near, Target } from './cluster/choose.js';
export { known, notApplied } from './cluster/outcome.js';
export {
  type ReadOptions as RouterReadOptions,
  type ReplicaOptions,
  Router,
  type RouterOptions,
  type WaitOptions,
  type WithPrimaryOptions,
} from './cluster/router.js';
export type { Session } from './cluster/session.js';
export type { Finding as MonitorFinding, FindingKind } from './consistency/findings.js';
export type { JournalContents, JournalEntry } from './consistency/journal.js';
export type { DiskReport, FindingChange, MonitorReport, Rates, Replica } from './consistency/monitor.js';
export { ReplicaMonitor, type ReplicaMonitorOptions } from './consistency/replica-monitor.js';
export type { MonitorSettings } from './consistency/settings.js';
export type { PostgresAdapterStatus } from './databases/postgres/adapter.js';
export type { Finding } from './databases/postgres/checks.js';
export type {
  PostgresReceiverStatus,
  PostgresSenderStatus,
  PostgresSession,
} from './databases/postgres/native.js';
export type { PostgresOptions, PostgresServer } from './databases/postgres/options.js';
export { openPostgres, PostgresNode, type PostgresStatus } from './databases/postgres/postgres.js';
export type {
  PostgresOrdinary,
  PostgresRole,
  PostgresServe,
  PostgresTls,
} from './databases/postgres/serve.js';
export {
  type CheckedDatabase,
  checkDatabase,
  inspectDatabase,
  type OfflineOptions,
  type RestoredDatabase,
  type RestoreTarget,
  restoreDatabase,
  type SqliteFacts,
} from './databases/sqlite/files.js';
export type { LoggedTransaction, SqliteLogSurvey, SqliteSidecar } from './databases/sqlite/native.js';
export type { ReplicatedOptions } from './databases/sqlite/options.js';
export { openReplicated, Replicated, type ReplicatedStatus } from './databases/sqlite/replicated.js';
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
export {
  exportLog,
  inspectLog,
  type LogRange,
  type VerifyLogOptions,
  verifyLog,
} from './engine/logfiles.js';
export { formatLsn, type Lsn, parseLsn } from './engine/lsn.js';
export type {
  LatencySummary,
  LinkStatus,
  LogPosition,
  LogProblem,
  LogSummary,
  LogVerification,
  Rail,
  StandbyStatus,
} from './engine/native.js';
export type { CommitRule, EngineOptions, Upstream } from './engine/options.js';
export type { AgentEvent, AgentStatus, Subject } from './failover/agent.js';
export { ClusterServer, type Endpointed, type Health } from './failover/endpoints.js';
export { Membership, type MembershipOptions, type MembershipSettings } from './failover/membership.js';
export {
  type AdminAddress,
  AdminClient,
  type CommandOutcome,
  type Json,
  parseAdminAddress,
  type RoleChange,
} from './node/client.js';
export { type NodeConfig, type NodeFailover, readNodeConfig } from './node/config.js';
export { Node, type NodeHealth, type NodeStartOptions, type NodeStatus } from './node/node.js';
export type { LogEntry } from './node/report.js';

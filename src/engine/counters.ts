/** Where each counter stands in the view of the engine's memory; the order of `Counter` in native/engine/status.h. */
export const counter = {
  receivedLsn: 0,
  flushedLsn: 1,
  appliedLsn: 2,
  committedLsn: 3,
  endLsn: 4,
  epoch: 5,
  isPrimary: 6,
  appends: 7,
  appendBytes: 8,
  batches: 9,
  syncs: 10,
  jsWakes: 11,
  pumpRounds: 12,
  pumpSleeps: 13,
  /** 1 from a refused append on until there is room again. */
  starved: 14,
} as const;

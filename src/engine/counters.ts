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
  /** 1 from a refused append, or the begin of a hold, on until appends are taken again. */
  starved: 14,
  logEpoch: 15,
  promisedEpoch: 16,
  /** On the monotonic clock, in ns; 0: not heard yet. */
  upstreamHeardNs: 17,
  /** Written here: not 0 while somebody waits for a position; otherwise nobody is woken when one moves. */
  awaited: 18,
  /** On the monotonic clock, in ns: all that the primary had made by then is received here; 0: not known. */
  receivedAsOfNs: 19,
  /** … is applied here. */
  appliedAsOfNs: 20,
} as const;

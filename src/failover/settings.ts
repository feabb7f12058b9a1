import type { ControllerSettings } from './protocol.js';

/** What holds if nothing else is set. */
export const defaultControllerSettings = {
  priority: 0,
  nofailover: false,
  bootstrap: false,
  leaseMs: 2000,
  leaseMarginMs: 100,
  suspectMs: 250,
  gossipMs: 50,
  staggerMs: 40,
  answerMs: 150,
  dropMs: 300,
  switchoverMs: 5000,
  maxLagBytes: 1024 * 1024,
  fanOut: 4,
} satisfies Omit<ControllerSettings, 'node' | 'rule'>;

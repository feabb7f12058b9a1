import { z } from 'zod';
import { type CommitRule, optionsSchema } from '../engine/options.js';
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

const address = optionsSchema.shape.listen.unwrap();
const ms = (least: number, most: number) => z.number().int().min(least).max(most);

/** What an operator may set of a node's controller. */
export const failoverSchema = z.strictObject({
  /** `host:port` to hear the other controllers on. */
  listen: address,
  /** What the others are told, where it is not what this node listens on. */
  advertiseLog: address.optional(),
  advertiseControl: address.optional(),
  advertiseHttp: address.optional(),
  /** May be the first primary of a new cluster: one node at most. Default false. */
  bootstrap: z.boolean().optional(),
  /** Of two standbys that are equally far, the one with the higher priority is promoted. Default 0. */
  priority: z.number().int().min(-1000).max(1000).optional(),
  /** Never promoted by itself; no commit relies on it. Default false. */
  nofailover: z.boolean().optional(),
  /** How long a primary may commit that cannot renew its word with the coordinator. Default 2000. */
  leaseMs: ms(200, 600_000).optional(),
  /** A primary that nobody has heard for so long is taken for dead. Default 250. */
  suspectMs: ms(60, 60_000).optional(),
  /** A standby that is away for so long no longer counts for commits, if enough others are there. Default 300. */
  dropMs: ms(50, 600_000).optional(),
  /** A planned switchover that is not ready by then is given up. Default 5000. */
  switchoverMs: ms(100, 600_000).optional(),
  /** Under `async` only a standby that lacks no more is promoted by itself. Default 1 MiB. */
  maxLagBytes: z.number().int().min(0).optional(),
  /** Most standbys that one node ships to. Default 4. */
  fanOut: z.number().int().min(1).max(100).optional(),
});

export type FailoverSettings = z.input<typeof failoverSchema>;

/** @param given checked by {@link failoverSchema} */
export function controllerSettings(
  given: FailoverSettings,
  node: string,
  rule: CommitRule,
): ControllerSettings {
  const { listen: _, advertiseLog: _log, advertiseControl: _control, advertiseHttp: _http, ...rest } = given;
  const set = Object.fromEntries(Object.entries(rest).filter(([, value]) => value !== undefined));
  return { ...defaultControllerSettings, ...paced(given.suspectMs), ...set, node, rule };
}

/**
 * Who gives a primary more time, or less, before taking it for dead has a slower network and slower hosts, or faster ones:
 * what is said meanwhile, and how long answers are waited for, goes by that.
 */
function paced(suspectMs: number | undefined): Partial<ControllerSettings> {
  const { suspectMs: usual, gossipMs, answerMs, staggerMs } = defaultControllerSettings;
  const pace = (suspectMs ?? usual) / usual;
  const slower = Math.max(1, Math.min(pace, 10));
  return {
    gossipMs: Math.round(gossipMs * Math.min(pace, 10)),
    answerMs: Math.round(answerMs * slower),
    staggerMs: Math.round(staggerMs * slower),
  };
}

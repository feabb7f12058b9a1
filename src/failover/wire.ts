import { z } from 'zod';
import { optionsSchema } from '../engine/options.js';
import type { Message } from './protocol.js';

/** Of one message, in bytes. */
export const messageBytesMax = 64 * 1024;

const number = z.bigint().min(0n);
const name = optionsSchema.shape.nodeId;
const text = z.string().max(4096);
const id = z.string().max(256);
const place = { logEpoch: number, lsn: number };
const reply = {
  epoch: number,
  ok: z.boolean(),
  why: text,
  promised: number,
  whole: z.boolean(),
  ...place,
};

const message = z.discriminatedUnion('type', [
  z.strictObject({
    type: z.literal('state'),
    role: z.enum(['primary', 'standby']),
    epoch: number,
    promised: number,
    promoting: z.boolean(),
    primaryHeardMsAgo: z.number().min(0).optional(),
    upstream: name.optional(),
    upstreamUp: z.boolean(),
    rails: z.array(z.string().max(64)).max(64),
    plan: z
      .array(z.tuple([name, name]))
      .max(256)
      .optional(),
    ...place,
  }),
  z.strictObject({ type: z.literal('canvass'), epoch: number, forced: z.boolean() }),
  z.strictObject({ type: z.literal('canvassed'), ...reply }),
  z.strictObject({ type: z.literal('promise'), epoch: number, forced: z.boolean() }),
  z.strictObject({ type: z.literal('promised'), ...reply }),
  z.strictObject({ type: z.literal('stand'), forced: z.boolean(), acceptDataLoss: z.boolean() }),
  z.strictObject({ type: z.literal('handover'), epoch: number, revision: number, ...place }),
  z.strictObject({ type: z.literal('lease'), epoch: number, round: z.number() }),
  z.strictObject({ type: z.literal('granted'), epoch: number, round: z.number() }),
  z.strictObject({
    type: z.literal('command'),
    id,
    command: z.discriminatedUnion('type', [
      z.strictObject({ type: z.literal('switchover'), to: name.optional() }),
      z.strictObject({ type: z.literal('failover'), to: name.optional(), acceptDataLoss: z.boolean() }),
    ]),
  }),
  z.strictObject({ type: z.literal('outcome'), id, ok: z.boolean(), message: text }),
]);

/** One line, without its end: the sender's stamp (of a `HybridClock`), and JSON with bigints as `"12n"`. */
export function encodeMessage(value: Message, stamp: bigint): string {
  const json = JSON.stringify(value, (_, item) => (typeof item === 'bigint' ? `${item}n` : item));
  return `${stamp} ${json}`;
}

/** @returns undefined if it is no message: whoever sent it speaks another protocol */
export function decodeMessage(line: string): { message: Message; stamp: bigint } | undefined {
  const [, stamp, json] = /^([0-9]{1,20}) (.*)$/.exec(line) ?? [];
  if (stamp === undefined || json === undefined) return undefined;
  try {
    const value = JSON.parse(json, (_, item) =>
      typeof item === 'string' && /^[0-9]{1,20}n$/.test(item) ? BigInt(item.slice(0, -1)) : item,
    );
    const { data } = message.safeParse(value);
    return data && { message: data as Message, stamp: BigInt(stamp) };
  } catch {
    return undefined;
  }
}

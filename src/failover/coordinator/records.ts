import { z } from 'zod';
import { WalshipError } from '../../engine/errors.js';
import { type CommitRule, optionsSchema, problemsOf } from '../../engine/options.js';
import type { ClusterView, Member, PrimaryRecord, Reign } from './coordinator.js';
import { coordinatorError } from './errors.js';

const decimal = z
  .string()
  .regex(/^(0|[1-9][0-9]{0,18})$/, 'must be a decimal number in quotes')
  .transform(BigInt);
const nodeName = optionsSchema.shape.nodeId;
const address = optionsSchema.shape.listen.unwrap();

const reignSchema = z.strictObject({
  node: nodeName,
  epoch: decimal,
  rule: optionsSchema.shape.commitRule.unwrap().transform((rule) => rule as CommitRule),
  get previous() {
    return reignSchema.optional() as z.ZodType<Reign | undefined>;
  },
});

/** A primary's record as it is stored. Strict: what another version added may be what safety hangs on. */
export const primarySchema = reignSchema.extend({
  leaseMs: z.number().int().min(1).max(3_600_000),
  renewal: z.number().int().min(0),
});

export const memberSchema = z.strictObject({
  node: nodeName,
  log: address,
  control: address,
  http: address.optional(),
  database: z.string().min(1).max(2000).optional(),
  priority: z.number().int().min(-1_000_000).max(1_000_000),
  nofailover: z.boolean(),
});

/**
 * What is stored at `where`, which may be anything.
 *
 * @throws {WalshipError} `WALSHIP_ERR_COORDINATOR` that names `where` and what is wrong with it
 */
export function decode<Shape extends z.ZodType>(shape: Shape, text: string, where: string): z.output<Shape> {
  const fail = (problems: string) =>
    coordinatorError(
      `${where} holds what no node of this version wrote: ${problems}. Correct it, or remove it if it is not walship's; ` +
        'the nodes change nothing until then',
    );
  let parsed: z.ZodSafeParseResult<z.output<Shape>>;
  try {
    parsed = shape.safeParse(JSON.parse(text));
  } catch (error) {
    // No JSON, or nested deeper than the stack is.
    throw fail((error as Error).message);
  }
  if (!parsed.success) throw fail(problemsOf(parsed.error).join('; '));
  return parsed.data;
}

/** bigints as decimal text. */
export function encode(value: unknown): string {
  return JSON.stringify(value, (_, item) => (typeof item === 'bigint' ? item.toString() : item));
}

/** Nothing may be stored that cannot be read back. @throws {WalshipError} `WALSHIP_ERR_ARGUMENT` */
export function checkStorable(shape: z.ZodType, value: PrimaryRecord | Member): void {
  const parsed = shape.safeParse(JSON.parse(encode(value)));
  if (parsed.success) return;
  throw new WalshipError(
    'WALSHIP_ERR_ARGUMENT',
    `this cannot be given to the coordinator: ${problemsOf(parsed.error).join('; ')}`,
  );
}

export const asMember = (parsed: z.output<typeof memberSchema>) => parsed as Member;

const byName = (a: Member, b: Member) => (a.node < b.node ? -1 : a.node > b.node ? 1 : 0);

export function viewOf(
  primary: PrimaryRecord | undefined,
  revision: bigint,
  members: Iterable<Member>,
  paused: boolean,
): ClusterView {
  return { ...(primary && { primary }), revision, members: [...members].sort(byName), paused };
}

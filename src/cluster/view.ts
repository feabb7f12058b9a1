import { z } from 'zod';

const decimal = z
  .string()
  .regex(/^(0|[1-9][0-9]{0,19})$/, 'must be a decimal number in quotes')
  .transform(BigInt)
  .refine((value) => value < 1n << 64n, 'must be below 2^64');
const name = z.string().min(1).max(64);
const address = z.string().min(1).max(300);
const role = z.enum(['primary', 'standby']);

/**
 * What `GET /cluster` of a node answers: itself, and whom it knows. With `?after=<version>` it answers as soon as its
 * version is another, or after 10 s. Every LSN and epoch is decimal text. Fields of later versions are passed over: clients
 * and nodes are not renewed at the same moment.
 */
export const nodeViewSchema = z.object({
  /** Another one whenever anything here but positions, history and lag has changed. */
  version: z.string().min(1).max(200),
  node: name,
  /** What the node itself is. */
  role,
  /** The newest epoch that the node knows of. */
  epoch: decimal,
  /** Whom the node takes for the primary. */
  primary: z.object({ node: name, http: address.optional(), log: address, epoch: decimal }).optional(),
  /** `http` and `log`: `host:port`. */
  members: z.array(z.object({ node: name, http: address.optional(), log: address, role: role.optional() })),
  positions: z.object({ received: decimal, flushed: decimal, applied: decimal, committed: decimal }),
  /** All that the primary it follows had made so long before the answer was applied; absent: that is not known. */
  lagMs: z.number().min(0).optional(),
  health: z.object({ ok: z.boolean() }),
  /** Which epoch of this node's own log began where: the newest ones, oldest first; empty while that changes. */
  history: z
    .array(z.object({ epoch: decimal, firstLsn: decimal }))
    .max(128)
    .optional(),
  /** Itself and nodes below it that its monitor wants no reads to go to, and the findings that say so. */
  distrusted: z
    .array(z.object({ node: name.max(300), why: z.array(z.string().max(100)).max(20) }))
    .max(200)
    .optional(),
});

/** One node's view of itself and of the cluster. */
export type NodeView = z.output<typeof nodeViewSchema>;

/** The body of the answer. */
export function encodeNodeView(view: NodeView): string {
  return JSON.stringify(view, (_, item) => (typeof item === 'bigint' ? item.toString() : item));
}

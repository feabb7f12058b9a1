import { z } from 'zod';
import type { ClusterView, Member, PrimaryRecord } from './coordinator.js';
import { coordinatorError } from './errors.js';
import type { EtcdClient } from './etcd-client.js';
import { asMember, decode, memberSchema, primarySchema, viewOf } from './records.js';

export const base64 = (text: string) => Buffer.from(text).toString('base64');
const fromBase64 = (text: string) => Buffer.from(text, 'base64').toString();

/** The gateway writes 64-bit numbers as text, and leaves out whatever is 0, false or empty. */
export const int64 = z
  .string()
  .regex(/^[0-9]{1,19}$/)
  .transform(BigInt);
export const storeHeader = z.object({ revision: int64 });
export const keyValue = z.object({
  key: z.string().transform(fromBase64),
  value: z.string().default('').transform(fromBase64),
  mod_revision: int64,
});
export const rangeReply = z.object({ header: storeHeader, kvs: z.array(keyValue).default([]) });

/** What etcd said, checked. @throws {WalshipError} `WALSHIP_ERR_COORDINATOR` */
export function checked<Shape extends z.ZodType>(shape: Shape, reply: unknown): z.output<Shape> {
  const parsed = shape.safeParse(reply);
  if (parsed.success) return parsed.data;
  throw coordinatorError(
    'etcd answered what it does not answer: is the endpoint etcd 3.4 or later?',
    parsed.error,
  );
}

export interface StoredValue {
  readonly value: string;
  readonly modRevision: bigint;
}

/** Every key of the cluster as of one revision of the store. */
export interface Snapshot {
  readonly revision: bigint;
  readonly keys: Map<string, StoredValue>;
}

/** Beside the record: it tells the writer that a swap whose answer was lost was its own. */
export const storedPrimary = primarySchema.extend({ swap: z.string().min(1).max(64) });

/** The names of a cluster's keys and what they hold. */
export class EtcdKeys {
  readonly base: string;
  readonly primary: string;
  readonly paused: string;
  readonly #members: string;

  constructor(prefix: string, clusterId: string) {
    this.base = `${prefix}/${clusterId}/`;
    this.primary = `${this.base}primary`;
    this.paused = `${this.base}paused`;
    this.#members = `${this.base}members/`;
  }

  member(node: string): string {
    return `${this.#members}${node}`;
  }

  /** All of them, as etcd wants a range: the end is the first key behind. */
  get range(): { key: string; range_end: string } {
    const last = this.base.length - 1;
    const end = this.base.slice(0, last) + String.fromCharCode(this.base.charCodeAt(last) + 1);
    return { key: base64(this.base), range_end: base64(end) };
  }

  /** Linearizable: etcd asks its majority. */
  async snapshot(client: EtcdClient): Promise<Snapshot> {
    const { reply } = await client.call('/v3/kv/range', this.range);
    const { header, kvs } = checked(rangeReply, reply);
    const keys = new Map(
      kvs.map(({ key, value, mod_revision }) => [key, { value, modRevision: mod_revision }]),
    );
    return { revision: header.revision, keys };
  }

  /** Keys that it does not know are not its own. @throws {WalshipError} `WALSHIP_ERR_COORDINATOR` */
  view({ keys }: Snapshot): ClusterView {
    let primary: PrimaryRecord | undefined;
    const members: Member[] = [];
    for (const [key, { value }] of keys) {
      const where = `etcd's key ${key}`;
      if (key === this.primary) {
        const { swap: _, ...record } = decode(storedPrimary, value, where);
        primary = record;
      } else if (key.startsWith(this.#members)) {
        const member = asMember(decode(memberSchema, value, where));
        if (this.member(member.node) !== key)
          throw coordinatorError(`${where} holds node ${member.node}: remove it`);
        members.push(member);
      } else if (key === this.paused) {
        decode(z.literal(true), value, where);
      }
    }
    return viewOf(primary, keys.get(this.primary)?.modRevision ?? 0n, members, keys.has(this.paused));
  }
}

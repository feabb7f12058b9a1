import { randomUUID } from 'node:crypto';
import { z } from 'zod';
import type { ClusterView, Coordinator, Member, PrimaryRecord, WatchListener } from './coordinator.js';
import { coordinatorError } from './errors.js';
import { type EtcdAccess, EtcdClient } from './etcd-client.js';
import { base64, checked, EtcdKeys, keyValue, rangeReply, storeHeader } from './etcd-keys.js';
import { EtcdWatch } from './etcd-watch.js';
import { checkStorable, encode, memberSchema, primarySchema } from './records.js';

/** Others that register at the same time are let first so many times. */
const attemptsMax = 20;

const txnReply = z.object({
  header: storeHeader,
  succeeded: z.boolean().default(false),
  responses: z
    .array(z.object({ response_range: z.object({ kvs: z.array(keyValue).default([]) }).optional() }))
    .default([]),
});

/** Where a cluster's keys are in etcd. */
export interface EtcdOptions extends EtcdAccess {
  readonly clusterId: string;
  /** The keys are below `<prefix>/<clusterId>/`. */
  readonly prefix: string;
  /** How often a watch makes sure that nothing was missed. */
  readonly checkMs: number;
}

/**
 * etcd's own keys and transactions, through the JSON gateway that every member has. Nothing hangs on etcd's leases or on
 * its clock: how long a primary may commit is measured by the nodes.
 */
export class EtcdCoordinator implements Coordinator {
  readonly kind = 'etcd';
  readonly caveat = '';
  readonly #client: EtcdClient;
  readonly #keys: EtcdKeys;
  readonly #checkMs: number;
  readonly #watches = new Set<EtcdWatch>();

  constructor(options: EtcdOptions) {
    this.#client = new EtcdClient(options);
    this.#keys = new EtcdKeys(options.prefix, options.clusterId);
    this.#checkMs = options.checkMs;
  }

  async read(): Promise<ClusterView> {
    return this.#keys.view(await this.#keys.snapshot(this.#client));
  }

  async swap(expected: bigint, next: PrimaryRecord): Promise<bigint | undefined> {
    checkStorable(primarySchema, next);
    // Known to this call alone. Transactions that compare the same revision succeed once, however often they are sent;
    // that it was ours is seen by this.
    const value = encode({ ...next, swap: randomUUID() });
    const { done, revision, stored, sent } = await this.#transact(this.#keys.primary, expected, value);
    if (done) return revision;
    if (stored?.value === value) return stored.mod_revision;
    if (sent === 1) return undefined;
    // It went to several endpoints. Was ours there, and already replaced by another?
    const before = stored && (await this.#at(this.#keys.primary, stored.mod_revision - 1n));
    if (before?.value === value) return before.mod_revision;
    if ((before?.mod_revision ?? 0n) === expected) return undefined;
    throw coordinatorError(
      `whether node ${next.node} was written as the primary of epoch ${next.epoch} is not known: ` +
        'etcd answered late, and by now holds another record; read it',
    );
  }

  async register(member: Member): Promise<void> {
    checkStorable(memberSchema, member);
    await this.#set(this.#keys.member(member.node), encode(member));
  }

  async forget(node: string): Promise<void> {
    await this.#set(this.#keys.member(node), undefined);
  }

  async setPaused(paused: boolean): Promise<void> {
    await this.#set(this.#keys.paused, paused ? 'true' : undefined);
  }

  watch(listener: WatchListener): () => void {
    const watch = new EtcdWatch(this.#client, this.#keys, this.#checkMs, listener);
    this.#watches.add(watch);
    return () => {
      this.#watches.delete(watch);
      watch.stop();
    };
  }

  async close(): Promise<void> {
    for (const watch of this.#watches) watch.stop();
    this.#watches.clear();
    this.#client.close();
  }

  /** By compare-and-swap too: a request that is carried out late must not undo what came after it. */
  async #set(key: string, value: string | undefined): Promise<void> {
    let found = await this.#at(key);
    for (let attempt = 0; attempt < attemptsMax; attempt++) {
      if (found?.value === value) return;
      const { done, stored } = await this.#transact(key, found?.mod_revision ?? 0n, value);
      if (done) return;
      found = stored;
    }
    throw coordinatorError(`etcd's key ${key} is being changed by others all the time; try again`);
  }

  /** Writes or removes `key` if its revision is `expected`; if not, `stored` is what it holds. */
  async #transact(key: string, expected: bigint, value: string | undefined) {
    const target = { key: base64(key) };
    const { reply, sent } = await this.#client.call('/v3/kv/txn', {
      compare: [{ ...target, target: 'MOD', result: 'EQUAL', mod_revision: String(expected) }],
      success: [
        value === undefined
          ? { request_delete_range: target }
          : { request_put: { ...target, value: base64(value) } },
      ],
      failure: [{ request_range: target }],
    });
    const { header, succeeded, responses } = checked(txnReply, reply);
    return { done: succeeded, revision: header.revision, stored: responses[0]?.response_range?.kvs[0], sent };
  }

  /** What `key` holds, or held at that revision of the store. */
  async #at(key: string, revision?: bigint) {
    const { reply } = await this.#client.call('/v3/kv/range', {
      key: base64(key),
      ...(revision !== undefined && { revision: String(revision) }),
    });
    return checked(rangeReply, reply).kvs[0];
  }
}

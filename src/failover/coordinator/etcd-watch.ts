import { z } from 'zod';
import type { WalshipError } from '../../engine/errors.js';
import { Pause } from '../../engine/pause.js';
import type { ClusterView, WatchListener } from './coordinator.js';
import { coordinatorError } from './errors.js';
import type { EtcdClient } from './etcd-client.js';
import { checked, type EtcdKeys, keyValue, type Snapshot, storeHeader } from './etcd-keys.js';

/** Between attempts, while etcd does not answer or breaks off at once. */
const backOffMs = { min: 20, max: 500 };
/** A stream that lasted so long was a good one. */
const goodStreamMs = 1000;

const watchReply = z.object({
  result: z.object({
    header: storeHeader,
    created: z.boolean().optional(),
    canceled: z.boolean().optional(),
    cancel_reason: z.string().optional(),
    events: z.array(z.object({ type: z.enum(['PUT', 'DELETE']).default('PUT'), kv: keyValue })).default([]),
  }),
});

/**
 * Tells of changes below a cluster's keys: a range, then a stream of what came after it, and the same again whenever the
 * stream breaks, is compacted away or has silently fallen behind. The latter two a range every `checkMs` finds out.
 */
export class EtcdWatch {
  readonly #client: EtcdClient;
  readonly #keys: EtcdKeys;
  readonly #checkMs: number;
  readonly #listener: WatchListener;
  #stopped = false;
  #snapshot: Snapshot | undefined;
  /** The keys' revisions as last told; empty for `undefined`. */
  #told: string | undefined;
  readonly #pause = new Pause();
  /** Ends the stream. */
  #endStream = () => {};

  constructor(client: EtcdClient, keys: EtcdKeys, checkMs: number, listener: WatchListener) {
    this.#client = client;
    this.#keys = keys;
    this.#checkMs = checkMs;
    this.#listener = listener;
    void this.#run();
  }

  stop(): void {
    this.#stopped = true;
    this.#pause.wake();
    this.#endStream();
  }

  async #run(): Promise<void> {
    let waitMs = 0;
    let shift = 0;
    while (!this.#stopped) {
      try {
        await this.#refresh();
        const since = performance.now();
        await this.#follow(shift);
        if (performance.now() - since >= goodStreamMs) waitMs = shift = 0;
        else shift++;
      } catch (error) {
        this.#tell(error as WalshipError);
      }
      if (this.#stopped) return;
      if (waitMs > 0) await this.#pause.wait(waitMs);
      waitMs = Math.min(Math.max(2 * waitMs, backOffMs.min), backOffMs.max);
    }
  }

  /** Reads all keys. True: they are newer than what the stream has told. */
  async #refresh(): Promise<boolean> {
    const before = this.#snapshot?.revision ?? 0n;
    const snapshot = await this.#keys.snapshot(this.#client);
    if (this.#stopped) return false;
    const now = this.#snapshot;
    // The stream was faster. But older than what was known before it was asked for: the store was put back, so be it.
    if (now !== undefined && snapshot.revision < now.revision && snapshot.revision >= before) return false;
    const isNew = now === undefined || fingerprint(snapshot) !== fingerprint(now);
    this.#snapshot = snapshot;
    this.#tell(undefined);
    return isNew;
  }

  /** Until the stream is of no use any more. Throws when a check was not answered. */
  #follow(shift: number): Promise<void> {
    const from = this.#snapshot?.revision ?? 0n;
    const create_request = { ...this.#keys.range, start_revision: String(from + 1n) };
    return new Promise((resolve, reject) => {
      let over = false;
      const end = (error?: WalshipError) => {
        if (over) return;
        over = true;
        clearTimeout(timer);
        cancel();
        if (error) reject(error);
        else resolve();
      };
      this.#endStream = () => end();
      const check = async () => {
        try {
          if (await this.#refresh()) end();
        } catch (error) {
          end(error as WalshipError);
        }
        if (!over) timer = setTimeout(check, this.#checkMs);
      };
      let timer = setTimeout(check, this.#checkMs);
      const take = (line: unknown) => {
        const { result } = checked(watchReply, line);
        if (result.canceled) {
          // A token that has run out is one of the reasons.
          this.#client.forgetToken();
          end();
        } else if (!over) this.#apply(result);
      };
      const cancel = this.#client.stream('/v3/watch', { create_request }, shift, take, () => end());
    });
  }

  #apply({ header, events }: z.output<typeof watchReply>['result']): void {
    const known = this.#snapshot as Snapshot;
    const news = events.filter(({ kv }) => kv.mod_revision > known.revision);
    if (news.length === 0) return;
    const keys = new Map(known.keys);
    for (const { type, kv } of news) {
      if (type === 'DELETE') keys.delete(kv.key);
      else keys.set(kv.key, { value: kv.value, modRevision: kv.mod_revision });
    }
    this.#snapshot = { revision: header.revision, keys };
    this.#tell(undefined);
  }

  /** What is stored, or why that is not known. */
  #tell(error: WalshipError | undefined): void {
    if (this.#stopped) return;
    let view: ClusterView | undefined;
    let why = error;
    const mark = error || this.#snapshot === undefined ? '' : fingerprint(this.#snapshot);
    if (why === undefined) {
      if (mark === this.#told) return;
      try {
        view = this.#keys.view(this.#snapshot as Snapshot);
      } catch (broken) {
        why = broken as WalshipError;
      }
    }
    const next = view === undefined ? '' : mark;
    if (next === this.#told) return;
    this.#told = next;
    try {
      this.#listener(
        view,
        view === undefined ? (why ?? coordinatorError('etcd was not reached yet')) : undefined,
      );
    } catch (bug) {
      // The listener's own, not etcd's.
      queueMicrotask(() => {
        throw bug;
      });
    }
  }
}

/** The same for two snapshots only if they hold the same. */
function fingerprint({ keys }: Snapshot): string {
  return `${[...keys].map(([key, { modRevision }]) => `${key}@${modRevision}`).sort()}|`;
}

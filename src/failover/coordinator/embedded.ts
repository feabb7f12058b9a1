import { type FSWatcher, watch as watchFiles } from 'node:fs';
import { resolve } from 'node:path';
import { z } from 'zod';
import { WalshipError } from '../../engine/errors.js';
import { optionsSchema } from '../../engine/options.js';
import type { ClusterView, Coordinator, Member, PrimaryRecord, WatchListener } from './coordinator.js';
import { Document, type Edition, isToken } from './document.js';
import { coordinatorError } from './errors.js';
import { asMember, checkStorable, decode, encode, memberSchema, primarySchema, viewOf } from './records.js';

/** A watch looks by itself so often, should the kernel have told it nothing. */
const lookMs = 500;
/** While the document cannot be read. */
const lookAgainMs = 50;
/** Every conflict is another's success: this many in a row mean that something is wrong. */
const attemptsMax = 1000;

const stateSchema = z.strictObject({
  walship: z.literal('coordinator'),
  version: z.literal(1),
  cluster: optionsSchema.shape.cluster.shape.id,
  primary: primarySchema.optional(),
  /** The edition that the primary's record came with. */
  revision: z
    .string()
    .regex(/^(0|[1-9][0-9]{0,18})$/)
    .transform(BigInt),
  members: z.array(memberSchema),
  paused: z.boolean(),
});

/** Where the nodes of one machine meet. */
export interface EmbeddedOptions {
  readonly clusterId: string;
  /** A directory on a local disk; made if missing, then it must stay. The same for all nodes. */
  readonly path: string;
}

/** For nodes on one machine: a directory instead of a server. */
export class EmbeddedCoordinator implements Coordinator {
  readonly kind = 'embedded';
  readonly caveat =
    'the coordinator is a directory of this machine: it serves nodes on this machine only, and does not protect against ' +
    'the loss of the machine';
  readonly #document: Document;
  readonly #clusterId: string;
  readonly #watches = new Set<EmbeddedWatch>();

  private constructor(document: Document, clusterId: string) {
    this.#document = document;
    this.#clusterId = clusterId;
  }

  /** @throws {WalshipError} `WALSHIP_ERR_COORDINATOR`: the path cannot be used, or belongs to another cluster. */
  static async open(options: EmbeddedOptions): Promise<EmbeddedCoordinator> {
    const { clusterId } = options;
    const empty = textOf(clusterId, { revision: 0n, members: [], paused: false });
    const coordinator = new EmbeddedCoordinator(await Document.open(resolve(options.path), empty), clusterId);
    await coordinator.read();
    return coordinator;
  }

  async read(): Promise<ClusterView> {
    return this.#viewOf(await this.#document.read());
  }

  swap(expected: bigint, next: PrimaryRecord): Promise<bigint | undefined> {
    checkStorable(primarySchema, next);
    return this.#update((view, revision) =>
      view.revision === expected ? { ...view, primary: next, revision } : undefined,
    );
  }

  async register(member: Member): Promise<void> {
    checkStorable(memberSchema, member);
    await this.#update((view) => ({
      ...view,
      members: [...view.members.filter(({ node }) => node !== member.node), member],
    }));
  }

  async forget(node: string): Promise<void> {
    await this.#update((view) => ({
      ...view,
      members: view.members.filter((member) => member.node !== node),
    }));
  }

  async setPaused(paused: boolean): Promise<void> {
    await this.#update((view) => ({ ...view, paused }));
  }

  watch(listener: WatchListener): () => void {
    const watch = new EmbeddedWatch(this.#document, (edition) => this.#viewOf(edition), listener);
    this.#watches.add(watch);
    return () => {
      this.#watches.delete(watch);
      watch.stop();
    };
  }

  async close(): Promise<void> {
    for (const watch of this.#watches) watch.stop();
    this.#watches.clear();
  }

  /** Gives the new edition's revision; undefined if `change` does not want it. */
  async #update(
    change: (view: ClusterView, revision: bigint) => ClusterView | undefined,
  ): Promise<bigint | undefined> {
    for (let attempt = 0; attempt < attemptsMax; attempt++) {
      const edition = await this.#document.read();
      const next = change(this.#viewOf(edition), edition.revision + 1n);
      if (next === undefined) return undefined;
      const revision = await this.#document.replace(edition, textOf(this.#clusterId, next));
      if (revision !== undefined) return revision;
    }
    throw coordinatorError(`${this.#document.path} is being changed by others all the time; try again`);
  }

  #viewOf({ token, text }: Edition): ClusterView {
    const where = `${this.#document.path}/${token.replace('current', 'content')}`;
    const { cluster, primary, revision, members, paused } = decode(stateSchema, text, where);
    if (cluster !== this.#clusterId) {
      throw coordinatorError(
        `${this.#document.path} belongs to cluster ${cluster}, not ${this.#clusterId}: choose another path`,
      );
    }
    return viewOf(primary, revision, members.map(asMember), paused);
  }
}

function textOf(cluster: string, view: ClusterView): string {
  return encode({ walship: 'coordinator', version: 1, cluster, ...view });
}

class EmbeddedWatch {
  readonly #document: Document;
  readonly #viewOf: (edition: Edition) => ClusterView;
  readonly #listener: WatchListener;
  #files: FSWatcher | undefined;
  #timer: NodeJS.Timeout | undefined;
  #looking = false;
  #again = false;
  #stopped = false;
  /** The edition last told; '' for `undefined`. */
  #told: string | undefined;
  /** What is known to be in order: it need not be understood again at every look. */
  #sound: string | undefined;

  constructor(document: Document, viewOf: (edition: Edition) => ClusterView, listener: WatchListener) {
    this.#document = document;
    this.#viewOf = viewOf;
    this.#listener = listener;
    this.#listen();
    void this.#look();
  }

  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#timer);
    this.#files?.close();
  }

  #listen(): void {
    this.#files?.close();
    this.#files = undefined;
    try {
      this.#files = watchFiles(this.#document.path, (_, name) => {
        if (isToken(name)) void this.#look(true);
      });
      // Without it a change is told of after `lookMs`.
      this.#files.on('error', () => {});
    } catch {
      // Missing, which the next look tells, or the kernel's watches are used up.
    }
  }

  async #look(told = false): Promise<void> {
    if (this.#looking) {
      this.#again = true;
      return;
    }
    this.#looking = true;
    clearTimeout(this.#timer);
    do {
      this.#again = false;
      const before = this.#told;
      let edition: Edition | undefined;
      let view: ClusterView | undefined;
      let why: WalshipError | undefined;
      try {
        edition = await this.#document.read();
        if (edition.token === before && edition.text === this.#sound) continue;
        this.#sound = undefined;
        view = this.#viewOf(edition);
        this.#sound = edition.text;
      } catch (error) {
        why = error instanceof WalshipError ? error : coordinatorError((error as Error).message, error);
      }
      if (this.#stopped) return;
      const now = view === undefined ? '' : (edition?.token ?? '');
      // Nobody said so: the directory is another than the one that is listened to.
      if (!told && before !== undefined && now !== before) this.#listen();
      if (now !== before) {
        this.#told = now;
        this.#listener(view, why);
      }
    } while (this.#again && !this.#stopped);
    this.#looking = false;
    if (!this.#stopped)
      this.#timer = setTimeout(() => void this.#look(), this.#told === '' ? lookAgainMs : lookMs);
  }
}

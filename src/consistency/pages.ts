import type { Engine } from '../engine/engine.js';
import { native, type PageCopy, type ShortSegment, settled } from '../engine/native.js';

/** Complete, flushed pages: `first` included, `end` excluded. */
export interface PageRange {
  readonly first: number;
  readonly end: number;
  readonly pageBytes: number;
}

/** The most that is asked for at once: what it takes to read stays below a link's time-out on a slow disk, too. */
const askedBytesMax = 16 * 1024 * 1024;
/** In one answer of a neighbour (`kCopiesPerReplyMax` of native/replication/messages.h). */
const askedPagesMax = 96;

/**
 * The copies of complete pages that an engine can reach: its own on disk and in memory, and on disk those of the nodes at the
 * other ends of its links. Everything that reads runs off the data plane's threads.
 */
export class Pages {
  readonly node: string;
  readonly #engine: Engine;

  constructor(engine: Engine) {
    this.#engine = engine;
    this.node = engine.nodeId;
  }

  /** Nodes that can be asked now. */
  neighbours(): string[] {
    const { links } = this.#engine.status();
    return [...new Set(links.filter(({ streaming }) => streaming).map(({ node }) => node))];
  }

  get committedLsn(): bigint {
    return this.#engine.positions.committed;
  }

  /** @throws {WalshipError} `WALSHIP_ERR_CLOSED`, as everything here */
  complete(): Promise<PageRange> {
    return settled(native.pages.complete(this.#engine.core));
  }

  /** How many pages may be asked for at once. */
  static countMax(pageBytes: number): number {
    return Math.min(askedPagesMax, Math.max(1, Math.floor(askedBytesMax / pageBytes)));
  }

  copies(first: number, count: number): Promise<{ readonly disk: PageCopy; readonly memory: PageCopy }[]> {
    return settled(native.pages.copies(this.#engine.core, first, count));
  }

  /**
   * @throws {WalshipError} `WALSHIP_ERR_NODE` (no link to it is up), `WALSHIP_ERR_BUSY` (it has not answered the question
   * before), `WALSHIP_ERR_LINK_CLOSED`, `WALSHIP_ERR_TIMEOUT`
   */
  copiesAt(node: string, first: number, count: number): Promise<PageCopy[]> {
    return settled(native.pages.copiesAt(this.#engine.core, node, first, count));
  }

  /** The page as it is on another node's disk. @throws {WalshipError} as {@link copiesAt}; `WALSHIP_ERR_LOG_POSITION` */
  bytesAt(node: string, page: number): Promise<Buffer> {
    return settled(native.pages.bytesAt(this.#engine.core, node, page));
  }

  /** As they are, unchecked; zeros for what the disk does not give. */
  bytesOnDisk(page: number): Promise<Buffer> {
    return settled(native.pages.bytesOnDisk(this.#engine.core, page));
  }

  /** Empty if the page is not in memory. */
  bytesInMemory(page: number): Promise<Buffer> {
    return settled(native.pages.bytesInMemory(this.#engine.core, page));
  }

  sumOf(bytes: Buffer): bigint {
    return native.pages.sum(bytes);
  }

  /**
   * Writes a page that verifies over one on disk that does not, syncs, reads back and compares.
   *
   * @param replaces sum of what is there, or nothing is written
   * @throws {WalshipError} `WALSHIP_ERR_PAGE_CHANGED` (something else is there by now), `WALSHIP_ERR_LOG_POSITION` (the page
   * was trimmed or cut), `WALSHIP_ERR_PAGE_INVALID`, `WALSHIP_ERR_LOG_IO`, `WALSHIP_ERR_DISK_FULL`
   */
  repair(page: number, bytes: Buffer, replaces: bigint): Promise<void> {
    return settled(native.pages.repair(this.#engine.core, page, bytes, replaces));
  }

  /** Has the copy in memory forgotten: who wants the page next reads it from disk. false: it is in use, or not there. */
  drop(page: number): Promise<boolean> {
    return settled(native.pages.drop(this.#engine.core, page));
  }

  /** Segment files that have lost bytes at their end, or are gone; `grow` gives them their size, with zeros. */
  shortSegments(grow: boolean): Promise<ShortSegment[]> {
    return settled(native.pages.shortSegments(this.#engine.core, grow));
  }
}

import { randomBytes } from 'node:crypto';
import {
  closeSync,
  constants,
  fsync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  unlinkSync,
  writeSync,
} from 'node:fs';
import { mkdir, mkdtemp, readdir, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { coordinatorError } from './errors.js';

/** What the document held at one revision. */
export interface Edition {
  readonly revision: bigint;
  readonly text: string;
  /** The name of its token. */
  readonly token: string;
}

/** A directory that shows no token, or one whose content is gone, is looked at again: somebody was just replacing it. */
const looksMax = 50;
const tokenPattern = /^current\.(0|[1-9][0-9]{0,18})\.([0-9a-f]{16})$/;
const contentPattern = /^content\.(0|[1-9][0-9]{0,18})\.([0-9a-f]{16})$/;

const hasCode = (error: unknown, ...codes: string[]) =>
  codes.includes((error as NodeJS.ErrnoException | undefined)?.code ?? '');

/** Is that the name of a token? A file watcher that sees it appear knows that the document was replaced. */
export function isToken(name: string | null): boolean {
  return name !== null && tokenPattern.test(name);
}

/**
 * A document that processes of one machine replace by compare-and-swap, without a server and without locks, so that a
 * process that is killed at any instruction leaves nothing behind that others would have to clear away.
 *
 * It is a directory. An empty file in it, the token, says by its name `current.<revision>.<id>` which edition holds; its
 * content is in `content.<revision>.<id>`. To replace it, a writer stores the content of the next edition, and then
 * renames the token. Of any number of writers that have seen one edition exactly one succeeds: the kernel renames a file
 * once, and the others find that it is gone. A token that is gone never comes back, because it can only come from a
 * rename of the one before it; so a writer that was stopped for long cannot do any harm when it goes on. (A lock file would
 * outlive its process, an abstract socket would not be seen from another network namespace, and Node.js has no flock.)
 *
 * Contents whose revision is not above the token's, except its own, have lost for ever and are removed by the winner.
 *
 * Only what waits for the disk is left to other threads. The rest is names and a few hundred bytes that the kernel has in
 * memory; a thread of the pool takes longer to come to it than it takes, on a busy machine very much so, and an election is
 * a dozen such steps.
 */
export class Document {
  readonly path: string;

  private constructor(path: string) {
    this.path = path;
  }

  /** Makes it with `initial` as its first edition, unless it is there. */
  static async open(path: string, initial: string): Promise<Document> {
    const document = new Document(path);
    try {
      const names = await readdir(path).catch((error) => {
        if (hasCode(error, 'ENOENT')) return [];
        throw error;
      });
      if (names.length === 0) await document.#make(initial);
    } catch (error) {
      throw document.#error(error);
    }
    await document.read();
    return document;
  }

  /** @throws {WalshipError} `WALSHIP_ERR_COORDINATOR` */
  async read(): Promise<Edition> {
    let problem = '';
    for (let look = 0; look < looksMax; look++) {
      const tokens = this.#tokens();
      const [token] = tokens;
      const match = tokenPattern.exec(token ?? '');
      if (token === undefined || match === null || tokens.length > 1) {
        problem =
          tokens.length === 0 ? 'it has no token' : `it has ${tokens.length} tokens: ${tokens.join(', ')}`;
        continue;
      }
      const revision = BigInt(match[1] as string);
      const content = this.#contentOf(revision, match[2] as string);
      try {
        return { revision, text: readFileSync(content, 'utf8'), token };
      } catch (error) {
        // Replaced and tidied away in between.
        if (!hasCode(error, 'ENOENT')) throw this.#error(error);
        problem = `${content} is missing`;
      }
    }
    throw coordinatorError(
      `${this.path} cannot be read: ${problem}. It was changed by hand, or it is not a coordinator's directory: put it ` +
        'back as it was, or choose another path',
    );
  }

  /**
   * Replaces the edition if it still is `seen`. It is durable when this is done; readers may have seen it a moment before,
   * which no one can tell afterwards, because they end with the machine.
   *
   * @returns the new revision; undefined: it had been replaced already
   * @throws {WalshipError} `WALSHIP_ERR_COORDINATOR`: whether it was replaced is not known
   */
  async replace(seen: Edition, text: string): Promise<bigint | undefined> {
    const revision = seen.revision + 1n;
    const id = randomBytes(8).toString('hex');
    const content = this.#contentOf(revision, id);
    try {
      await this.#store(content, text);
      try {
        renameSync(join(this.path, seen.token), join(this.path, `current.${revision}.${id}`));
      } catch (error) {
        if (!hasCode(error, 'ENOENT')) throw error;
        // Another has won, and may have removed this already.
        this.#remove(content);
        return undefined;
      }
      await this.#sync(this.path);
      this.#tidy(revision, id);
      return revision;
    } catch (error) {
      throw this.#error(error);
    }
  }

  #tokens(): string[] {
    try {
      return readdirSync(this.path).filter(isToken);
    } catch (error) {
      throw this.#error(error);
    }
  }

  #contentOf(revision: bigint, id: string): string {
    return join(this.path, `content.${revision}.${id}`);
  }

  /** The directory appears with its first token in it, and is never empty again: it is made once. */
  async #make(initial: string): Promise<void> {
    const parent = dirname(this.path);
    await mkdir(parent, { recursive: true });
    const made = await mkdtemp(`${this.path}.new-`);
    try {
      const id = randomBytes(8).toString('hex');
      await this.#store(join(made, `content.0.${id}`), initial);
      await this.#store(join(made, `current.0.${id}`), '');
      await this.#sync(made);
      await rename(made, this.path);
      await this.#sync(parent);
    } catch (error) {
      await rm(made, { recursive: true, force: true });
      if (!hasCode(error, 'ENOTEMPTY', 'EEXIST')) throw error;
    }
  }

  async #store(path: string, text: string): Promise<void> {
    await using(openSync(path, 'wx', 0o600), async (file) => {
      const bytes = Buffer.from(text);
      for (let at = 0; at < bytes.length; ) at += writeSync(file, bytes, at);
      await toDisk(file);
    });
  }

  async #sync(directory: string): Promise<void> {
    await using(openSync(directory, constants.O_RDONLY | constants.O_DIRECTORY), toDisk);
  }

  #tidy(revision: bigint, id: string): void {
    for (const name of readdirSync(this.path)) {
      const match = contentPattern.exec(name);
      if (!match || BigInt(match[1] as string) > revision || match[2] === id) continue;
      this.#remove(join(this.path, name));
    }
  }

  #remove(content: string): void {
    try {
      unlinkSync(content);
    } catch {
      // Another was faster.
    }
  }

  #error(error: unknown) {
    const { code, message } = error as NodeJS.ErrnoException;
    const advice =
      code === 'ENOENT'
        ? 'put it back; it is not made again while nodes use it'
        : code === 'ENOTDIR'
          ? 'it must be a directory of its own; choose another path'
          : 'it must be on a local disk and writable for every node';
    return coordinatorError(`${this.path} cannot be used: ${message}; ${advice}`, error);
  }
}

const toDisk = promisify(fsync);

async function using(file: number, use: (file: number) => Promise<void>): Promise<void> {
  try {
    await use(file);
  } finally {
    closeSync(file);
  }
}

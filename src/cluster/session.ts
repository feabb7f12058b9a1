import { WalshipError } from '../engine/errors.js';
import type { Target } from './choose.js';

/** The newest that a session has written or read: everything below `lsn`, in the log of that epoch's primary. */
export interface Token {
  readonly epoch: bigint;
  readonly lsn: bigint;
}

export const nothingSeen: Token = { epoch: 0n, lsn: 0n };

type History = readonly { readonly epoch: bigint; readonly firstLsn: bigint }[];

/**
 * Up to which LSN what a token names is surely in a log with this history: the log of the token's epoch is in it up to where
 * the next epoch began. Undefined: the history has nothing of the token's epoch, because it is older than what is told of
 * it, newer, or of a branch that was left; then nothing is sure.
 */
export function surviving({ epoch }: Token, history: History): bigint | undefined {
  const at = history.findIndex((entry) => entry.epoch === epoch);
  if (at < 0) return history.length > 0 && (history.at(-1)?.epoch ?? 0n) > epoch ? 0n : undefined;
  return history[at + 1]?.firstLsn ?? (1n << 64n) - 1n;
}

/** Both: whoever has this has everything that either has seen, or is told that some of it is lost. */
export function both(a: Token, b: Token): Token {
  return { epoch: a.epoch > b.epoch ? a.epoch : b.epoch, lsn: a.lsn > b.lsn ? a.lsn : b.lsn };
}

/** `epoch-lsn`, in base 36: fits a cookie or a header as it is. */
export function encodeToken({ epoch, lsn }: Token): string {
  return `${epoch.toString(36)}-${lsn.toString(36)}`;
}

/** @throws {WalshipError} `WALSHIP_ERR_ARGUMENT` */
export function decodeToken(text: string): Token {
  const match = /^(0|[1-9a-z][0-9a-z]{0,12})-(0|[1-9a-z][0-9a-z]{0,12})$/.exec(text);
  const [epoch, lsn] = [fromBase36(match?.[1]), fromBase36(match?.[2])];
  if (epoch !== undefined && lsn !== undefined) return { epoch, lsn };
  const shown = text.length > 40 ? `${text.slice(0, 40)}…` : text;
  throw new WalshipError(
    'WALSHIP_ERR_ARGUMENT',
    `'${shown}' is no session token: give what toString() of a session gave, or begin a new session`,
  );
}

function fromBase36(digits: string | undefined): bigint | undefined {
  if (digits === undefined) return undefined;
  let value = 0n;
  for (const digit of digits) value = value * 36n + BigInt(Number.parseInt(digit, 36));
  return value < 1n << 64n ? value : undefined;
}

/**
 * What one client has written and read. Given to {@link Router.replica}, it gets nodes that have all of it: it reads its own
 * writes, and never goes back in time. Made by {@link Router.session}; `String(session)` is its token, which makes the same
 * session in another process. A token is not signed: who changes it deceives only himself.
 *
 * *Across a failover.* What a synchronous commit rule had committed is in the log of every later primary, so a session of
 * committed writes goes on without noticing. What was written under `async`, or read on a standby before it was committed,
 * may not have survived: then `replica()` fails with `WALSHIP_ERR_SESSION_LOST`, because no node has, or ever will have, what
 * the session saw; {@link forget} begins anew. A write or a read in a newer epoch that is noted before `replica()` was asked
 * again takes the place of what was lost.
 */
export class Session {
  #token: Token;
  /** Of the newest log that was found to have everything seen. */
  #checkedEpoch = 0n;
  readonly #newest: () => bigint;

  /** @internal `newest`: the newest epoch that is known. */
  constructor(token: Token, newest: () => bigint) {
    this.#token = token;
    this.#newest = newest;
  }

  /** @internal */
  get token(): Token {
    return this.#token;
  }

  /** @internal The router has chosen a node of this epoch, whose log has everything seen. */
  checked(epoch: bigint): void {
    if (epoch > this.#checkedEpoch) this.#checkedEpoch = epoch;
  }

  /**
   * A write has ended at `lsn`: what `append` gave, or the database's `committed()`.
   *
   * @param primary where it was done. Default: the primary of this moment; give it where the primary may have changed since
   */
  wrote(lsn: bigint, primary?: Pick<Target, 'epoch'>): void {
    this.#token = both(this.#token, { epoch: primary?.epoch ?? this.#newest(), lsn });
  }

  /**
   * A read has seen everything below `lsn`: what the node had applied, as it says itself, at the time of the read or after.
   *
   * @param replica its epoch: best the node's own at the time of the read or after (`engine.logEpoch`), which alone shows
   * that it has not changed its log since it was chosen; or the target's. Default: as with {@link wrote}
   * @throws {WalshipError} `WALSHIP_ERR_STALE_READ`: the read may lack what the session has seen before, because the node
   * has lost it to a newer primary since it was chosen; its answer is to be dropped, and a node asked for anew
   */
  sawReadAt(lsn: bigint, replica?: Pick<Target, 'epoch'>): void {
    const { epoch, lsn: seenLsn } = this.#token;
    const epochs = [epoch, this.#checkedEpoch];
    const isKnown = replica === undefined || seenLsn === 0n || epochs.some((known) => replica.epoch <= known);
    if (lsn < seenLsn || !isKnown) {
      throw new WalshipError(
        'WALSHIP_ERR_STALE_READ',
        `the read has seen LSN ${lsn}${isKnown ? '' : ` of epoch ${replica.epoch}`}, and the session LSN ${seenLsn} of epoch ` +
          `${epoch} before; drop the answer and ask again`,
      );
    }
    this.wrote(lsn, replica);
  }

  /** Forgets everything: the next read may be older than the last. */
  forget(): void {
    this.#token = nothingSeen;
  }

  /** The token. */
  toString(): string {
    return encodeToken(this.#token);
  }
}

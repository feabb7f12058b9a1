/** What an error carries beside its code and message. */
export interface WalshipErrorOptions {
  /** The error underneath, if there is one. */
  readonly cause?: unknown;
  /** Facts a program may act on: a path, an offset, the list of problems. */
  readonly details?: Readonly<Record<string, unknown>>;
}

/**
 * Every error of walship. `code` is stable (`WALSHIP_ERR_…`) and meant for programs; `message` says what happened,
 * where, and what to do next, and may change.
 */
export class WalshipError extends Error {
  override readonly name = 'WalshipError';
  readonly code: string;
  readonly details: Readonly<Record<string, unknown>>;

  constructor(code: string, message: string, options: WalshipErrorOptions = {}) {
    super(message, 'cause' in options ? { cause: options.cause } : undefined);
    this.code = code;
    this.details = options.details ?? {};
  }
}

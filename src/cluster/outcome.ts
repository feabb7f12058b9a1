import { WalshipError } from '../engine/errors.js';

/** Shared by all copies of the package in a process. */
const mark = Symbol.for('walship.outcome');

/**
 * What an error says of a write: `not-applied`, it was not done and never will be; `known`, the primary has answered, and
 * trying again would give the same; `unknown`, it may have been done, or may still be.
 */
export type Outcome = 'not-applied' | 'known' | 'unknown';

/** Never sent: there was no connection. */
const unconnected = new Set(['ECONNREFUSED', 'EHOSTUNREACH', 'ENETUNREACH', 'ENOTFOUND', 'EAI_AGAIN']);

/**
 * Says of an error, in {@link Router.withPrimary}, that nothing was done, so that it is tried again:
 * `throw notApplied(new Error('not the primary any more'))`.
 */
export function notApplied<E extends object>(error: E): E {
  return marked(error, 'not-applied');
}

/** Says of an error that it is the primary's answer: it is thrown as it is. */
export function known<E extends object>(error: E): E {
  return marked(error, 'known');
}

function marked<E extends object>(error: E, outcome: Outcome): E {
  return Object.defineProperty(error, mark, { value: outcome, configurable: true });
}

/** Whoever is in doubt is told `unknown`: a write that is done twice cannot be taken back. */
export function outcomeOf(error: unknown): Outcome {
  if (typeof error !== 'object' || error === null) return 'unknown';
  const said = (error as { [mark]?: Outcome })[mark];
  if (said !== undefined) return said;
  const { code, syscall } = error as NodeJS.ErrnoException;
  if (unconnected.has(code ?? '') && (syscall === 'connect' || syscall === 'getaddrinfo'))
    return 'not-applied';
  if (error instanceof WalshipError) {
    // An append that waits for its commit is told the same code when its primary is deposed.
    if (code === 'WALSHIP_ERR_NOT_PRIMARY' && error.details['appended'] === false) return 'not-applied';
    if (code === 'WALSHIP_ERR_UNREACHABLE') return outcomeOf(error.cause);
  }
  // Node has tried all addresses of one name.
  if (error instanceof AggregateError && error.errors.length > 0)
    return error.errors.every((each) => outcomeOf(each) === 'not-applied') ? 'not-applied' : 'unknown';
  // So does fetch wrap what happened.
  if (error instanceof TypeError && error.message === 'fetch failed') return outcomeOf(error.cause);
  return 'unknown';
}

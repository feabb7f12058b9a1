import { WalshipError } from '../../engine/errors.js';

export function coordinatorError(message: string, cause?: unknown): WalshipError {
  return new WalshipError('WALSHIP_ERR_COORDINATOR', message, cause === undefined ? {} : { cause });
}

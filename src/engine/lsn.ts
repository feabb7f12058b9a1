import { WalshipError } from './errors.js';

/**
 * Log sequence number: a byte position in the log. The LSN of an append is the position behind its last byte.
 * Written as PostgreSQL writes it, two hexadecimal halves with a slash: `0/16B3740`.
 */
export type Lsn = bigint;

/** `0/16B3740` for 23803712n. */
export function formatLsn(lsn: Lsn): string {
  return `${(lsn >> 32n).toString(16).toUpperCase()}/${(lsn & 0xffffffffn).toString(16).toUpperCase()}`;
}

/**
 * Reads `0/16B3740`, or a decimal number of bytes.
 *
 * @throws {WalshipError} `WALSHIP_ERR_ARGUMENT` if it is neither.
 */
export function parseLsn(text: string): Lsn {
  const halves = /^([0-9A-Fa-f]{1,8})\/([0-9A-Fa-f]{1,8})$/.exec(text);
  if (halves) return (BigInt(`0x${halves[1]}`) << 32n) | BigInt(`0x${halves[2]}`);
  if (/^[0-9]{1,20}$/.test(text) && BigInt(text) < 1n << 64n) return BigInt(text);
  throw new WalshipError(
    'WALSHIP_ERR_ARGUMENT',
    `'${text}' is not an LSN; write 0/16B3740 or a decimal number`,
  );
}

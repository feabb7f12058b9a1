import { type Command, InvalidArgumentError, Option } from 'commander';
import type { RestoreTarget } from '../databases/sqlite/files.js';
import { parseLsn } from '../engine/lsn.js';
import { parseSize } from '../engine/sizes.js';
import { parseTime, parseTimeUs } from '../node/units.js';

// What the definitions of commands are made of. Each command's code is loaded when it runs: help needs no addon.

/** Runs a command's code and takes its outcome for the exit code. */
export function does<Arguments extends unknown[]>(run: (...given: Arguments) => Promise<number>) {
  return async (...given: Arguments): Promise<void> => {
    process.exitCode = await run(...given);
  };
}

/** Adds the options that say which node is meant. */
export function aimed(command: Command): Command {
  return command
    .addOption(
      new Option('-c, --config <file>', 'the node with this configuration (default: walship.toml)').conflicts(
        ['dir', 'url'],
      ),
    )
    .addOption(
      new Option('-d, --dir <dir>', 'the node with its log in this directory').conflicts(['config', 'url']),
    )
    .addOption(
      new Option('-u, --url <url>', 'the node at http://host:port or unix:/path').conflicts([
        'config',
        'dir',
      ]),
    );
}

export function seconds(text: string): number {
  const value = Number(text);
  if (text !== '' && value >= 0.1 && value <= 3600) return value;
  throw new InvalidArgumentError('It must be a number of seconds from 0.1 to 3600.');
}

export function epoch(text: string): bigint {
  if (/^[1-9][0-9]{0,18}$/.test(text)) return BigInt(text);
  throw new InvalidArgumentError('It must be a whole number of 1 or more.');
}

export function target(text: string): RestoreTarget {
  const time = parseTimeUs(text);
  if (time !== undefined) return { timeUs: time };
  if (/^[0-9A-Fa-f/]+$/.test(text)) return { lsn: lsn(text) };
  throw new InvalidArgumentError(
    'It must be an LSN, such as 0/16B3740, or a time, such as 2026-05-01T12:30:00Z.',
  );
}

export function lsn(text: string): bigint {
  try {
    return parseLsn(text);
  } catch (error) {
    throw new InvalidArgumentError((error as Error).message);
  }
}

export function size(text: string): number {
  const bytes = parseSize(text);
  if (bytes !== undefined) return bytes;
  throw new InvalidArgumentError('It must be a number of bytes, such as 64MiB.');
}

export function moment(text: string): Date {
  const spanMs = parseTime(text);
  const timeUs = parseTimeUs(text);
  if (spanMs !== undefined) return new Date(Date.now() - spanMs);
  if (timeUs !== undefined) return new Date(timeUs / 1000);
  throw new InvalidArgumentError(
    'It must be a time, such as 2026-05-01T12:30:00Z, or a span, such as 10min.',
  );
}

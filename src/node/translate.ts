import { z } from 'zod';
import { parseLsn } from '../engine/lsn.js';
import { parseSize } from '../engine/sizes.js';
import {
  allowed,
  isSize,
  isTime,
  keyOf,
  namesIn,
  type SettingPath,
  schemaAt,
  settingPaths,
  snakeCase,
} from './settings.js';
import { parseTime } from './units.js';

type Table = Readonly<Record<string, unknown>>;

/**
 * Takes a file's table to the names and units of the options: `page_bytes = "64KiB"` becomes `pageBytes: 65536`. A value
 * that cannot be taken over stays as it is, for the schema to refuse; a key that nobody knows is a problem here.
 */
export function fromFile(table: Table, problems: string[], path: SettingPath = []): Record<string, unknown> {
  const names = namesIn(path) ?? [];
  const out: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(table)) {
    const name = names.find((candidate) => snakeCase(candidate) === key);
    if (name === undefined) problems.push(unknownKey([...path.map(snakeCase), key], value));
    else out[name] = valueFromFile(value, problems, [...path, name]);
  }
  return out;
}

function valueFromFile(value: unknown, problems: string[], path: SettingPath): unknown {
  if (isTable(value)) return namesIn(path) ? fromFile(value, problems, path) : value;
  if (Array.isArray(value))
    return value.map((item, i) => (isTable(item) ? valueFromFile(item, problems, [...path, i]) : item));
  if (keyOf(path) === 'upstream' && typeof value === 'string') return { address: value };
  if (schemaAt(path) instanceof z.ZodBigInt) return lsnFromFile(value);
  if (typeof value !== 'string') return value;
  if (isSize(path)) return parseSize(value) ?? value;
  if (isTime(path)) return parseTime(value) ?? value;
  return value;
}

function lsnFromFile(value: unknown): unknown {
  try {
    return parseLsn(String(value));
  } catch {
    return value;
  }
}

function isTable(value: unknown): value is Table {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && !(value instanceof Date);
}

function unknownKey(path: readonly string[], value: unknown): string {
  const written = path.join('.');
  const paths = settingPaths();
  const tables = new Set(
    paths.filter((known) => known.length > 1).map((known) => snakeCase(known[0] as string)),
  );
  const candidates = [...tables, ...(isTable(value) ? [] : paths.map(keyOf))];
  const meant = nearest(snakeCase(written).replaceAll('-', '_').toLowerCase(), candidates);
  return `${written}: is not a setting; ${meant ? `did you mean ${meant}?` : '`walship config example` lists them all'}`;
}

/** A key that begins so, or the same in another table, or one that differs by a slip or two. */
function nearest(written: string, candidates: readonly string[]): string | undefined {
  const last = (key: string) => key.slice(key.lastIndexOf('.') + 1);
  const near = candidates
    .map((key) => ({ key, slips: editDistance(written, key) }))
    .sort((a, b) => a.slips - b.slips)
    .filter(({ slips }, i) => i === 0 && slips <= Math.max(1, Math.floor(written.length / 4)))
    .map(({ key }) => key);
  const longer = candidates.filter((key) => key.startsWith(`${written}_`));
  const moved = candidates.filter((key) => last(key) === last(written));
  return [...near, ...longer, ...moved][0];
}

/** Letters to change, leave out, put in or swap with the next to get from one to the other. */
function editDistance(from: string, to: string): number {
  let beforeLast: number[] = [];
  let last = Array.from({ length: to.length + 1 }, (_, j) => j);
  for (let i = 1; i <= from.length; i++) {
    const row = [i];
    for (let j = 1; j <= to.length; j++) {
      const same = from[i - 1] === to[j - 1];
      const swapped = i > 1 && j > 1 && from[i - 1] === to[j - 2] && from[i - 2] === to[j - 1];
      row.push(
        Math.min(
          (last[j - 1] as number) + (same ? 0 : 1),
          (last[j] as number) + 1,
          (row[j - 1] as number) + 1,
          swapped ? (beforeLast[j - 2] as number) + 1 : Number.POSITIVE_INFINITY,
        ),
      );
    }
    [beforeLast, last] = [last, row];
  }
  return last[to.length] as number;
}

/** Never part of a message. */
const secrets: ReadonlySet<unknown> = new Set(['secret', 'password']);

/** What the schema has against the settings: each time the key as it is in the file, and what is allowed. */
export function schemaProblems(error: z.ZodError, settings: Table): string[] {
  const problems = error.issues.map(({ code, message, path }) => {
    const key = keyOf(path);
    const value = path.reduce<unknown>((at, name) => (at as Table)[name as string], settings);
    if (value === undefined) return `${key}: is missing; it must be ${allowed(path)}`;
    // A message of our own schema says more than the rule can.
    const rule = code === 'custom' || !/^(Invalid|Too) /.test(message) ? message : `must be ${allowed(path)}`;
    const tellsValue = isTable(value) || secrets.has(path.at(-1)) || rule.includes(`'${value}'`);
    return `${key}: ${rule}${tellsValue ? '' : `; it is ${shown(value)}`}`;
  });
  return [...new Set(problems)];
}

function shown(value: unknown): string {
  const text = typeof value === 'bigint' ? String(value) : JSON.stringify(value);
  return text.length > 60 ? `${text.slice(0, 60)}…` : text;
}

/** The options' own names in a message about them, as they are written in the file. */
export function inWordsOfFile(message: string): string {
  const keys = new Map(settingPaths().map((path) => [path.join('.'), keyOf(path)]));
  return message.replace(/[a-z]+\.[a-zA-Z]+/g, (word) => keys.get(word) ?? word);
}

import { z } from 'zod';
import { cacheSettings, minSlots } from '../cache/settings.js';
import { scrubSchema } from '../consistency/scrubber.js';
import { monitorSchema } from '../consistency/settings.js';
import { postgresSchema } from '../databases/postgres/options.js';
import { optionsSchema } from '../engine/options.js';
import { coordinatorSchema } from '../failover/coordinator/settings.js';
import { failoverSchema } from '../failover/settings.js';
import { sizeText, timeText } from './units.js';

const address = optionsSchema.shape.listen.unwrap();

/** The settings of every kind of coordinator in one table; `kind` says which of them may stand in it. */
const [embedded, etcd] = coordinatorSchema.options;
const { kind: _, prefix, tryTimeoutMs, timeoutMs, checkMs, ...plain } = etcd.shape;
const coordinator = z
  .strictObject({
    ...embedded.shape,
    ...plain,
    prefix: prefix.unwrap(),
    tryTimeoutMs: tryTimeoutMs.unwrap(),
    timeoutMs: timeoutMs.unwrap(),
    checkMs: checkMs.unwrap(),
  })
  .partial()
  .extend({ kind: z.enum(['embedded', 'etcd']) });

/**
 * What may stand in a node's configuration file: the options of the engine under the same names in snake_case, and what
 * makes a process of them.
 */
export const settingsSchema = optionsSchema.extend({
  cluster: optionsSchema.shape.cluster.extend({
    secret: optionsSchema.shape.cluster.shape.secret.optional(),
    secretFile: z.string().min(1).optional(),
  }),
  role: z.enum(['primary', 'standby']).optional(),
  upstream: z
    .strictObject({
      address,
      node: optionsSchema.shape.nodeId.optional(),
      source: z.string().min(1).optional(),
    })
    .optional(),
  adminSocket: z.string().min(1).optional(),
  adminListen: address.optional(),
  journalBytes: z
    .number()
    .int()
    .min(65_536)
    .max(2 ** 40)
    .optional(),
  scrub: scrubSchema.optional(),
  failover: failoverSchema
    .extend({
      onRole: z.string().min(1).optional(),
      onRoleTimeoutMs: z.number().int().min(100).max(600_000).optional(),
    })
    .optional(),
  coordinator: coordinator.optional(),
  postgres: postgresSchema.optional(),
  monitor: monitorSchema.optional(),
});

export type Settings = z.infer<typeof settingsSchema>;

/** A way into the schema: names in camelCase, and places in lists. */
export type SettingPath = readonly PropertyKey[];

/** The cache checks its settings itself; here it is enough to know their names. */
const cacheNames = Object.keys(cacheSettings(minSlots)).filter((name) => name !== 'slots');

/** `pageBytes` as it is written in the file: `page_bytes`. */
export function snakeCase(name: PropertyKey): string {
  return String(name).replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

/** `log.page_bytes` for `['log', 'pageBytes']`. */
export function keyOf(path: SettingPath): string {
  return path.map((name) => snakeCase(name)).join('.');
}

function withoutOptional(schema: z.ZodType): z.ZodType {
  return schema instanceof z.ZodOptional ? withoutOptional(schema.unwrap() as z.ZodType) : schema;
}

/** The schema of a setting, without the `optional()` around it; undefined if there is no such setting. */
export function schemaAt(path: SettingPath): z.ZodType | undefined {
  let schema: z.ZodType | undefined = settingsSchema;
  for (const name of path) {
    if (schema instanceof z.ZodObject) schema = schema.shape[name as string] as z.ZodType | undefined;
    else if (schema instanceof z.ZodRecord)
      schema = cacheNames.includes(name as string) ? z.unknown() : undefined;
    else if (schema instanceof z.ZodArray) schema = schema.element as z.ZodType;
    else return undefined;
    if (schema === undefined) return undefined;
    schema = withoutOptional(schema);
  }
  return schema;
}

/** What may stand in a table; undefined if the setting is none. */
export function namesIn(path: SettingPath): readonly string[] | undefined {
  const schema = schemaAt(path);
  if (schema instanceof z.ZodObject) return Object.keys(schema.shape);
  return schema instanceof z.ZodRecord ? cacheNames : undefined;
}

/** Every setting below `path`, tables themselves left out. */
export function settingPaths(path: SettingPath = []): SettingPath[] {
  const names = namesIn(path);
  return names ? names.flatMap((name) => settingPaths([...path, name])) : [path];
}

/** A number of bytes, which may be written as `64MiB`. */
export function isSize(path: SettingPath): boolean {
  return schemaAt(path) instanceof z.ZodNumber && /bytes(Max|PerSecond)?$/i.test(String(path.at(-1)));
}

/** A number of milliseconds, which may be written as `20ms` or `2s`. */
export function isTime(path: SettingPath): boolean {
  const schema = schemaAt(path);
  if (!(schema instanceof z.ZodNumber) && path[0] !== 'cache') return false;
  return /Ms(Min|Max)?$/.test(String(path.at(-1)));
}

/** What a setting may be, to be put behind "must be". */
export function allowed(path: SettingPath): string {
  const schema = schemaAt(path);
  if (schema instanceof z.ZodNumber) return allowedNumber(schema, path);
  if (schema instanceof z.ZodBigInt) return 'an LSN: a whole number, or text such as "0/16B3740"';
  if (schema instanceof z.ZodBoolean) return 'true or false';
  if (schema instanceof z.ZodEnum) return oneOf(schema.options);
  if (schema instanceof z.ZodUnion && schema.options.some((option) => option instanceof z.ZodArray))
    return 'an IP address, or a list of them';
  if (schema instanceof z.ZodUnion) {
    return oneOf((schema.options as z.ZodLiteral[]).map((option) => option.value as number));
  }
  if (schema instanceof z.ZodArray) {
    if (schema.element instanceof z.ZodObject)
      return `a list of tables with ${Object.keys(schema.element.shape).map(snakeCase).join(', ')}`;
    if (path[0] === 'rails') {
      return path.at(-1) === 'listen'
        ? 'a list of addresses, such as ["10.1.0.1:7100"]'
        : 'a list of names of rails, such as ["verbs:*"]';
    }
    const urls = path.at(-1) === 'endpoints';
    return urls ? 'a list of URLs, such as ["http://10.0.0.1:2379"]' : 'a list of names, such as ["b", "c"]';
  }
  if (schema instanceof z.ZodString) return ownRule(schema, '') ?? 'text that is not empty';
  const names = namesIn(path);
  if (names) return `a table, [${keyOf(path)}], with ${names.map(snakeCase).join(', ')}`;
  return 'something else';
}

/** What the schema's own message about a wrong value asks for; undefined if it has none. */
function ownRule(schema: z.ZodType, wrong: unknown): string | undefined {
  const messages = schema.safeParse(wrong).error?.issues.map((issue) => issue.message) ?? [];
  return messages.find((message) => message.startsWith('must be '))?.slice('must be '.length);
}

function allowedNumber(schema: z.ZodNumber, path: SettingPath): string {
  const [low, high] = [schema.minValue ?? 0, schema.maxValue ?? Number.MAX_SAFE_INTEGER];
  const range = (text: (value: number) => string) =>
    high < Number.MAX_SAFE_INTEGER ? `from ${text(low)} to ${text(high)}` : `of ${text(low)} or more`;
  const rule = ownRule(schema, low + 1);
  const size = rule ? `${rule}, a size` : 'a size';
  if (isSize(path)) return `${size} ${range(sizeText)}: text such as "64KiB", or a number of bytes`;
  if (isTime(path)) return `a time ${range(timeText)}: text such as "20ms" or "2s", or a number of ms`;
  return `a whole number ${range(String)}`;
}

function oneOf(values: readonly (string | number)[]): string {
  return `one of ${values.map((value) => JSON.stringify(value)).join(', ')}`;
}

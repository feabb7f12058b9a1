import { readFileSync } from 'node:fs';
import { z } from 'zod';
import { WalshipError } from '../../engine/errors.js';
import { problemsOf } from '../../engine/options.js';
import type { Coordinator } from './coordinator.js';
import { EmbeddedCoordinator } from './embedded.js';
import { EtcdCoordinator } from './etcd.js';

const path = z.string().min(1);
const endpoint = z.string().refine((text) => {
  const url = tryUrl(text);
  return (
    url !== undefined &&
    /^https?:$/.test(url.protocol) &&
    url.pathname === '/' &&
    !url.username &&
    !url.search
  );
}, 'must be http://host:port or https://host:port');

const embedded = z.strictObject({
  kind: z.literal('embedded'),
  /** A directory on a local disk, the same for every node of the machine. */
  path,
});

const etcd = z
  .strictObject({
    kind: z.literal('etcd'),
    /** Client URLs of the members of one etcd cluster. */
    endpoints: z.array(endpoint).min(1).max(32),
    /** The keys are below `<prefix>/<cluster id>/`. */
    prefix: z
      .string()
      .regex(/^\/?[A-Za-z0-9_.-]+(\/[A-Za-z0-9_.-]+)*$/, 'must be like /walship, without a slash at its end')
      .default('/walship'),
    user: z.string().min(1).optional(),
    password: z.string().min(1).optional(),
    passwordFile: path.optional(),
    /** PEM files. */
    caFile: path.optional(),
    certFile: path.optional(),
    keyFile: path.optional(),
    /** An endpoint that is silent for so long: the next one is asked as well. */
    tryTimeoutMs: z.number().int().min(5).max(60_000).default(75),
    /** Then a request has failed. */
    timeoutMs: z.number().int().min(50).max(60_000).default(1000),
    /** How often a watch makes sure that nothing was missed. */
    checkMs: z.number().int().min(50).max(60_000).default(500),
  })
  .check((context) => {
    const { user, password, passwordFile, certFile, keyFile, caFile, endpoints } = context.value;
    const problem = (message: string) =>
      context.issues.push({ code: 'custom', message, input: context.value, path: [] });
    if (password !== undefined && passwordFile !== undefined) problem('password or passwordFile, not both');
    if ((user !== undefined) !== ((password ?? passwordFile) !== undefined))
      problem('user and a password (or passwordFile) belong together');
    if ((certFile !== undefined) !== (keyFile !== undefined)) problem('certFile and keyFile belong together');
    const plain = endpoints.filter((each) => each.startsWith('http:'));
    if ((caFile ?? certFile) !== undefined && plain.length > 0)
      problem(`caFile, certFile and keyFile are for https:// endpoints; ${plain.join(', ')} is not`);
  });

/** Which coordinator, and how to reach it. */
export const coordinatorSchema = z.discriminatedUnion('kind', [embedded, etcd]);
export type CoordinatorSettings = z.input<typeof coordinatorSchema>;

/**
 * Opens the coordinator of a cluster. etcd need not be up for that; a directory must be usable.
 *
 * @throws {WalshipError} `WALSHIP_ERR_CONFIG`: the settings are wrong, or a file they name cannot be read;
 * `WALSHIP_ERR_COORDINATOR`: the directory cannot be used.
 */
export async function openCoordinator(
  settings: CoordinatorSettings,
  clusterId: string,
): Promise<Coordinator> {
  const parsed = coordinatorSchema.safeParse(settings);
  if (!parsed.success) throw configError(problemsOf(parsed.error));
  if (parsed.data.kind === 'embedded') return EmbeddedCoordinator.open({ clusterId, path: parsed.data.path });

  const { endpoints, prefix, user, tryTimeoutMs: tryMs, timeoutMs, checkMs, ...rest } = parsed.data;
  const problems: string[] = [];
  const load = (name: 'passwordFile' | 'caFile' | 'certFile' | 'keyFile') => {
    const file = rest[name];
    try {
      return file === undefined ? undefined : readFileSync(file);
    } catch (error) {
      problems.push(`${name}: ${(error as Error).message}`);
      return undefined;
    }
  };
  const password = rest.password ?? load('passwordFile')?.toString().trimEnd();
  const [ca, cert, key] = [load('caFile'), load('certFile'), load('keyFile')];
  if (problems.length > 0) throw configError(problems);
  return new EtcdCoordinator({
    clusterId,
    endpoints,
    prefix,
    tryMs,
    timeoutMs,
    checkMs,
    ...(user !== undefined && { user }),
    ...(password !== undefined && { password }),
    ...(ca && { ca }),
    ...(cert && { cert }),
    ...(key && { key }),
  });
}

function tryUrl(text: string): URL | undefined {
  try {
    return new URL(text);
  } catch {
    return undefined;
  }
}

function configError(problems: readonly string[]): WalshipError {
  return new WalshipError('WALSHIP_ERR_CONFIG', `coordinator: ${problems.join('; coordinator: ')}`, {
    details: { problems },
  });
}

import { accessSync, constants, readFileSync, statSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { parse, TomlError } from 'smol-toml';
import { cacheSettings, maxSlots } from '../cache/settings.js';
import type { ScrubSettings } from '../consistency/scrubber.js';
import { type MonitorSettings, monitorProblems } from '../consistency/settings.js';
import { type PostgresParts, partsProblems } from '../databases/postgres/options.js';
import { WalshipError } from '../engine/errors.js';
import { type EngineOptions, nativeSettings, type Upstream } from '../engine/options.js';
import { type CoordinatorSettings, coordinatorSchema } from '../failover/coordinator/settings.js';
import type { MembershipSettings } from '../failover/membership.js';
import { failoverProblems } from './failover.js';
import { keyOf, type Settings, settingsSchema, snakeCase } from './settings.js';
import { fromFile, inWordsOfFile, schemaProblems } from './translate.js';

/** Everything a node needs to run. */
export interface NodeConfig {
  readonly engine: EngineOptions;
  /**
   * What it is at start. A primary begins a new epoch at every start. Default `standby`.
   */
  readonly role?: 'primary' | 'standby';
  /** Whom a standby follows; without one it waits to be told. */
  readonly upstream?: Upstream;
  /** Unix socket of the administration interface. Default: `walship.sock` in the log directory. */
  readonly adminSocket?: string;
  /** `host:port` of a second administration interface: anyone may read there, only this host may change anything. */
  readonly adminListen?: string;
  /** With it the controller decides on role and upstream, which are left out. */
  readonly failover?: NodeFailover;
  /** Of the journal's files. Default 8 MiB. */
  readonly journalBytes?: number | undefined;
  /** How this node looks after its copies of the log's pages. */
  readonly scrub?: ScrubSettings | undefined;
  /** The PostgreSQL servers whose WAL the log is. */
  readonly postgres?: PostgresParts;
  /** When the monitor finds that something is wrong. */
  readonly monitor?: MonitorSettings | undefined;
  /** What is allowed but was hardly meant; logged at start. */
  readonly warnings?: readonly string[];
}

/** A node's part in automatic failover. */
export interface NodeFailover extends Omit<MembershipSettings, 'http'> {
  /**
   * Path of a program that is run when the node starts and after every change of its role, with the arguments role, epoch
   * and node; one run at a time, in order. Default: none.
   */
  readonly onRole?: string | undefined;
  /** A run that takes longer is ended. Default 10,000. */
  readonly onRoleTimeoutMs?: number | undefined;
}

/** Where a node's administration interface is, unless the configuration says otherwise. */
export function defaultAdminSocket(dir: string): string {
  return join(dir, 'walship.sock');
}

/** The longest path of a unix socket: `sun_path` less its end. */
const socketPathBytesMax = 107;

/**
 * Reads a node's configuration file (TOML). Relative paths in it are relative to the file's own directory. The secret
 * comes from `cluster.secret`, from the file that `cluster.secret_file` names, or from WALSHIP_SECRET in `env`.
 *
 * @throws {WalshipError} `WALSHIP_ERR_CONFIG` that lists every problem, each with its key and what is allowed; also as
 * `details.problems`.
 */
export function readNodeConfig(file: string, env: NodeJS.ProcessEnv = process.env): NodeConfig {
  const problems: string[] = [];
  const warnings: string[] = [];
  const table = readToml(file);
  const settings = fromFile(table, problems);
  const at = (path: string) => resolve(dirname(file), path);

  const parsed = settingsSchema.safeParse(settings);
  if (!parsed.success) problems.push(...schemaProblems(parsed.error, settings));
  const wrong = new Set(parsed.success ? [] : parsed.error.issues.map((issue) => issue.path[0]));
  const right = <Name extends keyof Settings>(name: Name) =>
    wrong.has(name) ? undefined : (settings as Settings)[name];

  const secret = findSecret(right('cluster'), file, env, problems, warnings);
  problems.push(
    ...relationProblems(settings, right),
    ...serverProblems(settings, right, at),
    ...clusterProblems(settings, right, at),
  );
  const dir = right('dir');
  const adminSocket = right('adminSocket') ?? (dir && defaultAdminSocket(dir));
  if (adminSocket && Buffer.byteLength(at(adminSocket)) > socketPathBytesMax) {
    problems.push(
      `admin_socket: ${at(adminSocket)} is longer than the ${socketPathBytesMax} bytes a socket's path may have; ` +
        'set a shorter one',
    );
  }
  if (problems.length > 0 || !parsed.success) throw configError(file, problems);

  const {
    role,
    upstream,
    adminSocket: _,
    adminListen,
    cluster,
    failover,
    coordinator,
    postgres,
    journalBytes,
    monitor,
    scrub,
    ...options
  } = parsed.data;
  return {
    engine: { ...options, dir: at(options.dir), cluster: { id: cluster.id, secret } } as EngineOptions,
    ...(failover
      ? {
          failover: {
            ...failover,
            ...(failover.onRole && { onRole: at(failover.onRole) }),
            coordinator: withPaths(coordinator as CoordinatorSettings, at),
          } as NodeFailover,
        }
      : { role: role ?? 'standby' }),
    ...(upstream && { upstream: upstream as Upstream }),
    ...(journalBytes !== undefined && { journalBytes }),
    ...(monitor && { monitor }),
    ...(scrub && { scrub }),
    ...(postgres && { postgres: withPlaces(postgres as PostgresParts, at) }),
    adminSocket: at(adminSocket as string),
    ...(adminListen && { adminListen }),
    warnings,
  };
}

/**
 * Where the administration interface of the node with this configuration file is. Of the file only that much has to be
 * right, so that a node can be asked whose file is being edited, or by someone who may not read its secret.
 *
 * @throws {WalshipError} `WALSHIP_ERR_CONFIG`
 */
export function adminSocketOf(file: string): string {
  const { dir, admin_socket: socket } = readToml(file);
  if (typeof socket === 'string') return resolve(dirname(file), socket);
  if (typeof dir === 'string') return defaultAdminSocket(resolve(dirname(file), dir));
  throw configError(file, ['dir: is missing, so there is no telling where the node listens; or give --dir']);
}

function readToml(file: string): Record<string, unknown> {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    throw new WalshipError(
      'WALSHIP_ERR_CONFIG',
      `cannot read the configuration file: ${(error as Error).message}; \`walship config example\` prints one`,
      { cause: error, details: { file } },
    );
  }
  try {
    return parse(text);
  } catch (error) {
    if (!(error instanceof TomlError)) throw error;
    // Its message has the place drawn below the first line; the line and column say the same.
    const what = (error.message.split('\n')[0] ?? '').replace(/^Invalid TOML document: /, '');
    const line = text.split('\n')[error.line - 1]?.trim() ?? '';
    throw new WalshipError(
      'WALSHIP_ERR_CONFIG',
      `${file}:${error.line}:${error.column}: this is not TOML: ${what}\n  ${line}`,
      { cause: error, details: { file, line: error.line, column: error.column } },
    );
  }
}

function findSecret(
  cluster: Settings['cluster'] | undefined,
  file: string,
  env: NodeJS.ProcessEnv,
  problems: string[],
  warnings: string[],
): string {
  if (cluster === undefined) return '';
  const inFile = cluster.secret;
  const { WALSHIP_SECRET: inEnvironment } = env;
  const secretFile = cluster.secretFile && resolve(dirname(file), cluster.secretFile);
  if (inFile !== undefined && secretFile !== undefined) {
    problems.push('cluster.secret: is there beside cluster.secret_file; leave one of them out');
    return '';
  }
  let secret = inFile ?? inEnvironment;
  let from = 'WALSHIP_SECRET in the environment';
  if (inFile !== undefined) warnIfReadable(file, warnings);
  if (secretFile !== undefined) {
    from = `cluster.secret_file: ${secretFile}`;
    try {
      secret = readFileSync(secretFile, 'utf8').trim();
      warnIfReadable(secretFile, warnings);
    } catch (error) {
      problems.push(`cluster.secret_file: ${(error as Error).message}`);
      return '';
    }
  }
  if (secret === undefined) {
    problems.push(
      'cluster.secret: is missing; set it, or cluster.secret_file, or WALSHIP_SECRET in the environment. ' +
        'Make one with: openssl rand -hex 32',
    );
  } else if (secret.length < 16) {
    problems.push(`${from} must have at least 16 characters; make one with: openssl rand -hex 32`);
  }
  return secret ?? '';
}

function warnIfReadable(file: string, warnings: string[]): void {
  if ((statSync(file).mode & 0o044) !== 0) {
    warnings.push(`${file} holds the cluster's secret and can be read by others; chmod 600 ${file}`);
  }
}

/** What settings must be to each other, where each is right by itself. `right` gives undefined for one that is not. */
function relationProblems(
  settings: Partial<Settings>,
  right: <Name extends keyof Settings>(name: Name) => Settings[Name] | undefined,
): string[] {
  const problems: string[] = [];
  if (right('role') === 'primary' && settings.upstream !== undefined && settings.failover === undefined) {
    problems.push('upstream: a primary has none; leave it out, or set role = "standby"');
  }
  const monitor = right('monitor');
  if (monitor) problems.push(...monitorProblems(monitor).map(inWordsOfFile));
  const rule = right('commitRule');
  if (rule && rule.level !== 'async' && settings.listen === undefined) {
    problems.push(
      `commit_rule: level "${rule.level}" waits for standbys, but without listen none can connect`,
    );
  }
  let slots = maxSlots;
  const sizes = ['log', 'arena', 'links'] as const;
  if (sizes.every((name) => right(name) === settings[name])) {
    try {
      const tables = Object.fromEntries(sizes.map((name) => [name, settings[name] ?? {}]));
      const cluster = { id: 'any', secret: '-'.repeat(16) };
      slots = nativeSettings({ dir: '.', nodeId: 'any', cluster, ...tables } as EngineOptions).arenaSlots;
    } catch (error) {
      problems.push(...listed(error).map(inWordsOfFile));
    }
  }
  try {
    cacheSettings(slots, right('cache') ?? {});
  } catch (error) {
    problems.push(
      ...listed(error).map((problem) =>
        problem.replace(/^(\w+) /, (_, name) => `${keyOf(['cache', name])}: `),
      ),
    );
  }
  return problems;
}

/** What is wrong with `[postgres…]`, beside single settings. */
function serverProblems(
  settings: Partial<Settings>,
  right: <Name extends keyof Settings>(name: Name) => Settings[Name] | undefined,
  at: (path: string) => string,
): string[] {
  const given = right('postgres') as PostgresParts | undefined;
  if (given === undefined) return [];
  const parts = withPlaces(given, at);
  const failover = settings.failover !== undefined;
  const problems = partsProblems(parts, failover).map((problem) => `postgres: ${problem}`);
  if (!failover && settings.role === 'primary' && parts.server === undefined)
    problems.push('postgres.server: is missing; a primary ships the WAL of a server');
  if (settings.applied !== undefined)
    problems.push('applied: with [postgres] the servers say what is applied; leave it out');
  return problems;
}

/** What is wrong with `[failover]` and `[coordinator]`, beside single settings. */
function clusterProblems(
  settings: Partial<Settings>,
  right: <Name extends keyof Settings>(name: Name) => Settings[Name] | undefined,
  at: (path: string) => string,
): string[] {
  const problems: string[] = [];
  if (settings.failover === undefined) {
    if (settings.coordinator !== undefined)
      problems.push('coordinator: serves failover alone; add [failover] with listen, or leave it out');
    return problems;
  }
  if (settings.role !== undefined) {
    problems.push(
      'role: with [failover] the controller decides; leave it out (failover.bootstrap = true: may begin a new cluster)',
    );
  }
  if (settings.upstream !== undefined)
    problems.push('upstream: with [failover] the controller decides; leave it out');
  if (settings.coordinator === undefined) {
    problems.push(
      'coordinator: is missing; [failover] needs one: kind = "etcd" with endpoints, or kind = "embedded" with path ' +
        'for nodes on one machine',
    );
  }
  const failover = right('failover');
  if (failover) {
    const { listen, adminListen } = settings;
    // What is wrong by itself has been told.
    if (
      right('listen') === listen &&
      right('adminListen') === adminListen &&
      right('links') === settings.links
    ) {
      problems.push(
        ...failoverProblems(failover, {
          listen,
          http: adminListen,
          links: settings.links as EngineOptions['links'],
        }).map(inWordsOfFile),
      );
    }
    if (failover.onRole) problems.push(...programProblems(at(failover.onRole)));
  }
  const coordinator = right('coordinator');
  const checked = coordinator && coordinatorSchema.safeParse(coordinator);
  if (coordinator && checked?.error) {
    for (const issue of checked.error.issues) {
      if (issue.code === 'unrecognized_keys') {
        for (const key of issue.keys)
          problems.push(`${keyOf(['coordinator', key])}: is no setting of kind = "${coordinator.kind}"`);
      } else if (issue.path.length > 0) {
        problems.push(
          `${keyOf(['coordinator', ...issue.path])}: is missing; kind = "${coordinator.kind}" needs it`,
        );
      } else problems.push(`coordinator: ${issue.message.replace(/\b[a-z]+File\b/g, snakeCase)}`);
    }
  }
  return problems;
}

function programProblems(file: string): string[] {
  try {
    accessSync(file, constants.X_OK);
    return [];
  } catch (error) {
    return [`failover.on_role: cannot be run: ${(error as Error).message}`];
  }
}

function withPaths(settings: CoordinatorSettings, at: (path: string) => string): CoordinatorSettings {
  const paths = new Set(['path', 'passwordFile', 'caFile', 'certFile', 'keyFile']);
  const pairs = Object.entries(settings).map(([name, value]) => [
    name,
    paths.has(name) ? at(value as string) : value,
  ]);
  return Object.fromEntries(pairs);
}

/** Sockets' and data directories, too, are relative to the file. */
function withPlaces({ server, serve, manage }: PostgresParts, at: (path: string) => string): PostgresParts {
  return {
    server,
    serve: serve && {
      ...serve,
      directory: at(serve.directory),
      ...(serve.roles && {
        roles: serve.roles.map(({ passwordFile, ...role }) => ({
          ...role,
          ...(passwordFile !== undefined && { passwordFile: at(passwordFile) }),
        })),
      }),
      ...(serve.tls && {
        tls: { ...serve.tls, certFile: at(serve.tls.certFile), keyFile: at(serve.tls.keyFile) },
      }),
    },
    manage: manage && {
      ...manage,
      dataDir: at(manage.dataDir),
      binDir: at(manage.binDir),
      ...(manage.configFile && { configFile: at(manage.configFile) }),
      ...(manage.logFile && { logFile: at(manage.logFile) }),
    },
  };
}

function listed(error: unknown): readonly string[] {
  if (error instanceof WalshipError && error.code === 'WALSHIP_ERR_CONFIG') {
    const { problems } = error.details;
    return problems as readonly string[];
  }
  throw error;
}

function configError(file: string, problems: readonly string[]): WalshipError {
  const count = problems.length === 1 ? 'a problem' : `${problems.length} problems`;
  return new WalshipError('WALSHIP_ERR_CONFIG', `${file} has ${count}:\n  ${problems.join('\n  ')}`, {
    details: { file, problems },
  });
}

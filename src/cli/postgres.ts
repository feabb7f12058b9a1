import { type Finding, findings, lookAt, type ServerFacts } from '../databases/postgres/checks.js';
import { PostgresServerControl } from '../databases/postgres/managed.js';
import { type PostgresParts, primaryConninfo, withDefaults } from '../databases/postgres/options.js';
import { formatLsn } from '../engine/lsn.js';
import { openCoordinator } from '../failover/coordinator/settings.js';
import { AdminClient, type Json } from '../node/client.js';
import { type NodeConfig, readNodeConfig } from '../node/config.js';
import type { NodeStatus } from '../node/node.js';
import { exitCode, UsageError } from './exit.js';
import { columns, jsonText, type Paint, paintFor, print } from './terminal.js';

interface Options {
  readonly config: string;
}

const lookTimeoutMs = 5000;

/** `walship postgres init` */
export async function init({ config: file }: Options): Promise<number> {
  const { config, control } = managed(file);
  const paint = paintFor(process.stdout);
  const made = !control.exists;
  if (made) {
    await control.init();
    print(`${control.settings.dataDir}: an empty database cluster, with checksums`);
  }
  const startedHere = !control.isRunning;
  if (startedHere) await control.start();
  try {
    const facts = await lookAt(control.settings.conninfo, lookTimeoutMs);
    const found = check(facts, config);
    print([...serverRows(facts, paint), ...findingLines(found, paint)].join('\n'));
    if (made && config.failover) print(`next: walship node --config ${file}`);
    return codeOf(found);
  } finally {
    if (startedHere) await control.stop('fast');
  }
}

/** `walship postgres clone` */
export async function clone({ config: file, from }: Options & { readonly from?: string }): Promise<number> {
  const { config, control } = managed(file);
  const { dataDir } = control.settings;
  if (control.exists) throw new UsageError(`${dataDir} holds a database: nothing is overwritten`);
  const primary = from ?? (await knownPrimary(config));
  print(`copies from '${primary}' to ${dataDir} …`);
  const began = performance.now();
  await control.clone(primary);
  const seconds = ((performance.now() - began) / 1000).toFixed(1);
  print(`${dataDir}: a standby, after ${seconds} s; its node starts it`);
  return exitCode.ok;
}

async function knownPrimary({ engine, failover }: NodeConfig): Promise<string> {
  if (!failover)
    throw new UsageError('there is no [failover] that would know the primary: give --from CONNINFO');
  const coordinator = await openCoordinator(failover.coordinator, engine.cluster.id);
  try {
    const { members, primary } = await coordinator.read();
    const server = members.find(({ node }) => node === primary?.node)?.database;
    if (server !== undefined) return server;
    throw new UsageError(
      'the coordinator knows no primary with a server yet: start its node, or give --from',
    );
  } finally {
    await coordinator.close();
  }
}

/** `walship postgres status` */
export async function status({ config: file, json }: Options & { readonly json?: boolean }): Promise<number> {
  const config = readNodeConfig(file);
  const { receiver } = withDefaults(partsOf(config, file));
  const [server, node] = await Promise.all([
    receiver && lookAt(receiver.conninfo, lookTimeoutMs).catch((error: Error) => error),
    new AdminClient({ socket: config.adminSocket as string }).status().catch((error: Error) => error),
  ]);
  const facts = server instanceof Error ? undefined : server;
  const found = facts ? check(facts, config) : [];
  const paint = paintFor(process.stdout);
  if (json) {
    const problems = [server, node].filter((each) => each instanceof Error).map(({ message }) => message);
    print(
      jsonText(
        { server: facts, node: node instanceof Error ? undefined : node.postgres, findings: found, problems },
        2,
      ),
    );
  } else {
    const lines = facts ? serverRows(facts, paint) : [];
    if (server instanceof Error)
      lines.push(paint.bad(`PROBLEM  the server does not answer: ${server.message}`));
    if (node instanceof Error) lines.push(paint.warn(`the node does not answer: ${node.message}`));
    else lines.push(...nodeRows(node, paint));
    print([...lines, ...findingLines(found, paint)].join('\n'));
  }
  return server instanceof Error ? exitCode.problems : codeOf(found);
}

function partsOf({ postgres }: NodeConfig, file: string): PostgresParts {
  if (!postgres)
    throw new UsageError(`${file} has no [postgres.server], [postgres.serve] or [postgres.manage]`);
  return postgres;
}

function managed(file: string): { config: NodeConfig; control: PostgresServerControl } {
  const config = readNodeConfig(file);
  const { manage, server } = partsOf(config, file);
  if (!manage || !server) {
    throw new UsageError(
      `${file}: [postgres.manage] with data_dir and bin_dir, and [postgres.server] are needed`,
    );
  }
  // What changes with the role is the node's to set.
  return { config, control: new PostgresServerControl({ ...manage, conninfo: server.conninfo }, {}) };
}

function check(facts: ServerFacts, { postgres = {}, engine }: NodeConfig): Finding[] {
  const { receiver, sender, manage } = withDefaults(postgres);
  return findings(facts, {
    applicationName: receiver?.applicationName ?? 'walship',
    managed: manage !== undefined,
    commitLevel: engine.commitRule?.level ?? 'async',
    ...(sender && { conninfo: primaryConninfo(sender, engine.nodeId) }),
  });
}

function codeOf(found: readonly Finding[]): number {
  return found.some(({ level }) => level === 'error') ? exitCode.problems : exitCode.ok;
}

function findingLines(found: readonly Finding[], paint: Paint): string[] {
  return found.map(({ level, message, remedy }) =>
    level === 'error'
      ? `${paint.bad(`PROBLEM  ${message}`)}; ${remedy}`
      : `${paint.warn(`warning  ${message}`)}; ${remedy}`,
  );
}

function versionText(number: number): string {
  return `${Math.floor(number / 10_000)}.${number % 10_000}`;
}

function serverRows(facts: ServerFacts, paint: Paint): string[] {
  const role = facts.in_recovery
    ? `standby${facts.streams_from ? ` that streams from ${facts.streams_from}` : ' that streams from nobody'}`
    : 'primary';
  const rows = [
    ['server', `PostgreSQL ${versionText(facts.server_version_num)}, ${role}`],
    ['wal', `timeline ${facts.timeline}, ${facts.in_recovery ? 'replayed' : 'written'} up to ${facts.lsn}`],
    ['system', `${facts.system_identifier}, in ${facts.data_directory}`],
  ];
  return columns(rows.map(([name, text]) => [paint.dim(name as string), text as string]));
}

function nodeRows(
  { nodeId, role, epoch, positions, postgres, health }: Json<NodeStatus>,
  paint: Paint,
): string[] {
  const lsn = (text: string) => formatLsn(BigInt(text));
  const rows = [['node', `${nodeId}, ${role} in epoch ${epoch}, has ${lsn(positions.received)}`]];
  const { receiver, sender } = postgres ?? {};
  if (receiver && role === 'primary') {
    const { written, flushed, applied } = receiver;
    rows.push([
      'receives',
      `${receiver.state}; told the server: written ${lsn(written)}, flushed ${lsn(flushed)}, applied ${lsn(applied)}`,
    ]);
  }
  if (sender) {
    rows.push(['serves', `at ${sender.socketPath}${sender.sessions.length === 0 ? ', nobody' : ''}`]);
    for (const each of sender.sessions) {
      rows.push([
        '',
        `${each.applicationName}: ${each.streaming ? `sent ${lsn(each.sent)}` : 'does not stream'}, ` +
          `flushed ${lsn(each.flushed)}, replayed ${lsn(each.applied)}`,
      ]);
    }
  }
  return [
    ...columns(rows.map(([name, text]) => [paint.dim(name as string), text as string])),
    ...health.problems.map((problem) => paint.bad(`PROBLEM  ${problem}`)),
  ];
}

import { readNodeConfig } from '../node/config.js';
import { exampleConfig } from '../node/example.js';
import { exitCode } from './exit.js';
import { paintFor, print } from './terminal.js';

/** `walship config example` */
export async function showExample(): Promise<number> {
  print(exampleConfig.trimEnd());
  return exitCode.ok;
}

/** `walship config check` */
export async function checkConfig(file: string): Promise<number> {
  const { engine, role, upstream, failover, postgres, warnings } = readNodeConfig(file);
  const paint = paintFor(process.stdout);
  for (const warning of warnings ?? []) print(paint.warn(`warning: ${warning}`));
  const coordinator = failover?.coordinator;
  const task = coordinator
    ? `failover by ${coordinator.kind === 'etcd' ? `etcd at ${coordinator.endpoints.join(', ')}` : coordinator.path}`
    : upstream
      ? `${role} of ${upstream.address}`
      : role;
  const database = postgres?.server ? `, the WAL of PostgreSQL at '${postgres.server.conninfo}'` : '';
  print(
    `${file} is right: node ${engine.nodeId} of cluster ${engine.cluster.id}, ${task}${database}, log in ${engine.dir}`,
  );
  return exitCode.ok;
}

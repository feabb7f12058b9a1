import { chownSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { PostgresOptions } from '../../../src/databases/postgres/options.js';
import { openPostgres, type PostgresNode } from '../../../src/databases/postgres/postgres.js';
import type { CommitRule } from '../../../src/index.js';
import { binDirOf, gid, remove, Server, scratch, uid, until } from './support.js';

/** Servers and nodes of one test: a primary server, its node `a`, and what is added. */
export interface Scene {
  readonly dir: string;
  readonly primary: Server;
  /** The primary's node; it serves on port 6000. */
  a: PostgresNode;
  readonly servers: Server[];
  readonly nodes: PostgresNode[];
  /** A node that follows another; it serves on the port 6000 + its number. */
  follow(name: string, upstream: PostgresNode, options?: Partial<PostgresOptions>): Promise<PostgresNode>;
  /** A standby server that follows a node's walsender. */
  standby(name: string, node: string, settings?: Record<string, string>): Promise<Server>;
  folder(name: string): Promise<string>;
}

export function portOf(node: string): number {
  return 6000 + Math.max(0, node.charCodeAt(0) - 'b'.charCodeAt(0));
}

export function nodeOptions(dir: string, nodeId: string): PostgresOptions {
  return {
    dir: join(dir, `log-${nodeId}`),
    nodeId,
    cluster: { id: 'pg', secret: 'a secret of the cluster' },
    listen: '127.0.0.1:0',
    transport: 'tcp',
    log: { zeroFill: false },
    commitRule: { level: 'flushed', any: 1 },
    ...(nodeId !== 'a' && { serve: { directory: dir, port: portOf(nodeId) } }),
  };
}

export async function scene(
  major: number,
  options: { commitRule?: CommitRule; statusMs?: number; timeline?: number } = {},
): Promise<Scene> {
  const bin = binDirOf(major);
  if (!bin) throw new Error(`PostgreSQL ${major} is not on this host`);
  const dir = await scratch();
  const servers: Server[] = [];
  const nodes: PostgresNode[] = [];
  const primary = await Server.create(dir, 'primary', bin);
  servers.push(primary);
  await primary.init({ synchronous_standby_names: 'walship', synchronous_commit: 'local' });
  await primary.start();
  for (let timeline = 1; timeline < (options.timeline ?? 1); timeline++) {
    await primary.stop('fast');
    await primary.follow('', { synchronous_standby_names: 'walship' });
    await primary.start();
    await primary.promote();
    // WAL from here on is of the new timeline alone.
    await primary.sql('select pg_switch_wal()');
    await primary.sql('checkpoint');
  }
  await primary.sql('create table mark (n int)');
  const a = await openPostgres({
    ...nodeOptions(dir, 'a'),
    ...(options.commitRule && { commitRule: options.commitRule }),
    server: { conninfo: primary.conninfo, ...(options.statusMs && { statusMs: options.statusMs }) },
  });
  nodes.push(a);
  return {
    dir,
    primary,
    a,
    servers,
    nodes,
    async follow(name, upstream, extra = {}) {
      const node = await openPostgres({
        ...nodeOptions(dir, name),
        ...extra,
        upstream: { address: `127.0.0.1:${upstream.engine.listenPort}` },
      });
      nodes.push(node);
      return node;
    },
    async standby(name, node, settings = {}) {
      const server = await Server.create(dir, name, bin);
      servers.push(server);
      // For when it is promoted. To set it only then would be too late: a reload takes effect when it does.
      const synchronous = { synchronous_standby_names: 'walship', ...settings };
      await server.cloneFrom(primary, `host=${dir} port=${portOf(node)} user=postgres`, synchronous);
      await server.start();
      return server;
    },
    async folder(name) {
      const made = join(dir, name);
      await mkdir(made);
      chownSync(made, uid, gid);
      return made;
    },
  };
}

/** Until then a node refuses the clients of its walsender. */
export async function hasWal(node: PostgresNode): Promise<void> {
  await until('the node has WAL', () => node.status().postgres.sender?.systemId !== undefined);
}

export async function cleanUp(scene: Scene | undefined): Promise<void> {
  if (!scene) return;
  for (const server of [...scene.servers].reverse()) await server.stop().catch(() => {});
  for (const node of [...scene.nodes].reverse()) await node.close().catch(() => {});
  await remove(scene.dir);
}

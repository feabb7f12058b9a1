import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Server } from '../../test/databases/postgres/support.js';
import { Etcd } from '../../test/lib/etcd.js';
import { assertBuilt } from '../../test/lib/process.js';
import { serverScratch } from '../lib/server.js';
import { freePort } from '../lib/tools.js';
import { type DatabaseCluster, DatabaseHost, following, primaryOf } from './hosts.js';

const program = fileURLToPath(new URL('../../test/databases/postgres/host.mjs', import.meta.url));
const patienceMs = 60_000;

/** walship's nodes with all its defaults: a commit waits for the disk of one of two standbys. */
export async function walshipCluster(bin: string, parent: string | undefined): Promise<DatabaseCluster> {
  assertBuilt();
  const dir = await serverScratch(parent);
  const etcd = await Etcd.start();
  const hosts: DatabaseHost[] = [];
  const servers: Server[] = [];
  for (const [index, name] of ['a', 'b', 'c'].entries()) {
    const server = await Server.create(dir, name, bin);
    servers.push(server);
    const options = {
      dir: join(dir, `log-${name}`),
      nodeId: name,
      cluster: { id: 'bench', secret: 'a-secret-of-no-consequence' },
      listen: `127.0.0.1:${await freePort('127.0.0.1')}`,
      transport: 'tcp',
      commitRule: { level: 'flushed', any: 1 },
      server: { conninfo: server.conninfo },
      serve: { directory: dir, port: 6000 + index },
      manage: { dataDir: server.data, binDir: bin, logFile: join(server.dir, 'log') },
      failover: {
        listen: `127.0.0.1:${await freePort('127.0.0.1')}`,
        coordinator: { kind: 'etcd', endpoints: etcd.endpoints },
        bootstrap: index === 0,
      },
    };
    const command = { program: process.execPath, args: [program, JSON.stringify(options)] };
    hosts.push(new DatabaseHost(name, server.data, server.conninfo, command));
  }
  const [first, ...others] = servers as [Server, ...Server[]];
  const ready = () => following(hosts, patienceMs);
  return {
    dir,
    etcd,
    hosts,
    conninfo: `host=${servers.map((server) => server.dir).join(',')} user=postgres`,
    async start() {
      await first.init({ synchronous_commit: 'on', wal_log_hints: 'on' });
      hosts[0]?.start();
      await primaryOf(hosts, patienceMs);
      for (const [index, server] of others.entries()) {
        // Where it follows is walship's to set.
        await server.cloneFrom(first, 'host=/nowhere');
        hosts[index + 1]?.start();
      }
      await ready();
    },
    ready,
  };
}

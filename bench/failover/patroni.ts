import { existsSync } from 'node:fs';
import { chown, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gid, uid, until } from '../../test/databases/postgres/support.js';
import { Etcd } from '../../test/lib/etcd.js';
import { serverScratch } from '../lib/server.js';
import { freePort } from '../lib/tools.js';
import { type DatabaseCluster, DatabaseHost, following, primaryOf } from './hosts.js';

/** In seconds; as Patroni's settings are called. */
export interface PatroniTimes {
  readonly ttl: number;
  readonly loop_wait: number;
  readonly retry_timeout: number;
}

/** What Patroni does if nothing is set, and the smallest values that it takes. */
export const patroniTimes: Readonly<Record<'defaults' | 'fastest', PatroniTimes>> = {
  defaults: { ttl: 30, loop_wait: 10, retry_timeout: 10 },
  fastest: { ttl: 20, loop_wait: 1, retry_timeout: 3 },
};

const program = '/usr/bin/patroni';
const patienceMs = 180_000;

/** Patroni's three nodes, as its users have them: a commit waits for the disk of the one synchronous standby. */
export async function patroniCluster(
  bin: string,
  parent: string | undefined,
  times: PatroniTimes,
): Promise<DatabaseCluster> {
  if (!existsSync(program)) {
    throw new Error(
      `${program} is not there: apt-get install patroni python3-etcd etcd-server (without starting their services)`,
    );
  }
  const dir = await serverScratch(parent);
  const etcd = await Etcd.start();
  const hosts: DatabaseHost[] = [];
  const rest: string[] = [];
  const ports: number[] = [];
  for (const name of ['a', 'b', 'c']) {
    const folder = join(dir, name);
    await mkdir(folder);
    await chown(folder, uid, gid);
    const [api, port] = [await freePort('127.0.0.1'), await freePort('127.0.0.1')];
    rest.push(`http://127.0.0.1:${api}`);
    ports.push(port);
    const file = join(folder, 'patroni.yml');
    // YAML takes JSON.
    await writeFile(file, JSON.stringify(configuration({ name, folder, bin, api, port, times, etcd })));
    const environment = { ...process.env, LC_ALL: 'C', PATH: '/usr/sbin:/usr/bin:/sbin:/bin' };
    const command = { program, args: [file], options: { uid, gid, cwd: '/', env: environment } };
    const conninfo = `host=${folder} port=${port} user=postgres`;
    hosts.push(new DatabaseHost(name, join(folder, 'data'), conninfo, command));
  }
  const ready = async () => {
    await following(hosts, patienceMs);
    await until('there is a synchronous standby', () => hasSynchronousStandby(rest), patienceMs);
  };
  return {
    dir,
    etcd,
    hosts,
    conninfo: `host=${hosts.map(({ name }) => join(dir, name)).join(',')} port=${ports.join(',')} user=postgres`,
    async start() {
      for (const host of hosts) {
        host.start();
        // The first one to come makes the cluster, the others are copies.
        await primaryOf(hosts, patienceMs);
      }
      await ready();
    },
    ready,
  };
}

interface Member {
  readonly name: string;
  readonly folder: string;
  readonly bin: string;
  readonly api: number;
  readonly port: number;
  readonly times: PatroniTimes;
  readonly etcd: Etcd;
}

function configuration({ name, folder, bin, api, port, times, etcd }: Member): object {
  const address = `127.0.0.1:${api}`;
  const superuser = { username: 'postgres' };
  return {
    scope: 'bench',
    name,
    restapi: { listen: address, connect_address: address },
    etcd3: { hosts: etcd.endpoints.map((each) => new URL(each).host) },
    bootstrap: {
      dcs: {
        ...times,
        synchronous_mode: true,
        postgresql: { use_pg_rewind: true, parameters: { synchronous_commit: 'on' } },
      },
      initdb: [{ username: 'postgres' }, { auth: 'trust' }, { encoding: 'UTF8' }, 'data-checksums'],
      pg_hba: [
        'local all all trust',
        'local replication all trust',
        'host all all 127.0.0.1/32 trust',
        'host replication all 127.0.0.1/32 trust',
      ],
    },
    postgresql: {
      listen: `127.0.0.1:${port}`,
      connect_address: `127.0.0.1:${port}`,
      data_dir: join(folder, 'data'),
      bin_dir: bin,
      pgpass: join(folder, 'pgpass'),
      authentication: { superuser, replication: superuser, rewind: superuser },
      // The servers of walship have the same.
      parameters: {
        unix_socket_directories: folder,
        shared_buffers: '32MB',
        checkpoint_timeout: '30min',
        dynamic_shared_memory_type: 'mmap',
      },
    },
  };
}

/** As whichever host answers says. */
async function hasSynchronousStandby(apis: readonly string[]): Promise<boolean> {
  for (const api of apis) {
    try {
      const answer = await fetch(`${api}/cluster`, { signal: AbortSignal.timeout(2000) });
      const { members } = (await answer.json()) as { members: { role: string; state: string }[] };
      return members.some(({ role, state }) => role === 'sync_standby' && state === 'running');
    } catch {
      // Another one may.
    }
  }
  return false;
}

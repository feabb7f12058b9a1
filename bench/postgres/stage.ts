// The primary server, and which of the ways takes its WAL to where commits wait for it.
import { appendFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { remove, Server, until } from '../../test/databases/postgres/support.js';
import type { BenchOptions } from '../lib/bench.js';
import { type Host, hosts, inLab } from '../lib/hosts.js';
import { killServer, serverScratch } from '../lib/server.js';
import { Chain, Nodes, OwnStandby, ReceiveWal, type Shipping, type Way } from './ways.js';

export interface Ways {
  /** PostgreSQL's own streaming into a standby server, beside walship over one hop and over two into another one. */
  readonly own: Way;
  readonly walship: Way;
  readonly cascade: Way;
  /** The same for those whose commits wait for memory: `synchronous_commit = remote_write`. */
  readonly walshipReceived: Way;
  readonly cascadeReceived: Way;
  /** Into a log alone. */
  readonly receiveWal: Shipping;
  readonly arena: Shipping;
}

export class Stage {
  readonly dir: string;
  readonly primary: Server;
  readonly ways: Ways;
  readonly #nodes: Nodes;
  #way: Way | undefined;

  private constructor(dir: string, primary: Server, ways: Ways, nodes: Nodes) {
    this.dir = dir;
    this.primary = primary;
    this.ways = ways;
    this.#nodes = nodes;
  }

  static async with(
    bin: string,
    options: BenchOptions,
    body: (stage: Stage) => Promise<void>,
  ): Promise<void> {
    const dir = await serverScratch(options.dir);
    const primary = await Server.create(dir, 'primary', bin);
    const standbys = {
      own: await Server.create(dir, 'own', bin),
      walship: await Server.create(dir, 'walship', bin),
    };
    const nodes = new Nodes(dir, options.transport, primary);
    // As from another host; walship's first node is on the server's own, and uses its socket.
    const address = remoteAddress();
    const remote = `host=${address} user=postgres`;
    const receiveWal = new ReceiveWal(dir, primary, remote);
    const servers = [standbys.own, standbys.walship, primary];
    // Whoever ends the bench leaves nothing behind.
    const end = () => {
      for (const { data } of servers) killServer(data);
      rmSync(dir, { recursive: true, force: true });
    };
    process.once('exit', end);
    try {
      await primary.init({
        listen_addresses: address,
        shared_buffers: '128MB',
        synchronous_commit: 'local',
        min_wal_size: inLab ? '80MB' : '2GB',
        max_wal_size: inLab ? '256MB' : '4GB',
      });
      appendFileSync(join(primary.data, 'pg_hba.conf'), 'host all,replication all samehost trust\n');
      await primary.start();
      await primary.pgbench(['-i', '-s', options.quick || inLab ? '1' : '10', '-q']);
      await primary.sql("select pg_create_physical_replication_slot('own', true)");
      const ways: Ways = {
        own: new OwnStandby(standbys.own),
        walship: new Chain(nodes, ['a', 'b'], standbys.walship),
        cascade: new Chain(nodes, ['a', 'b', 'c'], standbys.walship),
        walshipReceived: new Chain(nodes, ['a', 'b'], standbys.walship, 'received'),
        cascadeReceived: new Chain(nodes, ['a', 'b', 'c'], standbys.walship, 'received'),
        receiveWal,
        arena: new Chain(nodes, ['a', 'b']),
      };
      const stage = new Stage(dir, primary, ways, nodes);
      const local = { listen_addresses: '' };
      const ownConninfo = `${remote} application_name=own`;
      await standbys.own.cloneFrom(primary, ownConninfo, { ...local, primary_slot_name: 'own' });
      await ways.arena.on();
      await standbys.walship.cloneFrom(primary, nodes.conninfo, local);
      await ways.arena.off();
      await body(stage);
    } finally {
      await receiveWal.off().catch((error) => console.error(error.message));
      for (const server of servers) await server.stop().catch(() => {});
      await nodes.end();
      await remove(dir);
      process.off('exit', end);
    }
  }

  /** Returns when all that the primary has ever written is there. */
  async use(way: Way): Promise<void> {
    if (this.#way === way) return;
    await this.#nameStandby('');
    const before = this.#way;
    this.#way = undefined;
    await before?.off();
    await way.on();
    await this.#nameStandby(way.name);
    const text = `set synchronous_commit = ${way.reaches}; select pg_logical_emit_message(true, 'bench', 'caught up')`;
    await this.primary.sql(text, 120_000);
    this.#way = way;
  }

  /** From here on only what ships into a log is used: nobody keeps WAL for the others. */
  async endStandbys(): Promise<void> {
    await this.use(this.ways.arena);
    await this.#nodes.forget('b', 'c');
    await this.primary.sql("select pg_drop_replication_slot('own')");
  }

  /** The primary's own process that sends to the way that is in use. */
  async walsender(): Promise<number> {
    const name = (this.#way as Way).name;
    return await until('the walsender', async () => {
      const text = `select pid from pg_stat_replication where application_name = '${name}' and state = 'streaming'`;
      return Number(await this.primary.sql(text)) || undefined;
    });
  }

  async #nameStandby(name: string): Promise<void> {
    await this.primary.sql(`alter system set synchronous_standby_names = '${name}'`);
    await this.primary.reload();
  }
}

/** Where the primary listens: in the lab its host's address, else one of the loopback's that nobody else uses. */
function remoteAddress(): string {
  const [{ address }] = hosts(1) as [Host];
  return inLab ? address : `127.77.${(process.pid >> 8) & 0xff}.${process.pid & 0xff || 1}`;
}

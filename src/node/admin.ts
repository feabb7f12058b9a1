import { chmodSync, unlinkSync } from 'node:fs';
import { connect } from 'node:net';
import { z } from 'zod';
import { scrubSchema } from '../consistency/scrubber.js';
import { WalshipError } from '../engine/errors.js';
import { optionsSchema } from '../engine/options.js';
import type { ClusterEndpoints } from '../failover/endpoints.js';
import { adminError, checked, JsonServer, type Routes } from '../failover/http.js';
import type { Node } from './node.js';
import { settingsSchema } from './settings.js';

export interface AdminSettings {
  /** Path of the unix socket. */
  readonly socket: string;
  /** `host:port` */
  readonly listen?: string | undefined;
}

/** Of the unix socket: however many ask on the port, the node's own user is answered. */
const connectionsMax = 64;

/** In one answer; whoever asks goes on behind the last one. */
const journalEntriesMax = 1000;
const afterQuery = z
  .string()
  .regex(/^[0-9]{1,20}$/, 'must be a number')
  .transform(BigInt);
const promoteBody = z.strictObject({
  epoch: z
    .string()
    .regex(/^[0-9]{1,19}$/, 'must be a number')
    .optional(),
});
const verifyBody = z.strictObject({
  repair: z.boolean(),
  bytesPerSecond: scrubSchema.shape.bytesPerSecond.unwrap(),
});
const railsBody = z.strictObject({
  pin: optionsSchema.shape.rails.unwrap().shape.pin,
  exclude: optionsSchema.shape.rails.unwrap().shape.exclude,
  auto: z.boolean().optional(),
});
const followBody = z.strictObject({
  ...settingsSchema.shape.upstream.unwrap().shape,
  address: optionsSchema.shape.listen.unwrap().nullable(),
});

/**
 * A node's administration interface: `GET /journal?after=clock`, `GET /rails`, `POST /rails/choose` `{ pin?, exclude?, auto? }`,
 * `GET /scrub`, `POST /verify` `{ repair, bytesPerSecond }`, `POST /promote` `{ epoch? }`, `POST /follow` `{ address, node?, source? }`, and what
 * {@link ClusterEndpoints} has, on a unix socket and, if wanted, on a port.
 */
export class AdminServer {
  readonly #servers: JsonServer[] = [];
  readonly #addresses: string[] = [];
  #listen: string | undefined;

  /** @throws {WalshipError} `WALSHIP_ERR_ADMIN` */
  static async open(node: Node, endpoints: ClusterEndpoints, settings: AdminSettings): Promise<AdminServer> {
    const admin = new AdminServer();
    const routes = { ...endpoints.routes, ...routesOf(node) };
    try {
      await admin.#openSocket(settings.socket, routes);
      if (settings.listen !== undefined) await admin.#openPort(settings.listen, routes, endpoints);
    } catch (error) {
      await admin.close();
      throw error;
    }
    return admin;
  }

  /** The path of the socket, and the URL of the port if there is one. */
  get addresses(): readonly string[] {
    return this.#addresses;
  }

  /** `host:port` with the port in use. */
  get listen(): string | undefined {
    return this.#listen;
  }

  async close(): Promise<void> {
    await Promise.all(this.#servers.splice(0).map((server) => server.close()));
  }

  async #openSocket(path: string, routes: Routes): Promise<void> {
    if (await answers(path)) {
      throw new WalshipError(
        'WALSHIP_ERR_ADMIN',
        `another process answers at ${path}; set another admin_socket`,
      );
    }
    // Left over from a process that was killed.
    try {
      unlinkSync(path);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw adminError(path, error);
    }
    const server = new JsonServer(routes, connectionsMax);
    await server.listen({ path });
    this.#servers.push(server);
    chmodSync(path, 0o600);
    this.#addresses.push(path);
  }

  async #openPort(address: string, routes: Routes, endpoints: ClusterEndpoints): Promise<void> {
    const server = new JsonServer(routes, endpoints.connectionsMax);
    this.#listen = await server.listen({ address });
    this.#servers.push(server);
    this.#addresses.push(`http://${this.#listen}`);
  }
}

function routesOf(node: Node): Routes {
  return {
    '/status': { method: 'GET', run: async () => ({ status: 200, body: node.status() }) },
    '/journal': {
      method: 'GET',
      run: async (query) => {
        const after = checked(afterQuery, query.get('after') ?? '0');
        return { status: 200, body: node.journal({ after, max: journalEntriesMax }) };
      },
    },
    '/rails': { method: 'GET', run: async () => ({ status: 200, body: node.rails() }) },
    '/rails/choose': {
      method: 'POST',
      run: async (_, body) => {
        const { auto, ...choice } = checked(railsBody, body);
        await node.chooseRails(auto ? 'auto' : choice);
        return { status: 200, body: node.rails() };
      },
    },
    '/scrub': { method: 'GET', run: async () => ({ status: 200, body: node.status().scrub }) },
    '/verify': {
      method: 'POST',
      run: async (_, body) => ({ status: 200, body: { number: node.verify(checked(verifyBody, body)) } }),
    },
    '/promote': {
      method: 'POST',
      run: async (_, body) => {
        const { epoch } = checked(promoteBody, body);
        const reached = await node.promote(epoch === undefined ? undefined : BigInt(epoch));
        return { status: 200, body: { role: 'primary', epoch: reached, note: node.roleAtRestart() } };
      },
    },
    '/follow': {
      method: 'POST',
      run: async (_, body) => {
        const { address, node: name, source } = checked(followBody, body);
        const upstream =
          address === null ? undefined : { address, ...(name && { node: name }), ...(source && { source }) };
        await node.follow(upstream);
        return { status: 200, body: { role: 'standby', upstream: address, note: node.roleAtRestart() } };
      },
    },
  };
}

/** Whether somebody accepts connections on a unix socket. */
function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ path });
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}

import { chmodSync, unlinkSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import { z } from 'zod';
import { WalshipError } from '../engine/errors.js';
import { optionsSchema, parseAddress } from '../engine/options.js';
import type { Node } from './node.js';
import { settingsSchema } from './settings.js';

export interface AdminSettings {
  /** Path of the unix socket. */
  readonly socket: string;
  /** `host:port` */
  readonly listen?: string | undefined;
}

const bodyBytesMax = 64 * 1024;
const connectionsMax = 64;
const requestMsMax = 10_000;

const promoteBody = z.strictObject({
  epoch: z
    .string()
    .regex(/^[0-9]{1,19}$/, 'must be a number')
    .optional(),
});
const followBody = z.strictObject({
  ...settingsSchema.shape.upstream.unwrap().shape,
  address: optionsSchema.shape.listen.unwrap().nullable(),
});

/** A refusal with the HTTP status it is answered with. */
class Refusal extends Error {
  readonly status: number;
  readonly code: string;

  constructor(status: number, code: string, message: string) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/**
 * A node's administration interface, HTTP with JSON: `GET /status`, `GET /health` (200 or 503), `POST /promote`
 * `{ epoch? }`, `POST /follow` `{ address, node?, source? }`. Whatever changes something is taken from the unix socket,
 * which belongs to the user of the process, and from this host only.
 */
export class AdminServer {
  readonly #node: Node;
  readonly #servers: Server[] = [];
  readonly #addresses: string[] = [];
  #listen: string | undefined;

  /** @throws {WalshipError} `WALSHIP_ERR_ADMIN` */
  static async open(node: Node, settings: AdminSettings): Promise<AdminServer> {
    const admin = new AdminServer(node);
    try {
      await admin.#openSocket(settings.socket);
      if (settings.listen !== undefined) await admin.#openPort(settings.listen);
    } catch (error) {
      await admin.close();
      throw error;
    }
    return admin;
  }

  private constructor(node: Node) {
    this.#node = node;
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
    const closed = this.#servers.splice(0).map(
      (server) =>
        new Promise<void>((resolve) => {
          server.close(() => resolve());
          server.closeAllConnections();
        }),
    );
    await Promise.all(closed);
  }

  async #openSocket(path: string): Promise<void> {
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
    await this.#open({ path }, path);
    chmodSync(path, 0o600);
    this.#addresses.push(path);
  }

  async #openPort(text: string): Promise<void> {
    const { host, port } = parseAddress(text);
    const server = await this.#open({ port, ...(host !== '' && { host }) }, text);
    const address = server.address() as AddressInfo;
    this.#listen = `${address.family === 'IPv6' ? `[${address.address}]` : address.address}:${address.port}`;
    this.#addresses.push(`http://${this.#listen}`);
  }

  async #open(on: { path: string } | { host?: string; port: number }, name: string): Promise<Server> {
    const server = createServer((request, response) => void this.#answer(request, response));
    server.maxConnections = connectionsMax;
    server.requestTimeout = requestMsMax;
    server.headersTimeout = requestMsMax;
    await new Promise<void>((resolve, reject) => {
      server.once('error', (error) => reject(adminError(name, error)));
      server.listen(on, resolve);
    });
    this.#servers.push(server);
    return server;
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    try {
      const { status, body } = await this.#handle(request);
      send(response, status, body);
    } catch (error) {
      if (error instanceof Refusal)
        send(response, error.status, { code: error.code, message: error.message });
      // The engine refuses what the node's state does not allow.
      else if (error instanceof WalshipError)
        send(response, 409, { code: error.code, message: error.message });
      else send(response, 500, { code: 'WALSHIP_ERR_INTERNAL', message: String(error) });
    }
  }

  async #handle(request: IncomingMessage): Promise<{ status: number; body: unknown }> {
    const path = (request.url ?? '').replace(/\?.*$/, '');
    const route = routes[path];
    if (!route) {
      throw new Refusal(
        404,
        'WALSHIP_ERR_ARGUMENT',
        `there is no ${path} here, only ${Object.keys(routes).join(', ')}`,
      );
    }
    const method = request.method === 'HEAD' ? 'GET' : request.method;
    if (method !== route.method) {
      throw new Refusal(405, 'WALSHIP_ERR_ARGUMENT', `${path} takes ${route.method}, not ${request.method}`);
    }
    if (method === 'GET') return route.run(this.#node, undefined);
    if (!isLocal(request)) {
      throw new Refusal(
        403,
        'WALSHIP_ERR_FORBIDDEN',
        `${path} is taken from the unix socket and from this host only`,
      );
    }
    // A page in a browser on this host cannot send this type to another origin unasked.
    if (!/^application\/json\b/.test(request.headers['content-type'] ?? '')) {
      throw new Refusal(415, 'WALSHIP_ERR_ARGUMENT', `${path} takes content-type: application/json`);
    }
    return route.run(this.#node, await bodyOf(request));
  }
}

interface Route {
  readonly method: 'GET' | 'POST';
  run(node: Node, body: unknown): Promise<{ status: number; body: unknown }>;
}

const routes: Record<string, Route> = {
  '/status': { method: 'GET', run: async (node) => ({ status: 200, body: node.status() }) },
  '/health': {
    method: 'GET',
    run: async (node) => {
      const health = node.health();
      return { status: health.ok ? 200 : 503, body: health };
    },
  },
  '/promote': {
    method: 'POST',
    run: async (node, body) => {
      const { epoch } = checked(promoteBody, body);
      const reached = await node.promote(epoch === undefined ? undefined : BigInt(epoch));
      return { status: 200, body: { role: 'primary', epoch: reached, note: node.roleAtRestart() } };
    },
  },
  '/follow': {
    method: 'POST',
    run: async (node, body) => {
      const { address, node: name, source } = checked(followBody, body);
      const upstream =
        address === null ? undefined : { address, ...(name && { node: name }), ...(source && { source }) };
      await node.follow(upstream);
      return { status: 200, body: { role: 'standby', upstream: address, note: node.roleAtRestart() } };
    },
  },
};

function checked<T>(schema: z.ZodType<T>, body: unknown): T {
  const parsed = schema.safeParse(body);
  if (parsed.success) return parsed.data;
  const problems = parsed.error.issues.map(
    (issue) => `${issue.path.join('.') || 'the body'}: ${issue.message}`,
  );
  throw new Refusal(400, 'WALSHIP_ERR_ARGUMENT', problems.join('; '));
}

async function bodyOf(request: IncomingMessage): Promise<unknown> {
  const parts: Buffer[] = [];
  let bytes = 0;
  for await (const part of request as AsyncIterable<Buffer>) {
    bytes += part.length;
    if (bytes > bodyBytesMax)
      throw new Refusal(413, 'WALSHIP_ERR_ARGUMENT', `the body has over ${bodyBytesMax} bytes`);
    parts.push(part);
  }
  const text = Buffer.concat(parts).toString();
  if (text.trim() === '') return {};
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Refusal(400, 'WALSHIP_ERR_ARGUMENT', `the body is not JSON: ${(error as Error).message}`);
  }
}

function send(response: ServerResponse, status: number, body: unknown): void {
  const text = JSON.stringify(body, (_, value) => (typeof value === 'bigint' ? String(value) : value));
  response.writeHead(status, { 'content-type': 'application/json', 'cache-control': 'no-store' });
  response.end(`${text}\n`);
}

/** Over the unix socket there is no remote address. */
function isLocal(request: IncomingMessage): boolean {
  const from = request.socket.remoteAddress;
  return from === undefined || from === '::1' || /^(::ffff:)?127\./.test(from);
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

function adminError(where: string, error: unknown): WalshipError {
  const why = (error as Error).message;
  return new WalshipError(
    'WALSHIP_ERR_ADMIN',
    `the administration interface cannot listen on ${where}: ${why}`,
    {
      cause: error,
    },
  );
}

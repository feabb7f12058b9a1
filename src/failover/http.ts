import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { z } from 'zod';
import { WalshipError } from '../engine/errors.js';
import { parseAddress } from '../engine/options.js';

const bodyBytesMax = 64 * 1024;
const requestMsMax = 10_000;

/** A refusal with the HTTP status it is answered with. */
export class Refusal extends Error {
  readonly status: number;
  readonly code: string;

  constructor(status: number, code: string, message: string) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export interface Answer {
  readonly status: number;
  /** Text is JSON already. */
  readonly body: unknown;
}

export interface Route {
  /** A GET is answered to HEAD and OPTIONS, too, without a body. */
  readonly method: 'GET' | 'POST';
  /**
   * @param body of a POST, as JSON
   * @param gone aborts when nobody waits for the answer any more
   */
  run(query: URLSearchParams, body: unknown, gone: AbortSignal): Promise<Answer>;
}

export type Routes = Readonly<Record<string, Route>>;

/**
 * HTTP with JSON. Whatever changes something (POST) is taken from a unix socket, which belongs to the user of the process,
 * and from this host only.
 */
export class JsonServer {
  readonly #server: Server;
  readonly #routes: Routes;

  /** @param connectionsMax more are closed at once */
  constructor(routes: Routes, connectionsMax: number) {
    this.#routes = routes;
    this.#server = createServer((request, response) => void this.#answer(request, response));
    this.#server.maxConnections = connectionsMax;
    this.#server.requestTimeout = requestMsMax;
    this.#server.headersTimeout = requestMsMax;
  }

  /**
   * Listens on a unix socket, or on `host:port`.
   *
   * @returns the path, or `host:port` with the port in use
   * @throws {WalshipError} `WALSHIP_ERR_ADMIN`
   */
  async listen(on: { readonly path: string } | { readonly address: string }): Promise<string> {
    const name = 'path' in on ? on.path : on.address;
    const { host, port } = 'path' in on ? { host: '', port: 0 } : parseAddress(on.address);
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', (error) => reject(adminError(name, error)));
      this.#server.listen('path' in on ? on : { port, ...(host !== '' && { host }) }, resolve);
    });
    if ('path' in on) return on.path;
    const address = this.#server.address() as AddressInfo;
    return `${address.family === 'IPv6' ? `[${address.address}]` : address.address}:${address.port}`;
  }

  async close(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#server.close(() => resolve());
      this.#server.closeAllConnections();
    });
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const gone = new AbortController();
    response.once('close', () => gone.abort());
    try {
      const { status, body } = await this.#handle(request, gone.signal);
      send(request, response, status, body);
    } catch (error) {
      if (error instanceof Refusal)
        send(request, response, error.status, { code: error.code, message: error.message });
      // The node refuses what its state does not allow.
      else if (error instanceof WalshipError)
        send(request, response, 409, { code: error.code, message: error.message });
      else send(request, response, 500, { code: 'WALSHIP_ERR_INTERNAL', message: String(error) });
    }
  }

  async #handle(request: IncomingMessage, gone: AbortSignal): Promise<Answer> {
    const [path = '', query] = (request.url ?? '').split('?', 2);
    const route = Object.hasOwn(this.#routes, path) ? this.#routes[path] : undefined;
    if (!route) {
      throw new Refusal(
        404,
        'WALSHIP_ERR_ARGUMENT',
        `there is no ${path} here, only ${Object.keys(this.#routes).join(', ')}`,
      );
    }
    const reads = ['GET', 'HEAD', 'OPTIONS'].includes(request.method ?? '');
    if (reads ? route.method !== 'GET' : route.method !== request.method) {
      throw new Refusal(405, 'WALSHIP_ERR_ARGUMENT', `${path} takes ${route.method}, not ${request.method}`);
    }
    const parameters = new URLSearchParams(query);
    if (reads) return route.run(parameters, undefined, gone);
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
    return route.run(parameters, await bodyOf(request), gone);
  }
}

/** @throws {Refusal} 400, with everything that is wrong */
export function checked<T>(schema: z.ZodType<T>, body: unknown): T {
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

function send(request: IncomingMessage, response: ServerResponse, status: number, body: unknown): void {
  const text = typeof body === 'string' ? body : JSON.stringify(body, (_, value) => plain(value));
  response.writeHead(status, { 'content-type': 'application/json', 'cache-control': 'no-store' });
  response.end(request.method === 'OPTIONS' ? undefined : `${text}\n`);
}

/** What JSON has no form for: bigints are decimal text. */
function plain(value: unknown): unknown {
  if (value instanceof Error) return { ...value, message: value.message };
  return typeof value === 'bigint' ? String(value) : value;
}

/** Over the unix socket there is no remote address. */
function isLocal(request: IncomingMessage): boolean {
  const from = request.socket.remoteAddress;
  return from === undefined || from === '::1' || /^(::ffff:)?127\./.test(from);
}

export function adminError(where: string, error: unknown): WalshipError {
  const why = (error as Error).message;
  return new WalshipError(
    'WALSHIP_ERR_ADMIN',
    `the administration interface cannot listen on ${where}: ${why}`,
    {
      cause: error,
    },
  );
}

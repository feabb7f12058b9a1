import { request } from 'node:http';
import { WalshipError } from '../engine/errors.js';
import { parseAddress } from '../engine/options.js';
import type { NodeHealth, NodeStatus } from './node.js';

/** Where a node's administration interface is: a unix socket, or a host and port. */
export type AdminAddress = { readonly socket: string } | { readonly host: string; readonly port: number };

/** What came over JSON: every LSN and epoch is decimal text. */
export type Json<T> = T extends bigint
  ? string
  : T extends readonly (infer Item)[]
    ? readonly Json<Item>[]
    : T extends object
      ? { readonly [Key in keyof T]: Json<T[Key]> }
      : T;

/** The outcome of a change of role. */
export interface RoleChange {
  readonly role: 'primary' | 'standby';
  readonly epoch?: string;
  /** What has to be done for it to outlast a restart. */
  readonly note?: string;
}

/**
 * `http://host:port`, `host:port`, `unix:/path` or `/path`.
 *
 * @throws {WalshipError} `WALSHIP_ERR_ADDRESS`
 */
export function parseAdminAddress(text: string): AdminAddress {
  const path = /^(?:unix:(?:\/\/)?)?(\/.*)$/.exec(text)?.[1];
  if (path !== undefined) return { socket: path };
  const address = /^(?:http:\/\/)?([^/]*)\/?$/.exec(text)?.[1];
  if (address === undefined) {
    throw new WalshipError(
      'WALSHIP_ERR_ADDRESS',
      `'${text}' is no address; write http://host:port or unix:/path`,
    );
  }
  const { host, port } = parseAddress(address);
  return { host: host || '127.0.0.1', port };
}

/** Talks to the administration interface of a running node. */
export class AdminClient {
  readonly address: AdminAddress;
  readonly #timeoutMs: number;

  constructor(address: AdminAddress, timeoutMs = 5000) {
    this.address = address;
    this.#timeoutMs = timeoutMs;
  }

  get name(): string {
    return 'socket' in this.address
      ? this.address.socket
      : `http://${this.address.host}:${this.address.port}`;
  }

  /** @throws {WalshipError} `WALSHIP_ERR_UNREACHABLE` */
  status(): Promise<Json<NodeStatus>> {
    return this.#send('GET', '/status');
  }

  /** @throws {WalshipError} `WALSHIP_ERR_UNREACHABLE` */
  health(): Promise<NodeHealth> {
    return this.#send('GET', '/health');
  }

  /** @throws {WalshipError} `WALSHIP_ERR_UNREACHABLE`, or the node's own error. */
  promote(epoch?: bigint): Promise<RoleChange> {
    return this.#send('POST', '/promote', { epoch: epoch?.toString() });
  }

  /** `address` null: a standby on its own. @throws {WalshipError} `WALSHIP_ERR_UNREACHABLE`, or the node's own error. */
  follow(upstream: { address: string | null; node?: string | undefined }): Promise<RoleChange> {
    return this.#send('POST', '/follow', upstream);
  }

  #send<T>(method: string, path: string, body?: unknown): Promise<T> {
    const { address } = this;
    const where =
      'socket' in address
        ? { socketPath: address.socket }
        : { host: address.host.replace(/^\[|\]$/g, ''), port: address.port };
    return new Promise((resolve, reject) => {
      const headers = { 'content-type': 'application/json' };
      const asked = request({ ...where, method, path, headers, timeout: this.#timeoutMs }, (response) => {
        const parts: Buffer[] = [];
        response.on('data', (part: Buffer) => parts.push(part));
        response.on('error', (error) => reject(this.#unreachable(error)));
        response.on('end', () => {
          try {
            const answer = JSON.parse(Buffer.concat(parts).toString());
            const status = response.statusCode ?? 0;
            if (status === 200 || (status === 503 && path === '/health')) resolve(answer);
            else
              reject(
                new WalshipError(
                  answer.code ?? 'WALSHIP_ERR_UNREACHABLE',
                  answer.message ?? `HTTP ${status}`,
                ),
              );
          } catch {
            reject(
              new WalshipError('WALSHIP_ERR_UNREACHABLE', `what answers at ${this.name} is no walship node`),
            );
          }
        });
      });
      asked.on('timeout', () => asked.destroy(new Error(`no answer within ${this.#timeoutMs} ms`)));
      asked.on('error', (error) => reject(this.#unreachable(error)));
      asked.end(body === undefined ? undefined : JSON.stringify(body));
    });
  }

  #unreachable(error: NodeJS.ErrnoException): WalshipError {
    return new WalshipError('WALSHIP_ERR_UNREACHABLE', `no node answers at ${this.name}: ${reason(error)}`, {
      cause: error,
    });
  }
}

function reason(error: NodeJS.ErrnoException): string {
  switch (error.code) {
    case 'ENOENT':
      return 'there is no such socket; start the node with `walship node`';
    case 'ECONNREFUSED':
      return 'nobody listens there; start the node with `walship node`';
    case 'EACCES':
      return 'the socket belongs to another user; ask as that user, or over admin_listen with --url';
    default:
      return error.message;
  }
}

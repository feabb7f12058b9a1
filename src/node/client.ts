import { request } from 'node:http';
import type { EngineRails, RailChoice } from '../cluster/rail-keeper.js';
import type { JournalContents } from '../consistency/journal.js';
import type { ScrubStatus } from '../consistency/scrubber.js';
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

/** The outcome of a command to the cluster, in a sentence. */
export interface CommandOutcome {
  readonly message: string;
}

/** A change of the primary takes its time, and says itself when it is given up. */
const commandMsMax = 60_000;

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

  /**
   * What the node wrote down behind a stamp; if there is `more`, it is asked for behind the last entry's.
   *
   * @throws {WalshipError} `WALSHIP_ERR_UNREACHABLE`
   */
  journal(after = 0n): Promise<Json<JournalContents>> {
    return this.#send('GET', `/journal?after=${after}`);
  }

  /** The rails to the node's upstream. @throws {WalshipError} `WALSHIP_ERR_UNREACHABLE` */
  rails(): Promise<EngineRails> {
    return this.#send('GET', '/rails');
  }

  /** Pins and excludes rails by hand. @throws {WalshipError} `WALSHIP_ERR_UNREACHABLE` */
  chooseRails(choice: RailChoice & { readonly auto?: boolean }): Promise<EngineRails> {
    return this.#send('POST', '/rails/choose', choice);
  }

  /** How the node looks after its copies of the log's pages. @throws {WalshipError} `WALSHIP_ERR_UNREACHABLE` */
  scrub(): Promise<Json<ScrubStatus>> {
    return this.#send('GET', '/scrub');
  }

  /**
   * Has the node look at every page of its log now; {@link scrub} says how far it is.
   *
   * @param options `bytesPerSecond` 0: as fast as it goes
   * @returns the number of this pass in `verify` of {@link scrub}
   * @throws {WalshipError} `WALSHIP_ERR_BUSY`, `WALSHIP_ERR_UNREACHABLE`
   */
  verify(options: { repair: boolean; bytesPerSecond: number }): Promise<{ readonly number: number }> {
    return this.#send('POST', '/verify', options);
  }

  /** @throws {WalshipError} `WALSHIP_ERR_UNREACHABLE`, or the node's own error. */
  promote(epoch?: bigint): Promise<RoleChange> {
    return this.#send('POST', '/promote', { epoch: epoch?.toString() });
  }

  /** `address` null: a standby on its own. @throws {WalshipError} `WALSHIP_ERR_UNREACHABLE`, or the node's own error. */
  follow(upstream: { address: string | null; node?: string | undefined }): Promise<RoleChange> {
    return this.#send('POST', '/follow', upstream);
  }

  /**
   * Hands the primary's role to `to`, or to the standby that has most of the log; no commit is lost.
   *
   * @throws {WalshipError} `WALSHIP_ERR_FAILOVER`, `WALSHIP_ERR_UNREACHABLE`
   */
  switchover(to?: string): Promise<CommandOutcome> {
    return this.#command('/switchover', { to });
  }

  /**
   * Promotes a standby without the primary's help.
   *
   * @param options `to`: default the node asked, if it is a standby; `acceptDataLoss`: also where it cannot be proved that
   * it has all that was committed
   * @throws {WalshipError} `WALSHIP_ERR_FAILOVER`, `WALSHIP_ERR_UNREACHABLE`
   */
  failover(options: { to?: string | undefined; acceptDataLoss?: boolean } = {}): Promise<CommandOutcome> {
    return this.#command('/failover', options);
  }

  /** No node is promoted by itself until {@link resume}. @throws {WalshipError} `WALSHIP_ERR_COORDINATOR` */
  pause(): Promise<CommandOutcome> {
    return this.#command('/pause', {});
  }

  /** @throws {WalshipError} `WALSHIP_ERR_COORDINATOR` */
  resume(): Promise<CommandOutcome> {
    return this.#command('/resume', {});
  }

  /**
   * Has the node asked give up what was committed on it and is not in the cluster's log, and follow again.
   *
   * @param discard without it nothing is done; the error says what there is to discard
   * @throws {WalshipError} `WALSHIP_ERR_DIVERGED_COMMITTED`, `WALSHIP_ERR_FAILOVER`
   */
  rejoin(discard: boolean): Promise<CommandOutcome> {
    return this.#command('/rejoin', discard ? { discard } : {});
  }

  /** Takes a node that is gone for good out of the cluster. @throws {WalshipError} `WALSHIP_ERR_FAILOVER` */
  forget(node: string): Promise<CommandOutcome> {
    return this.#command('/forget', { node });
  }

  #command(path: string, body: object): Promise<CommandOutcome> {
    return this.#send('POST', path, body, commandMsMax);
  }

  #send<T>(method: string, path: string, body?: unknown, timeoutMs = this.#timeoutMs): Promise<T> {
    const { address } = this;
    const where =
      'socket' in address
        ? { socketPath: address.socket }
        : { host: address.host.replace(/^\[|\]$/g, ''), port: address.port };
    return new Promise((resolve, reject) => {
      const headers = { 'content-type': 'application/json' };
      const asked = request({ ...where, method, path, headers, timeout: timeoutMs }, (response) => {
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
      asked.on('timeout', () => asked.destroy(new Error(`no answer within ${timeoutMs} ms`)));
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

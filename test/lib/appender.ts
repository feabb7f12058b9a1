// A client of a test cluster that appends, and remembers what it was told.
import { connect, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { notApplied } from '../../src/cluster/outcome.js';
import type { Router } from '../../src/cluster/router.js';
import { monotonicMs } from './member.js';

export interface Acknowledgement {
  readonly number: number;
  readonly node: string;
  /** Behind the record. */
  readonly lsn: bigint;
  readonly sentAt: number;
  readonly at: number;
  /** When the node itself learned that it is committed. */
  readonly committedAt: number;
}

/** Appends numbered records, one after the other, to whoever is primary. */
export class Client {
  readonly id: string;
  readonly acknowledged: Acknowledgement[] = [];
  /** May be there, or not. */
  readonly unknown: number[] = [];
  /** Is not there. */
  readonly refused: number[] = [];
  readonly #router: Router;
  readonly #addresses: ReadonlyMap<string, string>;
  readonly #pauseMs: number;
  readonly #padding: string;
  readonly #connections = new Map<string, Connection>();
  #number = 0;
  #stopped = false;
  #ended: Promise<void> = Promise.resolve();

  constructor(
    id: string,
    router: Router,
    addresses: ReadonlyMap<string, string>,
    pauseMs: number,
    paddingBytes = 0,
  ) {
    this.id = id;
    this.#router = router;
    this.#addresses = addresses;
    this.#pauseMs = pauseMs;
    this.#padding = paddingBytes > 0 ? ` ${'.'.repeat(paddingBytes - 1)}` : '';
  }

  start(): void {
    this.#ended = this.#run();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#ended;
    this.#router.close();
    for (const connection of this.#connections.values()) connection.close();
  }

  /** The first record that was sent after `since` and acknowledged by another node than `not`. */
  async acknowledgedSince(since: number, not: string | undefined, boundMs: number): Promise<Acknowledgement> {
    const until = performance.now() + boundMs;
    let from = 0;
    while (performance.now() < until) {
      for (; from < this.acknowledged.length; from++) {
        const each = this.acknowledged[from] as Acknowledgement;
        if (each.at >= since && each.node !== not) return each;
      }
      // An acknowledgement has its own time. To look all the time would take it from the nodes.
      await sleep(10);
    }
    throw new Error(`nothing was acknowledged to client ${this.id} within ${boundMs} ms`);
  }

  async #run(): Promise<void> {
    while (!this.#stopped) {
      const number = this.#number++;
      const sentAt = monotonicMs();
      let sent = false;
      try {
        const record = `${this.id} ${number}${this.#padding}`;
        const answered = await this.#router.withPrimary(
          async ({ node }, signal) => {
            const answer = await this.#connection(node).append(record, signal, () => {
              sent = true;
            });
            if (answer.startsWith('ok ')) {
              const [, lsn, committedAt] = answer.split(' ') as [string, string, string];
              return { node, lsn: BigInt(lsn), committedAt: Number(committedAt) };
            }
            if (!answer.startsWith('no ')) throw new Error(answer);
            sent = false;
            throw notApplied(new Error(answer));
          },
          { timeoutMs: 3000, retryMs: 5 },
        );
        this.acknowledged.push({ number, ...answered, sentAt, at: monotonicMs() });
      } catch {
        (sent ? this.unknown : this.refused).push(number);
      }
      if (this.#pauseMs > 0) await sleep(this.#pauseMs);
    }
  }

  #connection(node: string): Connection {
    let connection = this.#connections.get(node);
    if (!connection?.usable) {
      connection = new Connection(this.#addresses.get(node) as string);
      this.#connections.set(node, connection);
    }
    return connection;
  }
}

class Connection {
  readonly #socket: Socket;
  readonly #waiting = new Map<number, { resolve(answer: string): void; reject(error: Error): void }>();
  readonly #connected: Promise<void>;
  #next = 1;
  usable = true;

  constructor(address: string) {
    const [host, port] = address.split(/:(?=\d+$)/) as [string, string];
    this.#socket = connect({ host, port: Number(port) });
    this.#socket.setNoDelay(true);
    this.#connected = new Promise((resolve, reject) => {
      this.#socket.once('connect', resolve);
      this.#socket.once('error', reject);
    });
    this.#connected.catch(() => {});
    const end = (error?: Error) => {
      this.usable = false;
      for (const { reject } of this.#waiting.values())
        reject(error ?? new Error('the connection was closed'));
      this.#waiting.clear();
    };
    this.#socket.on('error', end);
    this.#socket.on('close', () => end());
    createInterface({ input: this.#socket })
      .on('line', (line) => {
        const [number] = line.split(' ', 1) as [string];
        this.#waiting.get(Number(number))?.resolve(line.slice(number.length + 1));
        this.#waiting.delete(Number(number));
      })
      .on('error', () => {});
  }

  async append(record: string, signal: AbortSignal, onSent: () => void): Promise<string> {
    const number = this.#next++;
    let abort = () => {};
    const aborted = new Promise<never>((_, reject) => {
      abort = () => {
        this.close();
        reject(signal.reason);
      };
    });
    signal.addEventListener('abort', abort);
    try {
      return await Promise.race([this.#send(number, record, onSent), aborted]);
    } finally {
      signal.removeEventListener('abort', abort);
    }
  }

  async #send(number: number, record: string, onSent: () => void): Promise<string> {
    await this.#connected;
    onSent();
    return new Promise((resolve, reject) => {
      this.#waiting.set(number, { resolve, reject });
      this.#socket.write(`${number} ${record}\n`);
    });
  }

  /** What has not been delivered never is. */
  close(): void {
    this.usable = false;
    if (this.#socket.connecting) this.#socket.destroy();
    else this.#socket.resetAndDestroy();
  }
}

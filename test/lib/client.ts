// A stranger at the door: speaks walship's set-up protocol and its TCP framing, or less than that, from the outside.
// The layouts are those of native/fabric/handshake.h, native/fabric/tcp/tcp_link.h and native/replication/messages.cc.
import { createHmac, randomBytes } from 'node:crypto';
import { connect, createServer, type Server, type Socket } from 'node:net';

const setupMagic = 0x50485357;
const type = { hello: 1, challenge: 2, proof: 3, verdict: 4, refusal: 5 } as const;
const setupHeaderBytes = 9;
export const protocolVersion = 3;

export interface Caller {
  readonly cluster: string;
  readonly node: string;
  readonly secret: string;
  readonly version?: number;
}

const nameOf = (text: string) => Buffer.concat([Buffer.from([text.length]), Buffer.from(text)]);

export function setupMessage(kind: number, body: Buffer, version = protocolVersion): Buffer {
  const header = Buffer.alloc(setupHeaderBytes);
  header.writeUInt32LE(setupMagic, 0);
  header.writeUInt8(kind, 4);
  header.writeUInt16LE(version, 5);
  header.writeUInt16LE(body.length, 7);
  return Buffer.concat([header, body]);
}

export function helloBody(caller: Pick<Caller, 'cluster' | 'node'>): Buffer {
  return Buffer.concat([Buffer.from([1]), randomBytes(32), nameOf(caller.cluster), nameOf(caller.node)]);
}

const prove = (secret: string, label: string, hello: Buffer, challenge: Buffer) =>
  createHmac('sha256', secret).update(label).update(hello).update(challenge).digest();

/** A TCP connection that can be read to a length. */
export class RawConnection {
  readonly socket: Socket;
  #buffered = Buffer.alloc(0);
  #closed = false;
  readonly #moved = new Set<() => void>();

  constructor(socket: Socket) {
    this.socket = socket;
    const move = () => {
      for (const wake of this.#moved) wake();
    };
    socket.on('data', (chunk: Buffer) => {
      this.#buffered = Buffer.concat([this.#buffered, chunk]);
      move();
    });
    socket.on('error', () => {});
    socket.on('close', () => {
      this.#closed = true;
      move();
    });
  }

  static async to(host: string, port: number): Promise<RawConnection> {
    const socket = connect({ host, port });
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', reject);
    });
    socket.setNoDelay(true);
    return new RawConnection(socket);
  }

  send(...parts: Buffer[]): void {
    if (!this.socket.destroyed) this.socket.write(Buffer.concat(parts));
  }

  /** Everything that has come and will come goes to `other`. */
  forward(other: RawConnection): void {
    other.send(this.#buffered);
    this.#buffered = Buffer.alloc(0);
    this.socket.removeAllListeners('data');
    this.socket.on('data', (chunk: Buffer) => other.send(chunk));
  }

  end(): void {
    this.socket.destroy();
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** Waits until the other side closes; false after `milliseconds`. */
  async untilClosed(milliseconds: number): Promise<boolean> {
    const deadline = performance.now() + milliseconds;
    while (!this.#closed && performance.now() < deadline) await this.#wait(50);
    return this.#closed;
  }

  /** Empty if the other side closes before. */
  async read(bytes: number, milliseconds = 10_000): Promise<Buffer> {
    const deadline = performance.now() + milliseconds;
    while (this.#buffered.length < bytes) {
      if (this.#closed) return Buffer.alloc(0);
      if (performance.now() > deadline) throw new Error(`waited for ${bytes} bytes in vain`);
      await this.#wait(50);
    }
    const taken = this.#buffered.subarray(0, bytes);
    this.#buffered = this.#buffered.subarray(bytes);
    return taken;
  }

  #wait(milliseconds: number): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        this.#moved.delete(done);
        resolve();
      };
      const timer = setTimeout(done, milliseconds);
      this.#moved.add(done);
    });
  }

  async readSetup(): Promise<{ kind: number; version: number; body: Buffer } | undefined> {
    const header = await this.read(setupHeaderBytes);
    if (header.length === 0) return undefined;
    const length = header.readUInt16LE(7);
    return { kind: header.readUInt8(4), version: header.readUInt16LE(5), body: await this.read(length) };
  }

  /** One message or range of a TCP link. */
  async readItem(): Promise<{ kind: number; grant: number; offset: number; body: Buffer } | undefined> {
    const header = await this.read(16);
    if (header.length === 0) return undefined;
    const body = await this.read(header.readUInt32LE(4));
    return {
      kind: header.readUInt8(0),
      grant: header.readUInt32LE(8),
      offset: header.readUInt32LE(12),
      body,
    };
  }
}

function refusalOf(body: Buffer): string {
  const length = body.readUInt8(0);
  return body.toString('utf8', 1, 1 + length);
}

/** Calls as a downstream does. Gives back '' when accepted, else the code of the refusal, or 'closed'. */
export async function callIn(connection: RawConnection, caller: Caller): Promise<string> {
  const hello = helloBody(caller);
  connection.send(setupMessage(type.hello, hello, caller.version));
  const challenge = await connection.readSetup();
  if (challenge === undefined) return 'closed';
  if (challenge.kind === type.refusal) return refusalOf(challenge.body);
  const unproved = challenge.body.subarray(0, challenge.body.length - 32);
  connection.send(setupMessage(type.proof, prove(caller.secret, 'walship connector', hello, unproved)));
  const verdict = await connection.readSetup();
  if (verdict === undefined) return 'closed';
  return verdict.kind === type.refusal ? refusalOf(verdict.body) : '';
}

/** Answers as an upstream does. */
export async function answerCall(connection: RawConnection, upstream: Caller): Promise<boolean> {
  const hello = await connection.readSetup();
  if (hello === undefined) return false;
  const challenge = Buffer.concat([Buffer.from([1]), randomBytes(32), nameOf(upstream.node)]);
  const proof = prove(upstream.secret, 'walship listener', hello.body, challenge);
  connection.send(setupMessage(type.challenge, Buffer.concat([challenge, proof]), upstream.version));
  const reply = await connection.readSetup();
  if (reply?.kind !== type.proof) return false;
  connection.send(setupMessage(type.verdict, Buffer.alloc(0)));
  return true;
}

export async function listen(
  host: string,
  onConnection: (connection: RawConnection) => void,
): Promise<Server> {
  const server = createServer((socket) => onConnection(new RawConnection(socket)));
  await new Promise<void>((resolve) => server.listen(0, host, resolve));
  return server;
}

// ---- what a link carries ----

export function wireHeader(kind: number, length: number, grant = 0, offset = 0): Buffer {
  const header = Buffer.alloc(16);
  header.writeUInt8(kind, 0);
  header.writeUInt32LE(length, 4);
  header.writeUInt32LE(grant, 8);
  header.writeUInt32LE(offset, 12);
  return header;
}

export const message = (body: Buffer) => Buffer.concat([wireHeader(2, body.length), body]);
export const range = (grant: number, offset: number, body: Buffer) =>
  Buffer.concat([wireHeader(1, body.length, grant, offset), body]);

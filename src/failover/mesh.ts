import { createHmac } from 'node:crypto';
import { type AddressInfo, connect as connectTcp, type Socket } from 'node:net';
import { connect, createSecureContext, createServer, type Server, type TLSSocket } from 'node:tls';
import { WalshipError } from '../engine/errors.js';
import { parseAddress } from '../engine/options.js';
import type { HybridClock } from './clock.js';
import type { Message } from './protocol.js';
import { decodeMessage, encodeMessage, messageBytesMax } from './wire.js';

export interface MeshOptions {
  readonly nodeId: string;
  readonly cluster: { readonly id: string; readonly secret: string };
  /** `host:port` */
  readonly listen: string;
  /** What is said carries its stamp, and what is heard moves it. */
  readonly clock: HybridClock;
  /**
   * One that has said nothing for so long is dialled anew: a connection that lost its packets may take long to notice. Must
   * be well over the time after which silence is taken for death, or that time would be counted from the dialling again.
   */
  readonly silentMsMax: number;
  readonly onMessage: (from: string, message: Message) => void;
  /** `refused`: there is no process at its address. */
  readonly onPeer: (node: string, up: boolean, refused: boolean) => void;
}

/** Elliptic-curve Diffie-Hellman under the cluster's secret (RFC 5489, RFC 7905): no certificates, forward secrecy. */
const tls = {
  ciphers: 'ECDHE-PSK-CHACHA20-POLY1305',
  minVersion: 'TLSv1.2',
  maxVersion: 'TLSv1.2',
} as const;
/** Made once, and without the certificates that Node.js comes with: to make one anew for every dial costs more than the rest. */
const dialling = createSecureContext({ ...tls, ca: [] });
const redialMsMin = 20;
const redialMsMax = 500;
const dialMsMax = 1000;
/** Once there is somebody at the other end: on a slow machine the hand-shake takes its time, and would be begun for ever. */
const handshakeMsMax = 5000;
/** Twice as long with every connection that was dialled in vain for its silence: what is slow is not made faster by more of them. */
const silentDoublings = 3;
const backlogBytesMax = 1024 * 1024;
const strangersMax = 64;

interface Peer {
  readonly node: string;
  address: string;
  /** The connection, or the attempt at one. */
  socket: Socket | undefined;
  up: boolean;
  heardAt: number;
  silentDrops: number;
  redialMs: number;
  timer: NodeJS.Timeout | undefined;
  gone: boolean;
}

/**
 * The connections between the controllers of a cluster. Each node dials every other one, and says on that connection what
 * it has to say; it hears the others on those that they dialled. Lines of JSON over TLS with the cluster's secret as
 * pre-shared key: without it nobody gets past the hand-shake.
 */
export class Mesh {
  readonly #options: MeshOptions;
  readonly #key: Buffer;
  readonly #peers = new Map<string, Peer>();
  readonly #incoming = new Set<TLSSocket>();
  /** Whoever knows the secret is believed who it is. */
  readonly #names = new WeakMap<TLSSocket, string>();
  readonly #server: Server;
  readonly #watch: NodeJS.Timeout;
  #closed = false;

  /** @throws {WalshipError} `WALSHIP_ERR_LISTEN` */
  static async open(options: MeshOptions): Promise<Mesh> {
    const mesh = new Mesh(options);
    const { host, port } = parseAddress(options.listen);
    await new Promise<void>((resolve, reject) => {
      mesh.#server.once('error', (cause) => {
        clearInterval(mesh.#watch);
        const message = `the controller cannot listen on ${options.listen}: ${cause.message}; set another failover.listen`;
        reject(new WalshipError('WALSHIP_ERR_LISTEN', message, { cause }));
      });
      mesh.#server.listen({ port, ...(host !== '' && { host }) }, resolve);
    });
    return mesh;
  }

  private constructor(options: MeshOptions) {
    this.#options = options;
    const { id, secret } = options.cluster;
    this.#key = createHmac('sha256', secret).update(`walship controller of ${id}`).digest();
    const pskCallback = (socket: TLSSocket, identity: string) => {
      const [from, to] = identity.split(' ');
      // Somebody else was at this address before.
      if (from === undefined || to !== options.nodeId) return null;
      this.#names.set(socket, from);
      return this.#key;
    };
    this.#server = createServer({ ...tls, pskCallback }, (socket) => this.#accept(socket));
    this.#server.maxConnections = strangersMax * 2;
    // Scanners, and nodes with another secret: their connection is closed, that is all.
    this.#server.on('tlsClientError', (_, socket) => socket.destroy());
    this.#watch = setInterval(() => this.#dropSilent(), options.silentMsMax / 4).unref();
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  /** Who else there is, and where: new ones are dialled, others let go. */
  setPeers(members: readonly { readonly node: string; readonly control: string }[]): void {
    const wanted = new Map(members.map(({ node, control }) => [node, control]));
    wanted.delete(this.#options.nodeId);
    for (const [node, peer] of this.#peers) {
      if (wanted.get(node) === peer.address) continue;
      this.#peers.delete(node);
      this.#letGo(peer);
    }
    for (const [node, address] of wanted) {
      if (this.#peers.has(node)) continue;
      const peer: Peer = {
        node,
        address,
        socket: undefined,
        up: false,
        heardAt: performance.now(),
        silentDrops: 0,
        redialMs: redialMsMin,
        timer: undefined,
        gone: false,
      };
      this.#peers.set(node, peer);
      this.#dial(peer);
    }
  }

  /** What cannot be sent is lost. */
  send(to: string, message: Message): void {
    const socket = this.#peers.get(to)?.socket;
    if (!socket || !this.#peers.get(to)?.up || socket.writableLength > backlogBytesMax) return;
    socket.write(`${encodeMessage(message, this.#options.clock.stamp())}\n`);
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearInterval(this.#watch);
    for (const peer of this.#peers.values()) this.#letGo(peer);
    for (const socket of this.#incoming) socket.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  // ---- out ----

  #dial(peer: Peer): void {
    if (this.#closed || peer.gone) return;
    const { host, port } = parseAddress(peer.address);
    // The hand-shake is begun when there is somebody to shake hands with: who is gone is dialled again and again.
    const socket = connectTcp({ host: host === '' ? 'localhost' : host, port, noDelay: true });
    this.#attempt(peer, socket);
    const dialled = setTimeout(() => socket.destroy(), dialMsMax);
    socket.once('close', () => clearTimeout(dialled));
    socket.once('connect', () => {
      clearTimeout(dialled);
      if (peer.socket === socket) this.#shakeHands(peer, socket);
      else socket.destroy();
    });
  }

  #shakeHands(peer: Peer, under: Socket): void {
    const identity = `${this.#options.nodeId} ${peer.node}`;
    const socket = connect({
      socket: under,
      secureContext: dialling,
      pskCallback: () => ({ psk: this.#key, identity }),
      // There are no certificates; the secret proves who is there.
      checkServerIdentity: () => undefined,
    });
    this.#attempt(peer, socket);
    const shaken = setTimeout(() => socket.destroy(), handshakeMsMax);
    socket.once('close', () => clearTimeout(shaken));
    socket.once('secureConnect', () => {
      clearTimeout(shaken);
      if (peer.socket !== socket) return;
      peer.up = true;
      peer.heardAt = performance.now();
      peer.redialMs = redialMsMin;
      this.#options.onPeer(peer.node, true, false);
    });
    // Nothing is to come this way.
    socket.resume();
  }

  /** From now on this is what there is of a connection with `peer`; when it ends it is dialled again. */
  #attempt(peer: Peer, socket: Socket): void {
    peer.socket = socket;
    let refused = false;
    socket.on('error', (error: NodeJS.ErrnoException) => {
      refused ||= error.code === 'ECONNREFUSED';
    });
    socket.once('close', () => {
      if (peer.socket !== socket) return;
      peer.socket = undefined;
      const was = peer.up;
      peer.up = false;
      if (peer.gone || this.#closed) return;
      // A connection that ends may be a process that ended: the next dial tells at once.
      this.#options.onPeer(peer.node, false, refused);
      peer.timer = setTimeout(() => this.#dial(peer), was ? 0 : peer.redialMs);
      if (!was) peer.redialMs = Math.min(2 * peer.redialMs, redialMsMax);
    });
  }

  #letGo(peer: Peer): void {
    peer.gone = true;
    clearTimeout(peer.timer);
    peer.socket?.destroy();
    if (peer.up && !this.#closed) this.#options.onPeer(peer.node, false, false);
  }

  #dropSilent(): void {
    const now = performance.now();
    for (const peer of this.#peers.values()) {
      if (!peer.up || now - peer.heardAt <= this.#options.silentMsMax * 2 ** peer.silentDrops) continue;
      peer.silentDrops = Math.min(peer.silentDrops + 1, silentDoublings);
      peer.socket?.destroy();
    }
  }

  // ---- in ----

  #accept(socket: TLSSocket): void {
    this.#incoming.add(socket);
    socket.on('error', () => socket.destroy());
    socket.once('close', () => this.#incoming.delete(socket));
    const from = this.#names.get(socket);
    if (from === undefined) return void socket.destroy();
    let rest = '';
    socket.setEncoding('utf8');
    socket.on('data', (data: string) => {
      const lines = (rest + data).split('\n');
      rest = lines.pop() as string;
      for (const line of lines) {
        const heard = line.length <= messageBytesMax ? decodeMessage(line) : undefined;
        if (!heard) return void socket.destroy();
        this.#options.clock.hear(heard.stamp);
        const peer = this.#peers.get(from);
        if (peer) {
          peer.heardAt = performance.now();
          peer.silentDrops = 0;
        }
        this.#options.onMessage(from, heard.message);
      }
      if (rest.length > messageBytesMax) socket.destroy();
    });
  }
}

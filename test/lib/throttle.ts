// A wire that is slow: a TCP relay that lets so many bytes per second through from the upstream to its standbys. Acknowledgements
// go back unhindered.

import type { AddressInfo } from 'node:net';
import { connect, createServer, type Server, type Socket } from 'node:net';

const tickMs = 10;

export class Throttle {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  /** Of now; `Infinity`: no limit. */
  bytesPerSecond: number;

  private constructor(server: Server, bytesPerSecond: number) {
    this.#server = server;
    this.bytesPerSecond = bytesPerSecond;
  }

  static async start(toPort: number, bytesPerSecond: number): Promise<Throttle> {
    const server = createServer();
    const throttle = new Throttle(server, bytesPerSecond);
    server.on('connection', (down) => throttle.#carry(down, toPort));
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    return throttle;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  #carry(down: Socket, toPort: number): void {
    const up = connect(toPort, '127.0.0.1');
    const ends = [down, up];
    for (const end of ends) {
      end.setNoDelay(true);
      this.#sockets.add(end);
      end.on('error', () => {});
      end.on('close', () => {
        this.#sockets.delete(end);
        for (const other of ends) other.destroy();
        clearInterval(timer);
      });
    }
    down.pipe(up);
    up.pause();
    let allowance = 0;
    const timer = setInterval(() => {
      const most = (this.bytesPerSecond * tickMs) / 1000;
      allowance = Math.min(allowance + most, Math.max(most, 4096));
      while (allowance >= 1) {
        const wanted = Math.min(up.readableLength, Math.floor(Math.min(allowance, 1 << 24)));
        const part: Buffer | null = wanted > 0 ? up.read(wanted) : up.read();
        if (part === null) return;
        allowance -= part.length;
        down.write(part);
      }
    }, tickMs);
  }

  close(): void {
    this.#server.close();
    for (const each of this.#sockets) each.destroy();
  }
}

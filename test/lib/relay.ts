// A relay between a standby and its upstream that understands the framing of a TCP link and can do to single ranges and
// messages what no wire does: the checks above TCP have to find it.
import type { Server } from 'node:net';
import { listen, RawConnection, wireHeader } from './client.js';

export interface Item {
  readonly kind: 'range' | 'message';
  readonly number: number;
  readonly header: Buffer;
  readonly body: Buffer;
}

/** What the downstream gets instead of the item; `cut` ends both connections after it. */
export type Tamper = (item: Item) => readonly Buffer[] | 'cut' | 'stall';

export const whole = (item: Item): Buffer[] => [item.header, item.body];

export class Relay {
  readonly #server: Server;
  readonly #open = new Set<RawConnection>();
  connections = 0;
  tampered = 0;

  private constructor(server: Server) {
    this.#server = server;
  }

  get port(): number {
    return (this.#server.address() as { port: number }).port;
  }

  static async start(host: string, to: { host: string; port: number }, tamper: Tamper): Promise<Relay> {
    const relay = new Relay(await listen(host, (connection) => void relay.#carry(connection, to, tamper)));
    return relay;
  }

  async #carry(down: RawConnection, to: { host: string; port: number }, tamper: Tamper): Promise<void> {
    this.connections++;
    const up = await RawConnection.to(to.host, to.port).catch(() => undefined);
    if (up === undefined) {
      down.end();
      return;
    }
    for (const each of [down, up]) this.#open.add(each);
    down.forward(up);
    down.socket.on('close', () => up.end());
    await this.#ship(down, up, tamper).catch(() => {});
    for (const each of [down, up]) {
      each.end();
      this.#open.delete(each);
    }
  }

  async #ship(down: RawConnection, up: RawConnection, tamper: Tamper): Promise<void> {
    for (let setup = 0; setup < 2; setup++) {
      const header = await up.read(9);
      if (header.length === 0) return;
      down.send(header, await up.read(header.readUInt16LE(7)));
    }
    for (let number = 0; ; number++) {
      const item = await up.readItem();
      if (item === undefined) return;
      const { kind, grant, offset, body } = item;
      const instead = tamper({
        kind: kind === 1 ? 'range' : 'message',
        number,
        header: wireHeader(kind, body.length, grant, offset),
        body,
      });
      if (instead === 'stall') {
        this.tampered++;
        await down.untilClosed(60_000);
        return;
      }
      if (instead === 'cut') {
        this.tampered++;
        return;
      }
      if (instead.length !== 2 || instead[1] !== body) this.tampered++;
      down.send(...instead);
    }
  }

  close(): void {
    this.#server.close();
    for (const each of this.#open) each.end();
  }
}

// What a member of a test cluster is whatever it replicates: told over IPC what to do, with a port for clients that write.
import { createServer } from 'node:net';
import { createInterface } from 'node:readline';
import { Engine, Membership } from '../../dist/index.js';

/** @param {unknown} message */
export const tell = (message) => process.send?.(message);
/** The monotonic clock of the machine, in ms. */
export const now = () => Number(process.hrtime.bigint()) / 1e6;

/** @param {import('../../dist/failover/agent.js').Agent} agent */
export function tellOf(agent) {
  agent.on('event', ({ level, event, message }) => tell({ event: { at: now(), level, event, message } }));
  agent.on('role', (role, epoch) => tell({ role: { at: now(), role, epoch } }));
}

/**
 * An engine under its controller.
 *
 * @param {import('./member.ts').MemberSettings} settings
 * @param {Partial<import('../../dist/failover/membership.js').MembershipOptions>} more
 */
export async function joined({ options, failover }, more = {}) {
  const engine = await Engine.open(options);
  const membership = await Membership.join({
    subject: {
      engine,
      promote: (epoch, leaseUntilNs) => engine.promote(epoch, leaseUntilNs),
      follow: (upstream) => engine.follow(upstream),
    },
    cluster: options.cluster,
    listen: /** @type {string} */ (options.listen),
    commitRule: options.commitRule ?? { level: 'async' },
    failover,
    ...more,
  });
  tellOf(membership.agent);
  engine.on('event', ({ type, node, message }) =>
    tell({ event: { at: now(), level: 'engine', event: type, message: `${node} ${message}` } }),
  );
  return { engine, membership };
}

/**
 * Writes the records of clients, a line each, and answers `ok LSN TIME`; `no CODE`: nothing was written; `unknown CODE`: it
 * may have been.
 *
 * @param {string} address @param {(record: string) => Promise<string>} write
 */
export function listen(address, write) {
  const server = createServer((socket) => {
    socket.setNoDelay(true);
    socket.on('error', () => socket.destroy());
    // The interface passes on the errors of its input.
    const lines = createInterface({ input: socket }).on('error', () => socket.destroy());
    lines.on('line', (line) => {
      const number = line.slice(0, line.indexOf(' '));
      write(line.slice(number.length + 1)).then((answer) => {
        if (!socket.destroyed) socket.write(`${number} ${answer}\n`);
      });
    });
  });
  const [host, port] = address.split(/:(?=\d+$)/);
  return new Promise((resolve) => server.listen(Number(port), host, () => resolve(undefined)));
}

/**
 * What the test asks an agent for.
 *
 * @param {() => import('../../dist/failover/agent.js').Agent} agent
 * @returns {Record<string, (...given: any[]) => unknown>}
 */
export const callsOf = (agent) => ({
  switchover: (to) => agent().switchover(to),
  failover: (to, acceptDataLoss) => agent().failover(to, acceptDataLoss),
  setPaused: (paused) => agent().setPaused(paused),
  rejoin: () => agent().rejoin(),
  forget: (node) => agent().forget(node),
  /** The event loop stands still: the data plane alone goes on. */
  hang: (ms) => {
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
  },
});

/** @param {Record<string, (...given: any[]) => unknown>} calls */
export function serve(calls) {
  process.on(
    'message',
    async (/** @type {{ id: number, call: string, given: unknown[] }} */ { id, call, given }) => {
      try {
        tell({ id, value: await /** @type {(...given: unknown[]) => unknown} */ (calls[call])(...given) });
      } catch (error) {
        const { code, message } = /** @type {Error & { code?: string }} */ (error);
        tell({ id, error: { code, message } });
      }
    },
  );
  tell({ ready: true });
}

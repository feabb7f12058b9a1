// A member of a test cluster, in a process of its own that is killed, stopped and cut off: an engine under its controller,
// and a port for clients that append. Told over IPC what to be; tells what it does. On the built package, because it
// starts often.
import { createServer } from 'node:net';
import { createInterface } from 'node:readline';
import { Engine, Membership } from '../../dist/index.js';

/** @typedef {import('./member.ts').MemberSettings} MemberSettings */

/** @param {unknown} message */
const tell = (message) => process.send?.(message);
const now = () => Number(process.hrtime.bigint()) / 1e6;

/** @type {Engine} */
let engine;
/** @type {Membership} */
let membership;

/** @param {MemberSettings} settings */
async function open({ options, failover, clients }) {
  engine = await Engine.open(options);
  membership = await Membership.join({
    subject: {
      engine,
      promote: (epoch, leaseUntilNs) => engine.promote(epoch, leaseUntilNs),
      follow: (upstream) => engine.follow(upstream),
    },
    cluster: options.cluster,
    listen: /** @type {string} */ (options.listen),
    commitRule: options.commitRule ?? { level: 'async' },
    failover,
  });
  const { agent } = membership;
  agent.on('event', ({ level, event, message }) => tell({ event: { at: now(), level, event, message } }));
  agent.on('role', (role, epoch) => tell({ role: { at: now(), role, epoch } }));
  await listen(clients);
}

/** @param {string} address */
function listen(address) {
  const server = createServer((socket) => {
    socket.setNoDelay(true);
    socket.on('error', () => socket.destroy());
    // The interface passes on the errors of its input.
    const lines = createInterface({ input: socket }).on('error', () => socket.destroy());
    lines.on('line', (line) => {
      const number = line.slice(0, line.indexOf(' '));
      append(Buffer.from(`${line.slice(number.length + 1)}\n`)).then((answer) => {
        if (!socket.destroyed) socket.write(`${number} ${answer}\n`);
      });
    });
  });
  const [host, port] = address.split(/:(?=\d+$)/);
  return new Promise((resolve) => server.listen(Number(port), host, () => resolve(undefined)));
}

/**
 * `ok LSN TIME`; `no CODE`: nothing was appended; `unknown CODE`: it may have been.
 *
 * @param {Buffer} record
 */
async function append(record) {
  /** @type {bigint} */
  let lsn;
  try {
    lsn = await engine.appendWhenWritable(record);
  } catch (error) {
    return `no ${/** @type {{ code?: string }} */ (error).code}`;
  }
  try {
    await engine.committed(lsn);
    return `ok ${lsn} ${now()}`;
  } catch (error) {
    return `unknown ${/** @type {{ code?: string }} */ (error).code}`;
  }
}

/** @type {Record<string, (...given: any[]) => unknown>} */
const calls = {
  open,
  status: () => ({
    ...membership.agent.status(),
    positions: engine.positions,
    role: engine.role,
    epoch: engine.epoch,
  }),
  links: () => engine.status().links,
  switchover: (to) => membership.agent.switchover(to),
  failover: (to, acceptDataLoss) => membership.agent.failover(to, acceptDataLoss),
  setPaused: (paused) => membership.agent.setPaused(paused),
  rejoin: () => membership.agent.rejoin(),
  forget: (node) => membership.agent.forget(node),
  /** The event loop stands still: the data plane alone goes on. */
  hang: (ms) => {
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
  },
  close: async () => {
    await membership.leave();
    await engine.close();
  },
};

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

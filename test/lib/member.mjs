// A member of a test cluster, in a process of its own that is killed, stopped and cut off: an engine under its controller,
// and a port for clients that append. Told over IPC what to be; tells what it does. On the built package, because it
// starts often.
import { Engine, Membership } from '../../dist/index.js';
import { callsOf, listen, now, serve, tellOf } from './membership.mjs';

/** @typedef {import('./member.ts').MemberSettings} MemberSettings */

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
  tellOf(membership.agent);
  await listen(clients, (record) => append(Buffer.from(`${record}\n`)));
}

/** @param {Buffer} record */
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

serve({
  ...callsOf(() => membership.agent),
  open,
  status: () => ({
    ...membership.agent.status(),
    positions: engine.positions,
    role: engine.role,
    epoch: engine.epoch,
  }),
  links: () => engine.status().links,
  close: async () => {
    await membership.leave();
    await engine.close();
  },
});

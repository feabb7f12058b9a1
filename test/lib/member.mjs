// A member of a test cluster, in a process of its own that is killed, stopped and cut off: an engine under its controller,
// and a port for clients that append. Told over IPC what to be; tells what it does. On the built package, because it
// starts often.
import { callsOf, joined, listen, now, serve } from './membership.mjs';

/** @typedef {import('./member.ts').MemberSettings} MemberSettings */

/** @type {import('../../dist/index.js').Engine} */
let engine;
/** @type {import('../../dist/index.js').Membership} */
let membership;

/** @param {MemberSettings} settings */
async function open(settings) {
  ({ engine, membership } = await joined(settings));
  await listen(settings.clients, (record) => append(Buffer.from(`${record}\n`)));
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

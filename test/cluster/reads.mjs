// A member of a cluster that also answers reads: what it has applied, in which log, and a piece of it. Told over IPC what to
// be, as test/lib/member.mjs is.
import { callsOf, joined, listen, serve } from '../lib/membership.mjs';

/** @typedef {import('../lib/member.ts').MemberSettings} MemberSettings */

/** @type {import('../../dist/index.js').Engine} */
let engine;
/** @type {import('../../dist/index.js').Membership} */
let membership;

/** @param {MemberSettings} settings */
async function open(settings) {
  ({ engine, membership } = await joined(settings, { watch: settings.options }));
  await listen(settings.clients, (line) =>
    line.startsWith('read ') ? read(line) : append(Buffer.from(line)),
  );
}

/** `ok LSN EPOCH`; `no CODE`: it was not written; `unknown CODE`. @param {Buffer} record */
async function append(record) {
  const epoch = engine.epoch;
  /** @type {bigint} */
  let lsn;
  try {
    lsn = engine.append(record);
  } catch (error) {
    return `no ${/** @type {{ code?: string }} */ (error).code}`;
  }
  try {
    await engine.committed(lsn);
    return `ok ${lsn} ${epoch}`;
  } catch (error) {
    return `unknown ${/** @type {{ code?: string }} */ (error).code}`;
  }
}

/** `read END BYTES`: what stands before END, as far as it is applied; then where that is, and of which log. @param {string} line */
async function read(line) {
  const [, end, bytes] = line.split(' ').map((each) => each);
  const upTo = BigInt(/** @type {string} */ (end));
  let text = '';
  if (engine.positions.applied >= upTo) {
    for await (const chunk of engine.read(upTo - BigInt(/** @type {string} */ (bytes)), { end: upTo }))
      text += chunk.bytes;
  }
  // What is said of the read is of after it.
  const { applied } = engine.positions;
  return `ok ${applied} ${engine.logEpoch} ${text}`;
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

// A member of a test cluster whose engine ships a SQLite database: see test/lib/member.mjs.
import { openReplicated } from '../../../dist/index.js';
import { callsOf, listen, now, serve, tell, tellOf } from '../../lib/membership.mjs';
import { enter, problemOf } from './ledger.mjs';

/** @typedef {import('../../../dist/index.js').Replicated} Replicated */
/** @typedef {import('../../lib/member.ts').MemberSettings} MemberSettings */

/** How often a node's own reader looks. */
const lookMs = 40;

/** @type {Replicated} */
let node;
let looks = 0;
/** @type {NodeJS.Timeout} */
let looking;

const agent = () => /** @type {import('../../../dist/failover/agent.js').Agent} */ (node.agent);

/** @param {MemberSettings} settings */
async function open({ options, database, failover, clients }) {
  const path = /** @type {string} */ (database?.path);
  node = await openReplicated({ ...options, ...database, path, failover });
  tellOf(agent());
  node.on('event', ({ type, message }) => {
    tell({ event: { at: now(), level: 'info', event: type, message } });
  });
  looking = setInterval(look, lookMs);
  await listen(clients, write);
}

/** What a client may be told: the node is no primary, or not yet, or holds; or, of a commit, ceases to be one meanwhile. */
const refusals =
  /^(WALSHIP_ERR_(SQLITE_STANDBY|SQLITE_EMPTY|NOT_PRIMARY|CLOSED)|SQLITE_READONLY|SQLITE_BUSY)/;
const doubtful = /^(WALSHIP_ERR_(NOT_PRIMARY|CLOSED)|SQLITE_IOERR|SQLITE_BUSY)/;

/**
 * Ends the process, which then was no kill of the test's.
 *
 * @param {string} problem
 */
function fail(problem) {
  process.stderr.write(`${node.role} of epoch ${node.engine.epoch}: ${problem}\n`);
  process.exit(3);
}

/** Through `node.db`, whatever the node is just now. */
function look() {
  let problem = '';
  try {
    problem = problemOf(node.db);
    looks += 1;
  } catch (error) {
    const { code, message } = /** @type {Error & { code: string }} */ (error);
    // Nothing has come yet; or it is closed for another role, or another process holds SQLite's lock.
    const passing = code === 'WALSHIP_ERR_SQLITE_EMPTY' || code.startsWith('SQLITE_BUSY');
    if (!passing && !/no such table/.test(message)) problem = `${code}: ${message}`;
  }
  if (problem !== '') fail(`it shows ${problem}`);
}

/**
 * `CLIENT NUMBER`; a client whose name begins with `waits` has its commit wait for the rule, others await committed().
 *
 * @param {string} record
 */
async function write(record) {
  const [client, number] = /** @type {[string, string]} */ (record.split(' '));
  const waits = client.startsWith('waits');
  let committing = false;
  try {
    node.setCommitMode(waits ? 'wait' : 'async');
    enter(node.db, client, Number(number), () => {
      committing = true;
    });
    const lsn = waits ? node.engine.positions.committed : await node.committed();
    return `ok ${lsn} ${now()}`;
  } catch (error) {
    const { code = '' } = /** @type {{ code?: string }} */ (error);
    // Of a commit, too, SQLITE_READONLY says that it was not done: the node was deposed before its frame was written.
    const refused = refusals.test(code) && (!committing || code === 'SQLITE_READONLY');
    if (!refused && !(committing && doubtful.test(code)))
      fail(`${record}, ${committing ? 'committing' : 'writing'}: ${code} ${error}`);
    return `${refused ? 'no' : 'unknown'} ${code}`;
  }
}

serve({
  ...callsOf(agent),
  open,
  status: () => ({
    ...agent().status(),
    positions: node.engine.positions,
    role: node.engine.role,
    epoch: node.engine.epoch,
  }),
  links: () => node.engine.status().links,
  exec: async (sql) => {
    node.db.exec(sql);
    await node.committed();
  },
  committed: () => node.committed(),
  /** Whether what was acknowledged at an LSN is there. */
  shows: async (lsn, client, number) => {
    const db = await node.readAt(lsn);
    return db
      .prepare('select count(*) from entry where client = ? and number = ?')
      .pluck()
      .get(client, number);
  },
  /** Since it was asked last. */
  looks: () => {
    const since = looks;
    looks = 0;
    return since;
  },
  close: async () => {
    clearInterval(looking);
    await node.close();
  },
});

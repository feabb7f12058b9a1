// A process of its own, driven by its parent over IPC: a replicated node, or plain better-sqlite3 on a node's file.
import Sqlite from 'better-sqlite3';
import { openReplicated } from '../../../dist/index.js';

/** @typedef {import('../../../dist/index.js').ReplicatedOptions} ReplicatedOptions */

/** @type {import('../../../dist/index.js').Replicated | undefined} */
let node;
/** @type {Sqlite.Database | undefined} */
let plain;
/** @type {{ stop: boolean, ended: Promise<unknown> } | undefined} */
let load;

function open() {
  if (node === undefined) throw new Error('no node is open in this process');
  return node;
}

const database = () => plain ?? open().db;

/**
 * Transfers between the rows of `account`, each with a row in `journal`, until told to stop. The parent is told the
 * number of each one once `committed()` has returned for it, or the commit itself in mode `wait`.
 */
async function transfers(/** @type {{ stop: boolean }} */ control) {
  const { db } = open();
  const waits = open().status().sqlite.commitMode === 'wait';
  const take = db.prepare('update account set balance = balance - ? where id = ?');
  const give = db.prepare('update account set balance = balance + ? where id = ?');
  const note = db.prepare('insert into journal(seq, note) values (?, ?)');
  const accounts = /** @type {{ c: number }} */ (db.prepare('select count(*) c from account').get()).c;
  let seq = /** @type {{ m: number }} */ (db.prepare('select coalesce(max(seq), 0) m from journal').get()).m;
  const transfer = db.transaction((/** @type {number} */ number) => {
    const amount = (number * 7919) % 100;
    take.run(amount, (number % accounts) + 1);
    give.run(amount, ((number * 31) % accounts) + 1);
    note.run(number, 'x'.repeat((number * 104729) % (number % 50 === 0 ? 300_000 : 600)));
  });
  while (!control.stop) {
    // Several between two waits: what a kill may take is then more than one transaction.
    for (let i = seq % 3; i >= 0; i--) {
      transfer(++seq);
      if (waits) process.send?.({ acknowledged: seq });
    }
    if (waits) await new Promise((resolve) => setImmediate(resolve));
    else await open().committed();
    process.send?.({ acknowledged: seq });
  }
}

/** @type {Record<string, (argument: any) => unknown>} */
const operations = {
  /** @param {ReplicatedOptions} options */
  async open(options) {
    node = await openReplicated(options);
    node.on('event', (event) => process.send?.({ event }));
    return node.engine.listenPort;
  },
  promote: (epoch) => open().promote(epoch),
  follow: (upstream) => open().follow(upstream),
  committed: () => open().committed(),
  lsn: () => open().lsn(),
  status: () => open().status(),
  async readAt({ lsn, sql, parameters = [] }) {
    const db = await open().readAt(lsn);
    return db.prepare(sql).all(...parameters);
  },
  plain: (path) => {
    plain = new Sqlite(path);
  },
  exec: (sql) => {
    database().exec(sql);
  },
  pragma: (source) => database().pragma(source, { simple: true }),
  run: ({ sql, parameters = [] }) => {
    database()
      .prepare(sql)
      .run(...parameters);
  },
  all: ({ sql, parameters = [] }) =>
    database()
      .prepare(sql)
      .all(...parameters),
  /** Small commits, as many as `count` and as fast as `everyMs` says; each adds one to both halves of `pair`. */
  async stream({ count, everyMs }) {
    const db = database();
    const left = db.prepare("update pair set n = n + 1 where side = 'left'");
    const right = db.prepare("update pair set n = n + 1 where side = 'right'");
    const log = db.prepare('insert into stream(v) values (?)');
    const step = db.transaction((/** @type {number} */ i) => {
      left.run();
      log.run('v'.repeat((i * 37) % 900));
      right.run();
    });
    for (let i = 0; i < count; i++) {
      step(i);
      if (everyMs > 0 || i % 32 === 0) await new Promise((resolve) => setTimeout(resolve, everyMs));
    }
  },
  transfers() {
    const control = { stop: false };
    load = Object.assign(control, { ended: transfers(control) });
    // An error shows when the load is ended.
    load.ended.catch(() => {});
  },
  async endTransfers() {
    if (load === undefined) return;
    load.stop = true;
    await load.ended;
    load = undefined;
  },
  async close() {
    const closing = node;
    node = undefined;
    plain?.close();
    plain = undefined;
    await closing?.close();
  },
};

process.on('message', async (/** @type {{ id: number, operation: string, argument: unknown }} */ request) => {
  const { id, operation, argument } = request;
  try {
    process.send?.({ id, value: await operations[operation]?.(argument) });
  } catch (error) {
    const { code = '', message } = /** @type {{ code?: string, message: string }} */ (error);
    process.send?.({ id, error: { code, message } });
  }
});
process.on('disconnect', () => process.exit(0));

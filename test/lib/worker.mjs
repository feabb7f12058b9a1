// A node of a test cluster, in a process of its own that can be stopped and killed: one engine at a time, driven by its
// parent over IPC. Plain JavaScript on the built package, because it starts often and in slow virtual machines too.
import { readdirSync } from 'node:fs';
import { Engine } from '../../dist/index.js';
import { makeRecord } from './records.mjs';

/** @typedef {import('../../dist/index.js').EngineOptions} EngineOptions */
/** @typedef {import('./protocol.ts').WorkloadSettings} WorkloadSettings */
/** @typedef {import('./protocol.ts').WorkloadEnd} WorkloadEnd */
/** @typedef {import('./protocol.ts').Acknowledged} Acknowledged */

/** @type {Engine | undefined} */
let engine;
/** @type {{ stop: boolean, ended: Promise<WorkloadEnd> } | undefined} */
let workload;

/** @param {unknown} message */
function tell(message) {
  process.send?.(message);
}

function open() {
  if (engine === undefined) throw new Error('no engine is open in this worker');
  return engine;
}

/**
 * Appends records until told to stop, at most `pendingBytesMax` of them not yet committed. What is committed is told to
 * the parent, which thereby knows it even if this process dies at the next instruction.
 *
 * @param {Engine} on @param {WorkloadSettings} settings @param {{ stop: boolean }} control
 * @returns {Promise<WorkloadEnd>}
 */
async function run(on, settings, control) {
  const { writer, bytesMin, bytesMax, bytesPerSecond, pendingBytesMax } = settings;
  let number = 0;
  let pendingBytes = 0;
  let appendedBytes = 0;
  let code = '';
  let backPressures = 0;
  let slowestMs = 0;
  /** @type {Acknowledged[]} */
  let batch = [];
  const send = () => {
    if (batch.length > 0) tell({ acknowledged: batch });
    batch = [];
  };
  const started = performance.now();
  let outstanding = 0;
  while (!control.stop && code === '') {
    const due = ((performance.now() - started) / 1000) * bytesPerSecond;
    while (!control.stop && code === '' && appendedBytes < due && pendingBytes < pendingBytesMax) {
      const span = bytesMax - bytesMin + 1;
      const length = bytesMin + ((Math.imul(number + 1, 2654435761) >>> 0) % span);
      try {
        const lsn = on.append(makeRecord(writer, number, length));
        const mine = number++;
        const at = performance.now();
        appendedBytes += length;
        pendingBytes += length;
        outstanding++;
        on.committed(lsn).then(
          () => {
            outstanding--;
            pendingBytes -= length;
            slowestMs = Math.max(slowestMs, performance.now() - at);
            batch.push({ lsn, writer, number: mine, length });
            if (batch.length >= 256) send();
          },
          (error) => {
            outstanding--;
            pendingBytes -= length;
            code ||= error.code ?? String(error);
          },
        );
      } catch (error) {
        const failed = /** @type {{ code?: string }} */ (error);
        if (failed.code !== 'WALSHIP_ERR_BACKPRESSURE') {
          code = failed.code ?? String(error);
          break;
        }
        backPressures++;
        await Promise.race([on.writable(), new Promise((resolve) => setTimeout(resolve, 100))]);
      }
    }
    await new Promise((resolve) => setTimeout(resolve, 2));
    send();
  }
  // What is still on its way may commit or not; only what does is told.
  const patience = performance.now() + settings.drainMs;
  while (outstanding > 0 && performance.now() < patience)
    await new Promise((resolve) => setTimeout(resolve, 2));
  send();
  const seconds = (performance.now() - started) / 1000;
  return {
    appended: number,
    appendedBytes,
    unacknowledged: outstanding,
    code,
    backPressures,
    slowestMs,
    seconds,
  };
}

/** @type {Record<string, (argument: any) => unknown>} */
const operations = {
  /** @param {EngineOptions} options */
  async open(options) {
    engine = await Engine.open(options);
    engine.on('event', (event) => tell({ event: { ...event, atMs: Date.now() } }));
    return {
      port: engine.listenPort,
      recoveryNote: engine.recoveryNote,
      verbsProblem: engine.verbsProblem,
      positions: engine.positions,
    };
  },
  promote: (epoch) => open().promote(epoch),
  promise: (epoch) => open().promise(epoch),
  follow: (upstream) => open().follow(upstream),
  status: () => open().status(),
  positions: () => open().positions,
  setCommitRule: (rule) => open().setCommitRule(rule),
  chooseRails: (choice) => open().chooseRails(choice),
  applied: (lsn) => open().applied(lsn),
  forgetReader: (node) => open().forgetReader(node),
  append: ({ writer, number, length }) => open().append(makeRecord(writer, number, length)),
  committed: (lsn) => open().committed(lsn),
  /** @param {WorkloadSettings} settings */
  load(settings) {
    const control = { stop: false };
    workload = Object.assign(control, { ended: run(open(), settings, control) });
  },
  async endLoad() {
    if (workload === undefined) return undefined;
    workload.stop = true;
    const end = await workload.ended;
    workload = undefined;
    return end;
  },
  /** Reads the log through the engine and checks nothing but its length. */
  async read({ from, end }) {
    let bytes = 0;
    for await (const chunk of open().read(from, { end })) bytes += chunk.bytes.length;
    return bytes;
  },
  /** Blocks the event loop: the data plane must not care. */
  block(milliseconds) {
    const until = performance.now() + milliseconds;
    while (performance.now() < until);
  },
  resources() {
    globalThis.gc?.();
    return {
      fds: readdirSync('/proc/self/fd').length,
      threads: readdirSync('/proc/self/task').length,
      rssBytes: process.memoryUsage.rss(),
    };
  },
  async close() {
    const closing = engine;
    engine = undefined;
    await closing?.close();
  },
};

process.on('message', async (/** @type {{ id: number, operation: string, argument: unknown }} */ request) => {
  const { id, operation, argument } = request;
  try {
    tell({ id, value: await operations[operation]?.(argument) });
  } catch (error) {
    const { code = '', message } = /** @type {{ code?: string, message: string }} */ (error);
    tell({ id, error: { code, message } });
  }
});
process.on('disconnect', () => process.exit(0));
tell({ ready: true });

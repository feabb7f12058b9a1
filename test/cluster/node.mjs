// What a node shows to clients, in a process that can be killed and stopped: GET /cluster with its long poll, and POST
// /write, which does what the test has said, and first notes the write's id in a file. The parent sets its view over IPC.
import { appendFileSync } from 'node:fs';
import { createServer } from 'node:http';

/** @type {Record<string, unknown>} */
let view = {};
let version = 0;
/** @type {(() => void)[]} */
let waiting = [];
/** @type {string} */
let mode = 'ok';
let written = 0;

const server = createServer((request, response) => {
  const { pathname, searchParams } = new URL(request.url ?? '', 'http://node');
  if (pathname === '/write') return write(request, response);
  const answer = () =>
    response.end(mode === 'garbage' ? '{"version":1}' : JSON.stringify({ ...view, version: `v${version}` }));
  if (searchParams.get('after') !== `v${version}`) return answer();
  const timer = setTimeout(done, 10_000);
  function done() {
    clearTimeout(timer);
    waiting = waiting.filter((each) => each !== done);
    answer();
  }
  waiting.push(done);
});

/**
 * @param {import('node:http').IncomingMessage} request
 * @param {import('node:http').ServerResponse} response
 */
function write(request, response) {
  if (mode === 'refuse') {
    response.writeHead(409).end();
    return;
  }
  written++;
  const notes = process.argv[3];
  if (notes) appendFileSync(notes, `${request.url}\n`);
  if (mode === 'drop') request.socket.destroy();
  else if (mode !== 'hang') response.end(String(written));
}

process.on(
  'message',
  (
    /** @type {{ set?: Record<string, unknown>, quietly?: boolean, mode?: string, count?: boolean }} */ order,
  ) => {
    if (order.mode !== undefined) mode = order.mode;
    if (order.set) {
      view = { ...view, ...order.set };
      if (!order.quietly) {
        version++;
        for (const wake of waiting) wake();
      }
    }
    process.send?.({ written });
  },
);
server.listen(Number(process.argv[2]), '127.0.0.1', () => {
  process.send?.({ port: /** @type {import('node:net').AddressInfo} */ (server.address()).port });
});

// One host of a cluster: a node beside a PostgreSQL server, in a process of its own that is killed. On the built package.
// Its options come as JSON; what happens goes to the standard output, line by line.
import { openPostgres } from '../../../dist/index.js';

const [, , json = ''] = process.argv;
const node = await openPostgres(JSON.parse(json));
const say = (/** @type {string} */ text) =>
  console.log(`${performance.timeOrigin + performance.now()} ${text}`);
node.on('event', ({ type, code, message }) => say(`${type} ${code} ${message}`));
node.agent?.on('event', ({ event, message }) => say(`${event}: ${message}`));

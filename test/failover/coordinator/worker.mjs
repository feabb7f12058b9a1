// A process that swaps the record as fast as it can, until it has won often enough or is killed. It writes a line for each
// swap before the next one begins: what it wrote is known even if it dies then.
import { writeSync } from 'node:fs';
import { openCoordinator } from '../../../dist/failover/coordinator/settings.js';

/** @type {{ settings: import('../../../dist/failover/coordinator/settings.js').CoordinatorSettings, node: string, wins: number }} */
const { settings, node, wins } = JSON.parse(process.argv[2] ?? '');
const coordinator = await openCoordinator(settings, 'contract');
/** @param {(string | bigint | number)[]} words */
const tell = (...words) => writeSync(1, `${words.join(' ')}\n`);

let view = await coordinator.read();
for (let won = 0, renewal = 0; won < wins; renewal++) {
  const epoch = (view.primary?.epoch ?? 0n) + 1n;
  const next = { node, epoch, rule: /** @type {const} */ ({ level: 'async' }), leaseMs: 1000, renewal };
  tell('try', view.revision, epoch);
  try {
    const revision = await coordinator.swap(view.revision, next);
    if (revision === undefined) tell('lost', view.revision);
    else {
      tell('won', view.revision, revision, epoch);
      won++;
    }
  } catch (error) {
    tell('unknown', view.revision, String(error));
  }
  view = await coordinator.read();
}
await coordinator.close();

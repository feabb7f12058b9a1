// Runs fault schedules one after the other: node --import tsx test/simulation/run.ts [FIRST] [COUNT] [MUTATION]
// or hours without a fault: node --import tsx test/simulation/run.ts jitter [HOURS]
import { runJitter } from './jitter.js';
import { runSchedule } from './schedule.js';
import type { Mutation } from './world.js';

const [first = '1', count = '10000', mutation] = process.argv.slice(2);
if (first === 'jitter') {
  for (let hour = 1; hour <= Number(count); hour++) {
    const elections = runJitter(hour, 3_600_000, hour % 2 === 0 ? 1 : 4);
    console.log(`simulated hour ${hour}: ${elections.length} false take-overs`);
    if (elections.length > 0) process.exitCode = 1;
  }
  process.exit();
}
const mutations = new Set(mutation ? [mutation as Mutation] : []);
const single = Number(count) === 1;
const began = performance.now();
let failed = 0;
let acknowledged = 0;
let takeOvers = 0;
let simulatedMs = 0;
for (let seed = Number(first); seed < Number(first) + Number(count); seed++) {
  const outcome = runSchedule(seed, { mutations, ...(single && { trace: (line) => console.log(line) }) });
  acknowledged += outcome.acknowledged;
  takeOvers += outcome.takeOvers;
  simulatedMs += outcome.simulatedMs;
  if (outcome.problem === undefined) continue;
  failed += 1;
  console.log(`seed ${seed}: ${outcome.problem}\n  after: ${outcome.faults.join('; ')}`);
  if (failed >= 10) break;
}
const seconds = (performance.now() - began) / 1000;
console.log(
  `${count} schedules from seed ${first}, ${failed} failed; ${(simulatedMs / 3.6e6).toFixed(1)} simulated hours in ` +
    `${seconds.toFixed(1)} s; ${acknowledged} appends acknowledged, ${takeOvers} elections`,
);
process.exitCode = failed > 0 ? 1 : 0;

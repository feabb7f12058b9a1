import { parseArgs } from 'node:util';
import { appendBench } from './append.js';
import { cacheBench } from './cache.js';
import { cascadeBench } from './cascade.js';
import { commitBench } from './commit.js';
import { failoverBench } from './failover.js';
import type { Bench, BenchOptions } from './lib/bench.js';
import { inLab } from './lib/hosts.js';
import { postgresBench } from './postgres.js';
import { scrubBench } from './scrub.js';
import { shipBench } from './ship.js';
import { sqliteBench } from './sqlite.js';

const benches: readonly Bench[] = [
  shipBench,
  commitBench,
  cascadeBench,
  appendBench,
  cacheBench,
  sqliteBench,
  postgresBench,
  failoverBench,
  scrubBench,
];

const usage = `Usage: npm run bench -- NAME [OPTIONS]

${benches.map(({ name, summary }) => `  ${name.padEnd(10)} ${summary}`).join('\n')}

Options
  --json               the last line of the output is the result as one JSON object
  --transport T        tcp (default) or verbs; verbs needs RDMA devices:
                       scripts/softroce run --nodes 5 -- npx tsx bench/run.ts NAME --transport verbs
  --dir DIR            where the logs go; default: /dev/shm, and a folder under build/ where a disk is meant
  --seconds S          whole seconds of each measurement (default 1)
  --rounds N           how often each is made; medians are shown (default 5)
  --database postgres  failover: a PostgreSQL server beside each node, and writes through libpq
  --versus patroni     with --database: Patroni, too (Debian: patroni python3-etcd), up to four rounds of a minute each
  --quick              one round of one second: shows that the bench works, not how fast walship is

Every value is compared with a limit that is measured in the same run, turn by turn with it; ratio is value ÷ limit.`;

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      json: { type: 'boolean', default: false },
      transport: { type: 'string', default: 'tcp' },
      dir: { type: 'string' },
      seconds: { type: 'string' },
      rounds: { type: 'string' },
      database: { type: 'string' },
      versus: { type: 'string' },
      quick: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h', default: false },
    },
  });
  const [name, ...rest] = positionals;
  if (name === undefined || values.help) {
    console.log(usage);
    return;
  }
  const bench = benches.find((each) => each.name === name);
  if (!bench || rest.length > 0) throw new Error(`there is no bench '${[name, ...rest].join(' ')}'`);
  const { transport } = values;
  if (transport !== 'tcp' && transport !== 'verbs') {
    throw new Error(`--transport is tcp or verbs, not '${transport}'`);
  }
  if (transport === 'verbs' && !inLab) {
    throw new Error(
      '--transport verbs measures against perftest between the devices of the lab: run it in scripts/softroce',
    );
  }
  const { database, versus } = values;
  if (database !== undefined && (database !== 'postgres' || bench !== failoverBench))
    throw new Error(`--database is postgres, and of the bench failover alone, not '${database}'`);
  if (versus !== undefined && (versus !== 'patroni' || database === undefined))
    throw new Error(`--versus is patroni, with --database postgres, not '${versus}'`);
  const options: BenchOptions = {
    json: values.json,
    transport,
    dir: values.dir,
    seconds: wholeNumber('--seconds', values.seconds, 1),
    rounds: wholeNumber('--rounds', values.rounds, values.quick ? 1 : 5),
    quick: values.quick,
    database,
    versus,
  };
  const result = await bench.run(options);
  if (options.json) console.log(JSON.stringify(result));
}

function wholeNumber(option: string, text: string | undefined, otherwise: number): number {
  if (text === undefined) return otherwise;
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1 || value > 3600) {
    throw new Error(`${option} is a whole number from 1 to 3600, not '${text}'`);
  }
  return value;
}

// So that what is undone at exit is undone then, too.
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => process.exit(1));

try {
  await main();
} catch (error) {
  console.error(`bench: ${error instanceof Error ? error.message : error}`);
  console.error('`npm run bench` lists the benches and their options');
  process.exitCode = 1;
}

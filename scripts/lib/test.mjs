// The test runner behind scripts/test: stages, their time bounds, their counts and the table at the end.
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import {
  doctestCounts,
  doctestFailures,
  formatCounts,
  plainCounts,
  plainFailures,
  vitestCounts,
  vitestFailures,
} from './counts.mjs';
import { run } from './run.mjs';

/** @typedef {import('./counts.mjs').Counts} Counts */
/**
 * What a stage gives back: its counts, or null if there were none to be had; and notes for the table, such as why
 * something was skipped.
 * @typedef {{ counts: Counts | null, notes: string[] }} Outcome
 * @typedef {{ name: string, about: string, boundSeconds: number, body: (deadline: number) => Promise<Outcome> }} Stage
 */

const bin = 'node_modules/.bin/';
const fuzzSeconds = 5;

/** @type {Stage[]} */
const stages = [
  { name: 'lint', about: 'Biome; types of src, test, bench and scripts', boundSeconds: 300, body: lint },
  {
    name: 'native',
    about: 'native unit tests, optimized',
    boundSeconds: 900,
    body: (deadline) => nativeTests('release', 'build/native', deadline),
  },
  {
    name: 'asan',
    about: 'native unit tests under AddressSanitizer and UBSan',
    boundSeconds: 1200,
    body: (deadline) => nativeTests('asan', 'build/native-asan', deadline),
  },
  {
    name: 'tsan',
    about: 'native unit tests under ThreadSanitizer',
    boundSeconds: 1200,
    body: (deadline) => nativeTests('tsan', 'build/native-tsan', deadline),
  },
  { name: 'fuzz', about: `every fuzzer for ${fuzzSeconds} s`, boundSeconds: 900, body: fuzz },
  {
    name: 'vitest',
    about: 'tests of the package, in test/',
    boundSeconds: 1800,
    body: vitest,
  },
  {
    name: 'lab',
    about: 'the Soft-RoCE lab tests itself',
    boundSeconds: 900,
    body: lab,
  },
  {
    name: 'softroce',
    about: 'test/softroce, in virtual machines with rxe devices',
    boundSeconds: 1800,
    body: softroce,
  },
];

/** @param {number} deadline @returns {Promise<Outcome>} */
async function lint(deadline) {
  const counts = { passed: 0, failed: 0, skipped: 0 };
  const notes = [];
  for (const [tool, ...args] of [
    ['biome', 'check'],
    ['tsc', '-p', 'tsconfig.check.json'],
  ]) {
    const { code } = await run([`${bin}${tool}`, ...args], { deadline });
    if (code === 0) {
      counts.passed += 1;
    } else {
      counts.failed += 1;
      notes.push(`${tool} exited with ${code}`);
    }
  }
  return { counts, notes };
}

/** @param {string} variant @param {string} directory @param {number} deadline @returns {Promise<Outcome>} */
async function nativeTests(variant, directory, deadline) {
  const build = await run(['scripts/native', variant], { deadline });
  if (build.code !== 0) return { counts: null, notes: ['the build failed'] };
  const { code, output } = await run([`${directory}/walship-tests`], { deadline, env: sanitizerOptions });
  const settled = settle(doctestCounts(output), code);
  return { ...settled, notes: [...settled.notes, ...shortened(doctestFailures(output))] };
}

/**
 * What failed is told again beside the table: whoever sees the end of a long output alone need not look for it.
 *
 * @param {string[]} failures
 */
function shortened(failures) {
  return failures.flatMap((text) => text.slice(0, 1500).split('\n').slice(0, 15));
}

const sanitizerOptions = {
  ASAN_OPTIONS: 'detect_leaks=1:detect_stack_use_after_return=1:strict_string_checks=1',
  UBSAN_OPTIONS: 'print_stacktrace=1',
  TSAN_OPTIONS: 'halt_on_error=1:second_deadlock_stack=1',
};

/** @param {number} deadline @returns {Promise<Outcome>} */
async function fuzz(deadline) {
  const folder = 'native/test/fuzz';
  const names = existsSync(folder)
    ? readdirSync(folder).flatMap((file) => (file.endsWith('.cc') ? [file.slice(0, -3)] : []))
    : [];
  if (names.length === 0) return skip(`there are no fuzzers in ${folder}`);
  const build = await run(['scripts/native', 'asan'], { deadline });
  if (build.code !== 0) return { counts: null, notes: ['the build failed'] };
  const counts = { passed: 0, failed: 0, skipped: 0 };
  const notes = [];
  for (const name of names) {
    // What libFuzzer finds goes to build/; native/test/fuzz/corpus/NAME holds inputs worth keeping.
    const found = `build/native-asan/corpus/${name}`;
    const artifacts = `build/native-asan/artifacts/${name}/`;
    const kept = `${folder}/corpus/${name}`;
    mkdirSync(found, { recursive: true });
    mkdirSync(artifacts, { recursive: true });
    const { code, output } = await run(
      [
        `build/native-asan/fuzz-${name}`,
        `-max_total_time=${fuzzSeconds}`,
        '-timeout=10',
        '-rss_limit_mb=2048',
        '-print_final_stats=1',
        '-verbosity=0',
        `-artifact_prefix=${artifacts}`,
        found,
        ...(existsSync(kept) ? [kept] : []),
      ],
      { deadline, env: sanitizerOptions },
    );
    const executions = Number(output.match(/number_of_executed_units:\s*(\d+)/)?.[1] ?? 0);
    if (code === 0 && executions > 0) {
      counts.passed += 1;
      notes.push(`${name}: ${executions} executions`);
    } else {
      counts.failed += 1;
      notes.push(`${name}: exited with ${code}; the input is in ${artifacts}`);
    }
  }
  return { counts, notes };
}

/** @param {number} deadline @returns {Promise<Outcome>} */
async function vitest(deadline) {
  const report = '.cache/vitest.json';
  return vitestRun([`${bin}vitest`, 'run', ...vitestReport(report)], report, deadline);
}

/** @param {number} deadline @returns {Promise<Outcome>} */
async function lab(deadline) {
  const { code, output } = await run(['scripts/softroce', 'selftest'], { deadline });
  const lacks = labLacks(code, output);
  if (lacks !== null) return lacks;
  const settled = settle(plainCounts(output), code);
  return { ...settled, notes: [...settled.notes, ...shortened(plainFailures(output))] };
}

/** @param {number} deadline @returns {Promise<Outcome>} */
async function softroce(deadline) {
  const config = 'vitest.softroce.config.ts';
  if (!existsSync(config)) return skip(`there is no ${config}`);
  // All that a guest can write to is this folder; vitest's own way to load a configuration writes beside it.
  const results = resolve('.cache/softroce-results');
  rmSync(results, { recursive: true, force: true });
  mkdirSync(results, { recursive: true });
  const report = `${results}/vitest.json`;
  const seconds = Math.max(1, Math.floor((deadline - performance.now()) / 1000) - 60);
  const guest = ['--nodes', '6', '--timeout', String(seconds), '--write', results];
  const tests = [`${bin}vitest`, 'run', '--config', config, '--configLoader=runner', ...vitestReport(report)];
  return vitestRun(['scripts/softroce', 'run', ...guest, '--', ...tests], report, deadline);
}

/** @param {string} report */
function vitestReport(report) {
  return ['--reporter=default', '--reporter=json', `--outputFile.json=${report}`];
}

/** @param {string[]} command @param {string} report @param {number} deadline @returns {Promise<Outcome>} */
async function vitestRun(command, report, deadline) {
  rmSync(report, { force: true });
  const { code, output } = await run(command, { deadline });
  const json = existsSync(report) ? readFileSync(report, 'utf8') : '';
  const counts = vitestCounts(json);
  if (counts === null) return labLacks(code, output) ?? settle(null, code);
  const settled = settle(counts, code);
  return { ...settled, notes: [...settled.notes, ...shortened(vitestFailures(json))] };
}

/**
 * The lab's own exit code for a host that cannot have it (scripts/softroce --help).
 *
 * @param {number} code @param {string} output @returns {Outcome | null}
 */
function labLacks(code, output) {
  if (code !== 120) return null;
  return skip(output.match(/^softroce: .*$/m)?.[0] ?? 'softroce: set-up failed');
}

/** @param {string} reason @returns {Outcome} */
function skip(reason) {
  return { counts: { passed: 0, failed: 0, skipped: 1 }, notes: [`skipped: ${reason}`] };
}

/**
 * A program that counted no failure and yet exited with an error (a leak found at exit, a crash in a clean-up)
 * has failed once.
 *
 * @param {Counts | null} counts @param {number} code @returns {Outcome}
 */
function settle(counts, code) {
  if (counts === null || counts.passed + counts.failed + counts.skipped === 0) {
    return { counts: null, notes: [`exited with ${code} and counted no test`] };
  }
  if (code !== 0 && counts.failed === 0) {
    return { counts: { ...counts, failed: 1 }, notes: [`exited with ${code}`] };
  }
  return { counts, notes: [] };
}

function usage() {
  const list = stages.map(
    (stage) => `  ${stage.name.padEnd(10)}${stage.about} (at most ${stage.boundSeconds} s)`,
  );
  return `usage: scripts/test [--only STAGE[,STAGE…]] [--list] [--help]

Makes sure that the checkout is set up (scripts/setup), then runs every test of it, stage by stage:

${list.join('\n')}

  --only    runs the named stages, in the order above
  --list    prints the names of the stages
  --help    this text

The last line counts the tests: "N passed, N failed, N skipped". A stage that this host cannot run counts as one
skipped test, and the table says why. A stage that ends without counts, or runs out of time, counts as one failed test.
Exit code 0 when nothing failed, 1 when something did, 2 for a wrong option.
`;
}

/** @returns {Stage[]} */
function chosenStages() {
  /** @type {{ only?: string, list?: boolean, help?: boolean }} */
  let options;
  try {
    options = parseArgs({
      options: {
        only: { type: 'string' },
        list: { type: 'boolean' },
        help: { type: 'boolean', short: 'h' },
      },
    }).values;
  } catch (error) {
    return wrongOption(error instanceof Error ? error.message : String(error));
  }
  if (options.help === true) {
    process.stdout.write(usage());
    process.exit(0);
  }
  if (options.list === true) {
    process.stdout.write(`${stages.map((stage) => stage.name).join('\n')}\n`);
    process.exit(0);
  }
  if (options.only === undefined) return stages;
  const names = options.only.split(',');
  const unknown = names.filter((name) => !stages.some((stage) => stage.name === name));
  if (unknown.length > 0) return wrongOption(`no such stage: ${unknown.join(', ')}`);
  return stages.filter((stage) => names.includes(stage.name));
}

/** @param {string} message @returns {never} */
function wrongOption(message) {
  process.stderr.write(`scripts/test: ${message}\n\n${usage()}`);
  process.exit(2);
}

const rows = [];
const total = { passed: 0, failed: 0, skipped: 0 };
for (const stage of chosenStages()) {
  console.log(`\n=== ${stage.name}: ${stage.about}`);
  const start = performance.now();
  const deadline = start + stage.boundSeconds * 1000;
  let { counts, notes } = await stage.body(deadline);
  const end = performance.now();
  if (end >= deadline) {
    counts = null;
    notes = [...notes, `did not end within ${stage.boundSeconds} s`];
  }
  counts ??= { passed: 0, failed: 1, skipped: 0 };
  total.passed += counts.passed;
  total.failed += counts.failed;
  total.skipped += counts.skipped;
  rows.push({ name: stage.name, seconds: (end - start) / 1000, counts, notes });
}

console.log('\nstage       seconds  passed  failed  skipped');
for (const { name, seconds, counts, notes } of rows) {
  console.log(
    name.padEnd(10) +
      seconds.toFixed(1).padStart(9) +
      String(counts.passed).padStart(8) +
      String(counts.failed).padStart(8) +
      String(counts.skipped).padStart(9),
  );
  for (const note of notes) console.log(`            ${note}`);
}
console.log(`\n${formatCounts(total)}`);
process.exitCode = total.failed > 0 ? 1 : 0;

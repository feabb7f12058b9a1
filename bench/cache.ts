import { readdirSync } from 'node:fs';
import { modelTraces } from './cache/model.js';
import { type Outcome, type PolicyName, policyNames, simulate } from './cache/simulate.js';
import { footprint, readTrace, type Trace } from './cache/trace.js';
import { type BenchCase, type BenchResult, describeMachine } from './result.js';

const tracesUrl = new URL('./traces/', import.meta.url);
const sizeCount = 5;
const smallestSize = 32;
/** The policy as it is, and as it runs in production. */
const ours: readonly PolicyName[] = ['adaptive', 'sampled'];
/** The most a catch-up scan may cost live readers, in percent of their hits. */
const scanCostLimit = 0.5;

/** Misses of the cache policy on recorded and modelled traces, beside those of other policies. */
export const cacheBench = {
  name: 'cache',
  summary: 'miss ratios of the cache policy beside FIFO, LRU, SIEVE, S3-FIFO and ARC',

  async run(_options: { readonly json: boolean }): Promise<BenchResult> {
    const cases: BenchCase[] = [];
    const worst = new Map(ours.map((policy) => [policy, { ratio: 0, trace: '', slots: 0 }]));
    let dearest = { percent: 0, trace: '', slots: 0 };
    for (const trace of [...recordedTraces(), ...modelTraces()]) {
      printHead(trace);
      for (const slots of sizes(trace)) {
        const outcomes = new Map(policyNames.map((policy) => [policy, simulate(policy, slots, trace)]));
        const lru = outcomes.get('lru') as Outcome;
        for (const [policy, outcome] of outcomes) cases.push(missCase(trace, slots, policy, outcome, lru));
        for (const policy of ours) {
          const ratio = over(outcomes.get(policy) as Outcome, lru);
          if (ratio > (worst.get(policy)?.ratio ?? 0)) worst.set(policy, { ratio, trace: trace.name, slots });
        }
        const percent = scanCost(trace, slots, outcomes.get('adaptive') as Outcome);
        if (percent !== undefined && percent > dearest.percent)
          dearest = { percent, trace: trace.name, slots };
        printRow(slots, outcomes, percent);
      }
    }
    console.log('');
    for (const [policy, { ratio, trace, slots }] of worst) {
      cases.push({
        id: policy === 'adaptive' ? 'cache/worst-vs-lru' : `cache/worst-vs-lru/${policy}`,
        value: ratio,
        unit: 'misses / misses of LRU',
        limit: { name: 'lru', value: 1 },
        ratio,
        trace,
        slots,
      });
      console.log(`${policy}: at worst ${ratio.toFixed(3)} × the misses of LRU (${trace}, ${slots} pages)`);
    }
    cases.push({
      id: 'cache/scan-cost',
      value: dearest.percent,
      unit: '% of live hits',
      limit: { name: 'allowed', value: scanCostLimit },
      ratio: dearest.percent / scanCostLimit,
      trace: dearest.trace,
      slots: dearest.slots,
    });
    console.log(
      `catch-up scans cost live readers at most ${dearest.percent.toFixed(2)} % of their hits` +
        ` (${dearest.trace}, ${dearest.slots} pages; allowed ${scanCostLimit} %)`,
    );
    return { bench: 'cache', machine: describeMachine(), cases };
  },
};

function recordedTraces(): Trace[] {
  const suffix = '.trace.gz';
  return readdirSync(tracesUrl)
    .filter((file) => file.endsWith(suffix))
    .sort()
    .map((file) => readTrace(new URL(file, tracesUrl).pathname, file.slice(0, -suffix.length)));
}

/** Powers of two below half of what the trace touches, the largest ones. */
function sizes(trace: Trace): number[] {
  const largest = Math.floor(Math.log2(footprint(trace) / 2));
  return Array.from({ length: sizeCount }, (_, index) => 2 ** (largest - sizeCount + 1 + index)).filter(
    (slots) => slots >= smallestSize,
  );
}

/** Misses of one ÷ misses of the other; where the other has none, as if it had one: a ratio has to be a number. */
function over(one: Outcome, other: Outcome): number {
  return one.misses === other.misses ? 1 : one.misses / Math.max(1, other.misses);
}

function missCase(
  trace: Trace,
  slots: number,
  policy: PolicyName,
  outcome: Outcome,
  lru: Outcome,
): BenchCase {
  return {
    id: `cache/${trace.name}/${slots}/${policy}`,
    value: outcome.misses / outcome.reads,
    unit: 'misses / read',
    limit: { name: 'lru', value: lru.misses / lru.reads },
    ratio: over(outcome, lru),
    liveMisses: outcome.liveReads - outcome.liveHits,
  };
}

/**
 * How many of the hits that live readers have without catch-up they lose with it, in percent; undefined if the trace
 * has no such readers or the cache is too small for them anyway.
 */
function scanCost(trace: Trace, slots: number, outcome: Outcome): number | undefined {
  if (outcome.liveReads === 0 || !trace.accesses.some(({ kind }) => kind === 'c')) return undefined;
  const quiet = { name: trace.name, accesses: trace.accesses.filter(({ kind }) => kind !== 'c') };
  const { liveHits } = simulate('adaptive', slots, quiet);
  if (liveHits < outcome.liveReads * 0.99) return undefined;
  return (100 * (liveHits - outcome.liveHits)) / liveHits;
}

function printHead(trace: Trace): void {
  console.log(
    `\n${trace.name}: ${trace.accesses.length} accesses of ${footprint(trace)} pages; misses in % of reads`,
  );
  console.log(['pages', ...policyNames, 'scan cost'].map((word) => word.padStart(9)).join(' '));
}

function printRow(
  slots: number,
  outcomes: ReadonlyMap<PolicyName, Outcome>,
  scanCostPercent: number | undefined,
): void {
  const ratios = [...outcomes.values()].map(({ misses, reads }) => ((100 * misses) / reads).toFixed(2));
  const cost = scanCostPercent === undefined ? '–' : `${scanCostPercent.toFixed(2)} %`;
  console.log([String(slots), ...ratios, cost].map((word) => word.padStart(9)).join(' '));
}

// What people see of the demonstration with SQLite.
import type { AgentEvent, EngineEvent } from 'walship';
import { bytes, ms, Printer } from '../show.js';
import type { Sight } from './bank.js';

export class Teller extends Printer {
  /** Who ships to whom, as told last. */
  readonly #ships = new Set<string>();

  /** @param sight what a live query on node `name` has just found; undefined: there is nothing to query */
  progress(
    latenciesMs: Float64Array,
    seconds: number,
    name: string | undefined,
    sight: Sight | undefined,
  ): void {
    const rate = Math.round(latenciesMs.length / seconds);
    const live = sight
      ? `${name} shows ${sight.rows} rows, ${sight.ageMs.toFixed(1)} ms old`
      : 'no standby to query';
    this.line(
      `${String(rate).padStart(5)} transactions/s, commit p50 ${ms(latenciesMs, 0.5)}, p99 ${ms(latenciesMs, 0.99)}` +
        `; ${live}`,
    );
  }

  /** The events that tell the story; the others are for operators. */
  event(name: string, { type, node, code, message }: EngineEvent): void {
    const link = `${name} ${node}`;
    if (type === 'downstream-up') {
      if (!this.#ships.has(link)) this.line(`${name}: ships to ${node}`);
      this.#ships.add(link);
    } else if (type === 'downstream-down') {
      // While a new primary is made the standbys end their links, and take them up again in its epoch.
      if (code !== 'WALSHIP_ERR_EPOCH' && this.#ships.delete(link))
        this.line(`${name}: ${node} is gone (${code})`);
    } else if (type === 'rule-failing' || type === 'log-cut' || type === 'failed')
      this.line(`${name}: ${message}`);
  }

  decision(name: string, { message }: AgentEvent): void {
    this.line(`${name}: ${message}`);
  }
}

export interface Phase {
  readonly title: string;
  readonly transactions: number;
  readonly seconds: number;
  readonly walBytes: number;
  readonly latenciesMs: Float64Array;
  /** Without an acknowledgement. */
  readonly longestPauseMs: number;
  /** Live queries on the last standby. */
  readonly sights: readonly Sight[];
}

export const phaseColumns = [
  'phase',
  'transactions',
  'per second',
  'WAL',
  'commit p50',
  'commit p99',
  'longest pause',
  'live queries',
  'lag p50',
  'lag p99',
];

export function phaseRow(phase: Phase): string[] {
  const lagMs = Float64Array.from(phase.sights, ({ ageMs }) => ageMs).sort();
  return [
    phase.title,
    String(phase.transactions),
    String(Math.round(phase.transactions / phase.seconds)),
    bytes(phase.walBytes),
    ms(phase.latenciesMs, 0.5),
    ms(phase.latenciesMs, 0.99),
    `${phase.longestPauseMs.toFixed(0)} ms`,
    String(phase.sights.length),
    ms(lagMs, 0.5),
    ms(lagMs, 0.99),
  ];
}

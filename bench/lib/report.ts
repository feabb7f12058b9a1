import { type BenchCase, type BenchResult, describeMachine } from '../result.js';
import type { BenchOptions } from './bench.js';

/** A {@link BenchCase} but for its ratio. `remark` goes into the table, too; whatever else there is, into the JSON. */
export interface Entry {
  readonly id: string;
  readonly value: number;
  readonly unit: string;
  readonly limit: { readonly name: string; readonly value: number };
  readonly remark?: string;
  readonly [more: string]: unknown;
}

/** The cases of a bench as they come, each printed as a row at once. */
export class Report {
  readonly #bench: string;
  readonly #options: BenchOptions;
  readonly #cases: BenchCase[] = [];

  constructor(bench: string, options: BenchOptions) {
    this.#bench = bench;
    this.#options = options;
    console.log(
      `${bench} over ${options.transport}: medians of ${options.rounds} round(s) of ${options.seconds} s, limits in turn with values`,
    );
    console.log(
      ['case'.padEnd(36), 'value'.padStart(11), ''.padEnd(9), 'limit'.padStart(11), 'ratio'.padStart(7)].join(
        ' ',
      ),
    );
  }

  note(text: string): void {
    console.log(`  ${text}`);
  }

  add(one: Entry): BenchCase {
    const made = { ...one, ratio: one.value / one.limit.value };
    this.#cases.push(made);
    console.log(
      [
        one.id.padEnd(36),
        figure(one.value).padStart(11),
        one.unit.padEnd(9),
        figure(one.limit.value).padStart(11),
        made.ratio.toFixed(2).padStart(7),
        ` ${one.limit.name}${one.remark ? `; ${one.remark}` : ''}`,
      ].join(' '),
    );
    return made;
  }

  result(): BenchResult {
    return {
      bench: this.#bench,
      machine: {
        ...describeMachine(),
        transport: this.#options.transport,
        seconds: this.#options.seconds,
        rounds: this.#options.rounds,
        quick: this.#options.quick,
      },
      cases: this.#cases,
    };
  }
}

function figure(value: number): string {
  return value >= 1000 ? Math.round(value).toLocaleString('en') : value.toPrecision(3);
}

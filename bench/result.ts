import { arch, cpus, release, totalmem } from 'node:os';

/** One measured figure beside the limit it is judged by. */
export interface BenchCase {
  /** Stable name, parts separated by `/`, the bench first. */
  readonly id: string;
  readonly value: number;
  readonly unit: string;
  /** What the value is compared with, measured in the same run where it is a measure. */
  readonly limit: { readonly name: string; readonly value: number };
  /** value ÷ limit. */
  readonly ratio: number;
  readonly [more: string]: unknown;
}

/** What a bench returns, and prints as the last line with `--json`. */
export interface BenchResult {
  readonly bench: string;
  readonly machine: object;
  readonly cases: BenchCase[];
}

/** What the figures depend on beside the code. */
export function describeMachine(): object {
  const processors = cpus();
  return {
    cpu: processors[0]?.model ?? 'unknown',
    cores: processors.length,
    memoryBytes: totalmem(),
    kernel: release(),
    arch: arch(),
    node: process.version,
  };
}

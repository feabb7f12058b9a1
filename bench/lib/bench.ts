import type { BenchResult } from '../result.js';

export type Transport = 'tcp' | 'verbs';

export interface BenchOptions {
  readonly json: boolean;
  readonly transport: Transport;
  /** For logs that are to be on a disk; undefined: a folder under build/. */
  readonly dir: string | undefined;
  /** Of one measurement; each is made once per round. */
  readonly seconds: number;
  readonly rounds: number;
  /** Only shows that the bench works. */
  readonly quick: boolean;
  /** Of the bench `failover`: a server of this kind beside each node. */
  readonly database?: 'postgres' | undefined;
  /** With `database`: measured, too. */
  readonly versus?: 'patroni' | undefined;
}

export interface Bench {
  readonly name: string;
  readonly summary: string;
  run(options: BenchOptions): Promise<BenchResult>;
}

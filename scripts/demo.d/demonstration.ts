// What the conductor needs of a demonstration.

export interface DemoOptions {
  /** How long there is load. */
  readonly seconds: number;
  /** An empty directory to work in. */
  readonly base: string;
  /** Leave what was written there. */
  readonly keep: boolean;
}

export interface Demonstration {
  /** @returns the exit code */
  run(): Promise<number>;
  /** Ends every process that is left and removes what they wrote, as far as that is not wanted. */
  end(): void;
}

// A node's process, as the conductor sees it.
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import type { AgentEvent, EngineEvent } from 'walship';
import type { Answers, NodeOptions, Outcome, Place, Question, Report, Transaction } from './protocol.js';

export interface Listener {
  done(done: readonly Outcome[]): void;
  place(place: Place): void;
  event(event: EngineEvent): void;
  decision(event: AgentEvent): void;
  failed(error: Error): void;
}

const patienceMs = 30_000;

export class Child {
  readonly #name: string;
  readonly #process: ChildProcess;
  readonly #listener: Listener;
  readonly #waiting = new Map<number, (answer: unknown) => void>();
  #asked = 0;
  #started = false;
  #ending = false;

  constructor(name: string, listener: Listener) {
    this.#name = name;
    this.#listener = listener;
    // Positions are bigints, which JSON cannot carry.
    this.#process = fork(fileURLToPath(new URL('node.ts', import.meta.url)), { serialization: 'advanced' });
    this.#process.on('message', (report: Report) => this.#take(report));
    this.#process.on('exit', (code, signal) => {
      if (!this.#ending)
        listener.failed(new Error(`${name} ended by itself (${signal ?? `exit code ${code}`})`));
    });
  }

  get pid(): number | undefined {
    return this.#process.pid;
  }

  /** Started, and not killed or closed. */
  get up(): boolean {
    return this.#started && !this.#ending;
  }

  async start(options: NodeOptions): Promise<Answers['start']> {
    const started = await this.#ask<'start'>({ do: 'start', options });
    if (!started) throw new Error(`${this.#name} was killed before it had started`);
    this.#started = true;
    return started;
  }

  /** Undefined: it was killed before it answered. */
  status(): Promise<Answers['status'] | undefined> {
    return this.#ask<'status'>({ do: 'status' });
  }

  /** What a query of the node's database finds now; undefined while there is nothing to query. */
  async query(): Promise<Answers['query']> {
    return this.up ? this.#ask<'query'>({ do: 'query' }) : undefined;
  }

  switchover(to: string): Promise<Answers['switchover'] | undefined> {
    return this.#ask<'switchover'>({ do: 'switchover', to });
  }

  async pause(): Promise<void> {
    await this.#ask<'pause'>({ do: 'pause' });
  }

  execute(transactions: readonly Transaction[]): void {
    this.#tell({ do: 'transactions', transactions });
  }

  async close(): Promise<void> {
    this.#ending = true;
    const exit = once(this.#process, 'exit');
    this.#tell({ do: 'close' });
    const [code, signal] = await exit;
    if (code !== 0) throw new Error(`${this.#name} did not close well (${signal ?? `exit code ${code}`})`);
  }

  /** Without a word, as the kernel would when memory runs out. */
  async murder(): Promise<void> {
    const exit = once(this.#process, 'exit');
    this.kill();
    await exit;
  }

  kill(): void {
    this.#ending = true;
    this.#process.kill('SIGKILL');
    for (const give of this.#waiting.values()) give(undefined);
    this.#waiting.clear();
  }

  #tell(request: object): void {
    this.#process.send(request, () => {}); // its end is reported by its exit
  }

  #ask<What extends keyof Answers>(question: Question & { do: What }): Promise<Answers[What] | undefined> {
    return new Promise((resolve, reject) => {
      const late = () =>
        reject(new Error(`${this.#name} did not answer '${question.do}' within ${patienceMs / 1000} s`));
      const timer = setTimeout(late, patienceMs);
      const ask = this.#asked++;
      this.#waiting.set(ask, (answer) => {
        clearTimeout(timer);
        resolve(answer as Answers[What] | undefined);
      });
      this.#tell({ ask, question });
    });
  }

  #take(report: Report): void {
    if (this.#ending) return;
    if (report.is === 'answer') {
      this.#waiting.get(report.ask)?.(report.answer);
      this.#waiting.delete(report.ask);
    } else if (report.is === 'done') this.#listener.done(report.done);
    else if (report.is === 'place') this.#listener.place(report.place);
    else if (report.is === 'event') this.#listener.event(report.event);
    else if (report.is === 'decision') this.#listener.decision(report.event);
    else this.#listener.failed(new Error(`${this.#name}: ${report.message}`));
  }
}

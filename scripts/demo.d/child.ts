// A node's process, as the conductor sees it.
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import type { CommitRule, EngineEvent, EngineStatus } from 'walship';
import type { Sight } from './bank.js';
import type { NodeOptions, Report, Request } from './protocol.js';

export interface Listener {
  done(done: Extract<Report, { is: 'done' }>['done']): void;
  event(event: EngineEvent): void;
  failed(error: Error): void;
}

type Answer = Extract<Report, { is: 'started' | 'ruled' | 'status' | 'seen' }>;

const patienceMs = 30_000;

export class Child {
  readonly #name: string;
  readonly #process: ChildProcess;
  readonly #listener: Listener;
  readonly #waiting: ((answer: Answer | undefined) => void)[] = [];
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

  async start(options: NodeOptions): Promise<Extract<Report, { is: 'started' }>> {
    const started = (await this.#ask({ do: 'start', options })) as Extract<Report, { is: 'started' }>;
    this.#started = true;
    return started;
  }

  async rule(rule: CommitRule): Promise<void> {
    await this.#ask({ do: 'rule', rule });
  }

  async status(): Promise<EngineStatus> {
    return ((await this.#ask({ do: 'status' })) as Extract<Report, { is: 'status' }>).status;
  }

  /** What a query of the node's database finds now; undefined while there is no such node. */
  async query(): Promise<Sight | undefined> {
    if (!this.#started || this.#ending) return undefined;
    return ((await this.#ask({ do: 'query' })) as Extract<Report, { is: 'seen' }> | undefined)?.sight;
  }

  async close(): Promise<void> {
    this.#ending = true;
    const exit = once(this.#process, 'exit');
    this.tell({ do: 'close' });
    const [code, signal] = await exit;
    if (code !== 0) throw new Error(`${this.#name} did not close well (${signal ?? `exit code ${code}`})`);
  }

  tell(request: Request): void {
    this.#process.send(request, () => {}); // its end is reported by its exit
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
    for (const give of this.#waiting.splice(0)) give(undefined);
  }

  /** Undefined: it was killed before it answered. */
  #ask(request: Request): Promise<Answer | undefined> {
    return new Promise((resolve, reject) => {
      const late = () =>
        reject(new Error(`${this.#name} did not answer '${request.do}' within ${patienceMs / 1000} s`));
      const timer = setTimeout(late, patienceMs);
      this.#waiting.push((answer) => {
        clearTimeout(timer);
        resolve(answer);
      });
      this.tell(request);
    });
  }

  #take(report: Report): void {
    if (this.#ending) return;
    if (report.is === 'done') this.#listener.done(report.done);
    else if (report.is === 'event') this.#listener.event(report.event);
    else if (report.is === 'failed') this.#listener.failed(new Error(`${this.#name}: ${report.message}`));
    else this.#waiting.shift()?.(report);
  }
}

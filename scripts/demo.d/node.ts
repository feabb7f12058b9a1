// One node of the demonstration: a process of its own, told over IPC what to do.
import { mkdirSync, rmdirSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { openReplicated, type Replicated } from 'walship';
import { createBank, onlooker, type Sight, teller } from './bank.js';
import {
  clusterId,
  logOptions,
  type NodeOptions,
  type Report,
  type Request,
  type Transaction,
} from './protocol.js';

const report = (message: Report) => process.send?.(message);

class Node {
  readonly #replicated: Replicated;
  #commit: ((transaction: Transaction) => void) | undefined;
  #look: (() => Sight) | undefined;
  #done: { id: number; ms: number }[] = [];

  static async start({ name, dir, secret, upstream }: NodeOptions): Promise<Node> {
    mkdirSync(dir, { recursive: true });
    const path = join(dir, 'bank.db');
    if (upstream === undefined) createBank(path);
    const replicated = await openReplicated({
      path,
      dir: join(dir, 'log'),
      nodeId: name,
      cluster: { id: clusterId, secret },
      listen: '127.0.0.1:0',
      log: logOptions,
      ...(upstream !== undefined && { upstream: { address: upstream } }),
    });
    replicated.on('event', (event) => report({ is: 'event', event }));
    return new Node(replicated);
  }

  private constructor(replicated: Replicated) {
    this.#replicated = replicated;
  }

  answer(request: Exclude<Request, { do: 'start' }>): void {
    if (request.do === 'rule') {
      this.#replicated.engine.setCommitRule(request.rule);
      report({ is: 'ruled' });
    } else if (request.do === 'status') {
      report({ is: 'status', status: this.#replicated.engine.status() });
    } else if (request.do === 'query') {
      this.#look ??= onlooker(this.#replicated.db);
      report({ is: 'seen', sight: this.#look() });
    } else if (request.do === 'transactions') {
      for (const transaction of request.transactions) this.#execute(transaction);
    } else {
      void this.close().catch(fail);
    }
  }

  started(): void {
    const { listenPort: port, recoveryNote: note, verbsProblem } = this.#replicated.engine;
    report({ is: 'started', port, note, verbsProblem });
  }

  /** Commits in SQLite, and acknowledges when the commit rule holds; the next one does not wait for that. */
  #execute(transaction: Transaction): void {
    this.#commit ??= teller(this.#replicated.db);
    const from = performance.now();
    this.#commit(transaction);
    this.#replicated
      .committed()
      .then(() => this.#acknowledge(transaction.id, performance.now() - from), fail);
  }

  #acknowledge(id: number, ms: number): void {
    if (this.#done.length === 0) {
      setImmediate(() => {
        report({ is: 'done', done: this.#done });
        this.#done = [];
      });
    }
    this.#done.push({ id, ms });
  }

  async close(): Promise<void> {
    await this.#replicated.close();
    process.off('disconnect', orphaned);
    process.disconnect();
  }
}

function fail(error: unknown): void {
  report({ is: 'failed', message: error instanceof Error ? (error.stack ?? error.message) : String(error) });
}

let options: NodeOptions | undefined;
let node: Node | undefined;
process.on('message', (request: Request) => {
  if (request.do === 'start') {
    options = request.options;
    Node.start(request.options).then((started) => {
      node = started;
      node.started();
    }, fail);
    return;
  }
  try {
    node?.answer(request);
  } catch (error) {
    fail(error);
  }
});
// Ctrl-C reaches every process in the terminal; the conductor says when to end.
process.on('SIGINT', () => {});
process.on('disconnect', orphaned);

// Without the conductor there is nobody to end this process, or to tidy up behind it.
function orphaned(): void {
  if (options?.scratch === true) {
    rmSync(options.dir, { recursive: true, force: true });
    try {
      rmdirSync(dirname(options.dir));
    } catch {
      // Another node's directory is still in it; that node comes here too.
    }
  }
  process.exit();
}

// One node of the demonstration: a process of its own, told over IPC what to do.
import { mkdirSync, openSync, rmdirSync, rmSync, writeSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { Engine } from 'walship';
import { Bank, openEmptyDatabase } from './bank.js';
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
  readonly #options: NodeOptions;
  readonly #engine: Engine;
  readonly #bank: Bank | undefined;
  readonly #queue: Transaction[] = [];
  #working = false;
  #done: { id: number; ms: number }[] = [];

  static async start(options: NodeOptions): Promise<Node> {
    mkdirSync(options.dir, { recursive: true });
    const engine = await Engine.open({
      dir: join(options.dir, 'log'),
      nodeId: options.name,
      cluster: { id: clusterId, secret: options.secret },
      listen: '127.0.0.1:0',
      log: logOptions,
      applied: 'manual',
    });
    engine.on('event', (event) => report({ is: 'event', event }));
    const node = new Node(options, engine);
    if (options.upstream === undefined) await node.#reign();
    else await engine.follow({ address: options.upstream });
    return node;
  }

  private constructor(options: NodeOptions, engine: Engine) {
    this.#options = options;
    this.#engine = engine;
    if (options.upstream === undefined) this.#bank = new Bank(join(options.dir, 'bank.db'));
    else this.#apply().catch(fail);
  }

  /** The primary's first append: the schema and the accounts. */
  async #reign(): Promise<void> {
    await this.#engine.promote();
    await this.#engine.appendWhenWritable((this.#bank as Bank).takeWal());
  }

  answer(request: Exclude<Request, { do: 'start' }>): void {
    if (request.do === 'rule') {
      this.#engine.setCommitRule(request.rule);
      report({ is: 'ruled' });
    } else if (request.do === 'status') {
      report({ is: 'status', status: this.#engine.status() });
    } else if (request.do === 'transactions') {
      this.#queue.push(...request.transactions);
      if (!this.#working) void this.#work().catch(fail);
    } else {
      void this.close().catch(fail);
    }
  }

  started(): void {
    const { listenPort: port, recoveryNote: note, verbsProblem } = this.#engine;
    report({ is: 'started', port, note, verbsProblem });
  }

  /** Commits in SQLite one after the other, hands the WAL on, and does not wait for one before it begins the next. */
  async #work(): Promise<void> {
    this.#working = true;
    for (let next = this.#queue.shift(); next !== undefined; next = this.#queue.shift()) {
      const { id } = next;
      (this.#bank as Bank).commit(next);
      const wal = (this.#bank as Bank).takeWal();
      const from = performance.now();
      const lsn = await this.#engine.appendWhenWritable(wal);
      this.#engine.committed(lsn).then(() => this.#acknowledge(id, performance.now() - from), fail);
    }
    this.#working = false;
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

  /** A standby applies the log by writing it to the -wal file of its own copy of the database. */
  async #apply(): Promise<void> {
    const file = join(this.#options.dir, 'bank.db');
    rmSync(`${file}-wal`, { force: true });
    openEmptyDatabase(file).close();
    const wal = openSync(`${file}-wal`, 'w');
    for await (const { lsn, bytes } of this.#engine.read(0n)) {
      writeSync(wal, bytes, 0, bytes.length, Number(lsn));
      this.#engine.applied(lsn + BigInt(bytes.length));
    }
  }

  async close(): Promise<void> {
    await this.#engine.close();
    this.#bank?.close();
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
  if (request.do !== 'start') return node?.answer(request);
  options = request.options;
  Node.start(request.options).then((started) => {
    node = started;
    node.started();
  }, fail);
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

// One node of the demonstration: a process of its own, told over IPC what to do.
import { existsSync, mkdirSync, rmdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type Database from 'better-sqlite3';
import { openReplicated, type Replicated, WalshipError } from 'walship';
import { removeScratch } from '../scratch.js';
import { createBank, onlooker, type Sight, teller } from './bank.js';
import {
  type Answers,
  clusterId,
  commitRule,
  type Fate,
  logOptions,
  type NodeOptions,
  type Outcome,
  type Question,
  type Report,
  type Request,
  type Transaction,
} from './protocol.js';

type Agent = NonNullable<Replicated['agent']>;

// An error of it is no news: the channel closes with the conductor, which 'disconnect' tells.
const report = (message: Report) => process.send?.(message, undefined, undefined, () => {});

class Node {
  readonly #replicated: Replicated;
  readonly #agent: Agent;
  #commit: Prepared<(transaction: Transaction) => void> | undefined;
  #look: Prepared<() => Sight> | undefined;
  #done: Outcome[] = [];

  static async start({ name, dir, coordinator, secret, first }: NodeOptions): Promise<Node> {
    mkdirSync(dir, { recursive: true });
    const path = join(dir, 'bank.db');
    if (first && !existsSync(path)) createBank(path);
    const replicated = await openReplicated({
      path,
      dir: join(dir, 'log'),
      nodeId: name,
      cluster: { id: clusterId, secret },
      listen: '127.0.0.1:0',
      log: logOptions,
      commitRule,
      failover: {
        coordinator: { kind: 'embedded', path: coordinator },
        listen: '127.0.0.1:0',
        bootstrap: first,
        fanOut: 1, // a chain: every node ships to one other
      },
    });
    return new Node(replicated, replicated.agent as Agent);
  }

  private constructor(replicated: Replicated, agent: Agent) {
    this.#replicated = replicated;
    this.#agent = agent;
    replicated.on('event', (event) => report({ is: 'event', event }));
    agent.on('event', (event) => report({ is: 'decision', event }));
    agent.on('change', () => this.#tellPlace());
    this.#tellPlace();
  }

  async answer(question: Exclude<Question, { do: 'start' }>): Promise<Answers[keyof Answers]> {
    if (question.do === 'status') return this.#replicated.engine.status();
    if (question.do === 'switchover') return this.#switchover(question.to);
    if (question.do === 'pause') {
      await this.#agent.setPaused(true);
      return true;
    }
    return this.#query();
  }

  started(): Answers['start'] {
    const { listenPort: port, recoveryNote: note } = this.#replicated.engine;
    return { port, note, caveat: this.#agent.status().coordinator.caveat };
  }

  /** Commits in SQLite, and acknowledges when the commit rule holds; the next one does not wait for that. */
  execute(transaction: Transaction): void {
    const from = performance.now();
    const end = (fate: Fate) => this.#tell({ id: transaction.id, fate, ms: performance.now() - from });
    try {
      // A change of roles brings another database object.
      this.#commit = prepared(this.#commit, this.#replicated.db, teller);
      this.#commit.run(transaction);
    } catch (error) {
      if (!refusals.has((error as { code?: unknown }).code)) throw error;
      return end('refused');
    }
    this.#replicated.committed().then(
      () => end('acknowledged'),
      (error) => {
        if (error instanceof WalshipError && error.code === 'WALSHIP_ERR_NOT_PRIMARY') end('unknown');
        else fail(error);
      },
    );
  }

  #query(): Sight | undefined {
    try {
      this.#look = prepared(this.#look, this.#replicated.db, onlooker);
      return this.#look.run();
    } catch (error) {
      // It has nothing yet.
      if (error instanceof WalshipError && error.code === 'WALSHIP_ERR_SQLITE_EMPTY') return undefined;
      throw error;
    }
  }

  async #switchover(to: string): Promise<Answers['switchover']> {
    try {
      return { done: true, message: await this.#agent.switchover(to) };
    } catch (error) {
      if (error instanceof WalshipError && error.code === 'WALSHIP_ERR_FAILOVER')
        return { done: false, message: error.message };
      throw error;
    }
  }

  #tellPlace(): void {
    const { members, primary } = this.#agent.status();
    const self = members.find(({ node }) => node === this.#replicated.engine.nodeId);
    const leads = this.#agent.primary?.node === this.#replicated.engine.nodeId;
    report({
      is: 'place',
      place: {
        role: leads ? 'primary' : 'standby',
        epoch: primary?.epoch ?? 0n,
        ...(self?.upstream !== undefined && { upstream: self.upstream }),
      },
    });
  }

  #tell(outcome: Outcome): void {
    if (this.#done.length === 0) {
      setImmediate(() => {
        report({ is: 'done', done: this.#done });
        this.#done = [];
      });
    }
    this.#done.push(outcome);
  }

  async close(): Promise<void> {
    await this.#replicated.close();
    process.off('disconnect', orphaned);
    process.disconnect();
  }
}

/** Statements belong to the database object that they were prepared for. */
interface Prepared<Run> {
  readonly db: Database.Database;
  readonly run: Run;
}

function prepared<Run>(
  before: Prepared<Run> | undefined,
  db: Database.Database,
  prepare: (db: Database.Database) => Run,
): Prepared<Run> {
  return before?.db === db ? before : { db, run: prepare(db) };
}

/** It was not done, and never will be: this node does not write now. */
const refusals: ReadonlySet<unknown> = new Set([
  'WALSHIP_ERR_SQLITE_STANDBY',
  'WALSHIP_ERR_SQLITE_EMPTY',
  'WALSHIP_ERR_NOT_PRIMARY',
  'SQLITE_READONLY', // deposed in the middle of it
]);

function fail(error: unknown): void {
  report({ is: 'failed', message: error instanceof Error ? (error.stack ?? error.message) : String(error) });
}

let options: NodeOptions | undefined;
let node: Node | undefined;

async function answer(question: Question): Promise<Answers[keyof Answers]> {
  if (question.do === 'start') {
    options = question.options;
    node = await Node.start(options);
    return node.started();
  }
  if (!node) throw new Error(`'${question.do}' before 'start'`);
  return node.answer(question);
}

process.on('message', (request: Request) => {
  if ('ask' in request) {
    const { ask, question } = request;
    answer(question).then((given) => report({ is: 'answer', ask, answer: given }), fail);
  } else if (request.do === 'close') {
    node?.close().catch(fail);
  } else {
    try {
      for (const transaction of request.transactions) node?.execute(transaction);
    } catch (error) {
      fail(error);
    }
  }
});
// Ctrl-C reaches every process in the terminal; the conductor says when to end.
process.on('SIGINT', () => {});
process.on('disconnect', orphaned);

// Without the conductor there is nobody to end this process, or to tidy up behind it.
function orphaned(): void {
  if (options?.scratch === true) {
    // The log's threads still write in the one, other nodes in the other.
    for (const path of [options.dir, options.coordinator]) removeScratch(path);
    try {
      rmdirSync(dirname(options.dir));
    } catch {
      // Another node's directory is still in it; that node comes here too.
    }
  }
  process.exit();
}

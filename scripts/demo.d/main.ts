// The conductor of the demonstration: starts the nodes, is their clients, kills one, and checks the outcome.
import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { type CommitRule, capabilities, type EngineStatus } from 'walship';
import type { Sight } from './bank.js';
import { Child } from './child.js';
import { Clients } from './clients.js';
import { compareDatabases, compareSegments, differences } from './proof.js';
import { Printer, phaseRow, table } from './show.js';

const names = ['primary', 'standby-1', 'standby-2'] as const;
const last = 'standby-2';

function wrongOption(message: string): never {
  process.stderr.write(`scripts/demo: ${message}\nTry scripts/demo --help.\n`);
  process.exit(2);
}

function options(): { seconds: number; base: string; keep: boolean } {
  let values: { seconds?: string; keep?: string };
  try {
    values = parseArgs({ options: { seconds: { type: 'string' }, keep: { type: 'string' } } }).values;
  } catch (error) {
    return wrongOption((error as Error).message);
  }
  const seconds = Number(values.seconds ?? 14);
  if (!(seconds >= 4 && seconds <= 3600)) wrongOption('--seconds takes a number from 4 to 3600');
  if (values.keep === undefined) {
    return { seconds, base: mkdtempSync(join(tmpdir(), 'walship-demo-')), keep: false };
  }
  const base = resolve(values.keep);
  if (existsSync(base) && readdirSync(base).length > 0) wrongOption(`--keep: ${base} is not empty`);
  mkdirSync(base, { recursive: true });
  return { seconds, base, keep: true };
}

const pass = (seconds: number) => new Promise((wake) => setTimeout(wake, seconds * 1000));

class Demo {
  readonly #seconds: number;
  readonly #base: string;
  readonly #keep: boolean;
  readonly #secret = randomBytes(32).toString('hex');
  readonly #children = new Map<string, Child>();
  readonly #print = new Printer();
  readonly #rows: string[][] = [];
  readonly #clients = new Clients((transactions) => this.#primary.tell({ do: 'transactions', transactions }));

  constructor({ seconds, base, keep }: ReturnType<typeof options>) {
    this.#seconds = seconds;
    this.#base = base;
    this.#keep = keep;
  }

  /** @returns the exit code */
  async run(): Promise<number> {
    const failed = new Promise<never>((_, reject) => {
      this.#failed = reject;
    });
    try {
      return await Promise.race([this.#play(), failed]);
    } finally {
      this.end();
    }
  }

  /** Ends every process that is left and removes what they wrote. */
  end(): void {
    for (const child of this.#children.values()) child.kill();
    if (!this.#keep) rmSync(this.#base, { recursive: true, force: true, maxRetries: 5 });
  }

  #failed: (error: Error) => void = () => {};

  get #primary(): Child {
    return this.#children.get('primary') as Child;
  }

  async #play(): Promise<number> {
    await this.#startAll();
    const share = (percent: number) => (this.#seconds * percent) / 100;
    for (const level of ['received', 'flushed', 'applied'] as const) {
      await this.#load(`${level} by both standbys`, { level, any: 2 }, () => pass(share(20)));
    }
    const title = `flushed by one; ${last} killed, back`;
    await this.#load(title, { level: 'flushed', any: 1 }, async () => {
      await pass(share(10));
      await this.#killLast();
      await pass(share(15));
      await this.#reviveLast();
      await pass(share(15));
    });
    await this.#caughtUp();
    for (const name of names) await (this.#children.get(name) as Child).close();
    return this.#prove();
  }

  #fork(name: string): void {
    const child = new Child(name, {
      done: (done) => this.#clients.take(done),
      event: (event) => this.#print.event(name, event),
      failed: (error) => this.#failed(error),
    });
    this.#children.set(name, child);
  }

  async #start(name: string, upstream?: string): Promise<string> {
    const child = this.#children.get(name) as Child;
    const started = await child.start({
      name,
      dir: join(this.#base, name),
      secret: this.#secret,
      scratch: !this.#keep,
      ...(upstream !== undefined && { upstream }),
    });
    const from = upstream === undefined ? '' : `, follows ${upstream}`;
    this.#print.line(`${name}: process ${child.pid}, listens on 127.0.0.1:${started.port}${from}`);
    if (started.note !== '') this.#print.line(`${name}: ${started.note}`);
    return `127.0.0.1:${started.port}`;
  }

  #upstreamOfLast = '';

  async #startAll(): Promise<void> {
    this.#print.line(`primary → standby-1 → ${last}, in ${this.#base}`);
    for (const name of names) this.#fork(name);
    const primary = await this.#start('primary');
    this.#upstreamOfLast = await this.#start('standby-1', primary);
    await this.#start(last, this.#upstreamOfLast);
    const status = await this.#caughtUp();
    const rail = status.nodes[0]?.rail;
    if (rail?.transport === 'verbs') {
      this.#print.line(`the WAL travels over RDMA: ${rail.device}, ${rail.local} → ${rail.remote}`);
    } else {
      const { state, detail } = capabilities().verbs;
      this.#print.line(`the WAL travels over TCP, because RDMA cannot be used here: ${detail || state}`);
    }
  }

  /** Load under a commit rule while `script` runs: one row of the table. */
  async #load(title: string, rule: CommitRule, script: () => Promise<unknown>): Promise<void> {
    await this.#primary.rule(rule);
    this.#print.heading(`a transaction is done when it is ${title}`);
    const before = await this.#primary.status();
    const transactions = this.#clients.acknowledged;
    const from = performance.now();
    const latenciesMs: number[] = [];
    const sights: Sight[] = [];
    let printedAt = from;
    let loaded = true;
    const watch = async () => {
      for (; loaded; await pass(0.02)) {
        const sight = await (this.#children.get(last) as Child).query();
        const now = performance.now();
        // What was committed before this load began says nothing of how far behind it is.
        if (sight !== undefined && sight.ageMs < now - from) sights.push(sight);
        if (now < printedAt + 1000) continue;
        const latest = this.#clients.takeLatencies();
        latenciesMs.push(...latest);
        this.#print.progress(latest, (now - printedAt) / 1000, last, sight);
        printedAt = now;
      }
    };
    this.#clients.run();
    const watching = watch();
    await Promise.all([
      script()
        .then(() => this.#clients.pause())
        .finally(() => {
          loaded = false;
        }),
      watching,
    ]);
    latenciesMs.push(...this.#clients.takeLatencies());
    const after = await this.#primary.status();
    this.#rows.push(
      phaseRow({
        title,
        transactions: this.#clients.acknowledged - transactions,
        seconds: (performance.now() - from) / 1000,
        walBytes: Number(after.positions.received - before.positions.received),
        latenciesMs: Float64Array.from(latenciesMs).sort(),
        sights,
      }),
    );
  }

  async #killLast(): Promise<void> {
    const child = this.#children.get(last) as Child;
    await child.murder();
    this.#print.line(
      `${last}: process ${child.pid} killed (SIGKILL), ${this.#clients.underWay} transactions under way`,
    );
  }

  async #reviveLast(): Promise<void> {
    const missed = (await this.#primary.status()).positions.flushed;
    const from = performance.now();
    const acknowledged = this.#clients.acknowledged;
    this.#fork(last);
    await this.#start(last, this.#upstreamOfLast);
    await this.#untilStatus((each) =>
      each.nodes.some(({ node, applied }) => node === last && applied >= missed),
    );
    const seconds = ((performance.now() - from) / 1000).toFixed(1);
    this.#print.line(
      `${last}: back, and has all it missed after ${seconds} s; ` +
        `${this.#clients.acknowledged - acknowledged} transactions were done meanwhile`,
    );
  }

  async #caughtUp(): Promise<EngineStatus> {
    const end = (await this.#primary.status()).positions.received;
    return this.#untilStatus(
      (each) => each.nodes.length === 2 && each.nodes.every(({ applied }) => applied >= end),
    );
  }

  async #untilStatus(good: (status: EngineStatus) => boolean): Promise<EngineStatus> {
    const patienceSeconds = 30;
    for (const until = performance.now() + patienceSeconds * 1000; performance.now() < until; ) {
      const status = await this.#primary.status();
      if (good(status)) return status;
      await pass(0.02);
    }
    throw new Error(`the standbys did not get where they should within ${patienceSeconds} s`);
  }

  async #prove(): Promise<number> {
    this.#print.heading(`the proof: ${last}'s own database file, read with stock SQLite`);
    const files = names.map((name) => join(this.#base, name, 'bank.db'));
    const wrong = differences(join(this.#base, last, 'bank.db'), this.#clients.ledger);
    const { transfers, notes, balances } = this.#clients.ledger;
    const databases = compareDatabases(files);
    if (databases.different.length > 0) wrong.push(`not as the primary's: ${databases.different.join(', ')}`);
    const segments = compareSegments(names.map((name) => join(this.#base, name, 'log')));
    if (segments.different.length > 0) wrong.push(`segment files differ: ${segments.different.join(', ')}`);
    for (const problem of wrong.slice(0, 20)) this.#print.line(`WRONG: ${problem}`);
    if (wrong.length === 0) {
      this.#print.line('SQLite: integrity_check ok');
      this.#print.line(
        `${transfers.size} transfers, ${notes.size} notes and ${balances.length} balances: every row as acknowledged`,
      );
      this.#print.line(`the database, ${databases.bytes} bytes: the same on all three nodes, byte for byte`);
      this.#print.line(`${segments.count} segment files: the same on all three nodes, byte for byte`);
    }
    process.stdout.write(`\n${table(this.#rows)}\n`);
    const verdict = wrong.length === 0 ? 'nothing is missing' : `${wrong.length} differences`;
    process.stdout.write(`\n${this.#clients.acknowledged} transactions acknowledged, ${verdict}.\n`);
    if (this.#keep) process.stdout.write(`Logs and databases are in ${this.#base}.\n`);
    return wrong.length === 0 ? 0 : 1;
  }
}

const demo = new Demo(options());
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => {
    demo.end();
    process.stderr.write('\nscripts/demo: interrupted\n');
    process.exit(130);
  });
}
try {
  process.exitCode = await demo.run();
} catch (error) {
  process.stderr.write(`scripts/demo: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}

// What is shown: starts the nodes, is their clients, kills two of them, hands over, and checks the outcome.
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { capabilities, type EngineStatus } from 'walship';
import type { Demonstration, DemoOptions } from '../demonstration.js';
import { removeScratch } from '../scratch.js';
import { table } from '../show.js';
import type { Sight } from './bank.js';
import { Child } from './child.js';
import { Clients } from './clients.js';
import { compareDatabases, compareSegments, examine } from './proof.js';
import type { Place } from './protocol.js';
import { phaseColumns, phaseRow, Teller } from './telling.js';

const names = ['node-1', 'node-2', 'node-3'] as const;
const first = names[0];
const patienceSeconds = 30;

const pass = (seconds: number) => new Promise((wake) => setTimeout(wake, seconds * 1000));

export class SqliteDemo implements Demonstration {
  readonly #seconds: number;
  readonly #base: string;
  readonly #keep: boolean;
  readonly #secret = randomBytes(32).toString('hex');
  readonly #children = new Map<string, Child>();
  readonly #places = new Map<string, Place>();
  readonly #print = new Teller();
  readonly #rows: string[][] = [];
  readonly #clients = new Clients((transactions) => {
    const primary = this.#primary;
    if (primary !== undefined) this.#child(primary).execute(transactions);
    return primary !== undefined;
  });
  #loaded = false;
  #closing = false;
  /** Started, and not yet where the others are. */
  readonly #arriving = new Set<string>();
  /** Nodes that had something which the others had not. */
  readonly #setAside = new Set<string>();

  constructor({ seconds, base, keep }: DemoOptions) {
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
    if (!this.#keep) removeScratch(this.#base);
  }

  #failed: (error: Error) => void = () => {};

  #child(name: string): Child {
    return this.#children.get(name) as Child;
  }

  /** The node that its controller has made primary; undefined while there is none. */
  get #primary(): string | undefined {
    let newest: { name: string; epoch: bigint } | undefined;
    for (const [name, { role, epoch }] of this.#places)
      if (role === 'primary' && (newest === undefined || epoch > newest.epoch)) newest = { name, epoch };
    return newest?.name;
  }

  /** The nodes from the primary on, each with the one that it ships to behind it. */
  get #chain(): string[] {
    const chain: string[] = [];
    for (let next = this.#primary; next !== undefined && !chain.includes(next); ) {
      const upstream = next;
      chain.push(upstream);
      next = names.find(
        (name) => this.#children.get(name)?.up === true && this.#places.get(name)?.upstream === upstream,
      );
    }
    return chain;
  }

  /** The end of the chain; undefined while nobody follows. */
  get #last(): string | undefined {
    return this.#chain
      .slice(1)
      .filter((name) => !this.#arriving.has(name))
      .at(-1);
  }

  async #play(): Promise<number> {
    await this.#startAll();
    const share = (percent: number) => (this.#seconds * percent) / 100;
    await this.#load('all three nodes are up', () => pass(share(20)));
    await this.#load('the last standby is killed and comes back', async () => {
      await pass(share(6));
      const victim = await this.#until('a last standby', () => this.#last);
      await this.#kill(victim);
      await pass(share(9));
      await this.#revive(victim);
      await pass(share(9));
    });
    await this.#load('the primary is killed and comes back', async () => {
      await pass(share(8));
      const victim = await this.#killPrimary();
      await pass(share(10));
      await this.#revive(victim);
      this.#sayWhatWasSetAside(victim);
      await pass(share(12));
    });
    await this.#load('the primary hands over, as planned', async () => {
      await pass(share(8));
      await this.#switchover();
      await pass(share(18));
    });
    await this.#caughtUp();
    // The primary last, when nobody is left to hand over to: a new epoch would be in some logs only.
    this.#closing = true;
    const chain = this.#chain;
    await this.#child(chain[0] as string).pause();
    for (const name of [...names].sort((x, y) => chain.indexOf(y) - chain.indexOf(x)))
      await this.#child(name).close();
    return this.#prove();
  }

  async #start(name: string): Promise<void> {
    const child = new Child(name, {
      done: (done) => this.#clients.take(done),
      place: (place) => {
        this.#places.set(name, place);
        this.#clients.resume();
      },
      event: (event) => {
        if (event.type === 'log-cut') this.#setAside.add(name);
        // Before there is load nobody waits for a commit.
        if (!this.#closing && (this.#loaded || event.type !== 'rule-failing')) this.#print.event(name, event);
      },
      decision: (event) => {
        // Whoever has just been started waits until it knows the others, and for standbys.
        const settling = event.event === 'waiting' && (!this.#loaded || this.#arriving.has(name));
        if (!this.#closing && !settling) this.#print.decision(name, event);
      },
      failed: (error) => this.#failed(error),
    });
    this.#children.set(name, child);
    this.#arriving.add(name);
    const { port, note, caveat } = await child.start({
      name,
      dir: join(this.#base, name),
      coordinator: join(this.#base, 'coordinator'),
      secret: this.#secret,
      first: name === first,
      scratch: !this.#keep,
    });
    if (caveat !== '' && this.#children.size === 1) this.#print.line(`note: ${caveat}`);
    this.#print.line(`${name}: process ${child.pid}, listens on 127.0.0.1:${port}`);
    if (note !== '') this.#print.line(`${name}: ${note}`);
  }

  async #startAll(): Promise<void> {
    this.#print.line(`three nodes, in ${this.#base}; who of them is primary they decide themselves`);
    for (const name of names) {
      await this.#start(name);
      await this.#until(`a place for ${name}`, () => this.#chain.includes(name));
      this.#arriving.delete(name);
    }
    this.#print.line(`the chain: ${this.#chain.join(' → ')}`);
    const rail = (await this.#caughtUp()).nodes[0]?.rail;
    if (rail?.transport === 'verbs') {
      this.#print.line(`the WAL travels over RDMA: ${rail.device}, ${rail.local} → ${rail.remote}`);
    } else {
      const { state, detail } = capabilities().verbs;
      this.#print.line(`the WAL travels over TCP, because RDMA cannot be used here: ${detail || state}`);
    }
    this.#print.line('a transaction is done when it is on the disk of the primary and of one standby');
  }

  /** Load while `script` runs: one row of the table. */
  async #load(title: string, script: () => Promise<unknown>): Promise<void> {
    this.#print.heading(title);
    const before = await this.#primaryStatus();
    const transactions = this.#clients.acknowledged;
    const from = performance.now();
    const latenciesMs: number[] = [];
    const sights: Sight[] = [];
    let printedAt = from;
    let loaded = true;
    const watch = async () => {
      for (; loaded; await pass(0.02)) {
        const last = this.#last;
        const sight = last === undefined ? undefined : await this.#child(last).query();
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
    this.#loaded = true;
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
    const after = await this.#primaryStatus();
    this.#rows.push(
      phaseRow({
        title,
        transactions: this.#clients.acknowledged - transactions,
        seconds: (performance.now() - from) / 1000,
        walBytes: Number(after.positions.received - before.positions.received),
        latenciesMs: Float64Array.from(latenciesMs).sort(),
        longestPauseMs: this.#clients.longestPauseMs,
        sights,
      }),
    );
  }

  async #kill(name: string): Promise<void> {
    const child = this.#child(name);
    this.#places.delete(name);
    await child.murder();
    this.#print.line(`${name}: process ${child.pid} killed (SIGKILL)`);
  }

  /** @returns its name */
  async #killPrimary(): Promise<string> {
    const victim = await this.#until('a primary', () => this.#primary);
    const from = performance.now();
    const killed = this.#kill(victim);
    const lost = this.#clients.abandon();
    const acknowledged = this.#clients.nextAcknowledged();
    await killed;
    this.#print.line(
      `${victim} was the primary: ${lost} transactions were under way, and nobody can tell their clients whether they are done`,
    );
    await acknowledged;
    const ms = (performance.now() - from).toFixed(0);
    const successor = await this.#until('a primary', () => this.#primary);
    this.#print.line(
      `${successor} has taken over, in epoch ${this.#places.get(successor)?.epoch}: ` +
        `${ms} ms from the kill to the first transaction that is done again`,
    );
    return victim;
  }

  /** The old primary may have written what no standby had got. */
  #sayWhatWasSetAside(name: string): void {
    this.#print.line(
      this.#setAside.has(name)
        ? `${name}: what it had written and nobody else had got is taken back, and kept in a file`
        : `${name}: it had written nothing that the others had not got`,
    );
  }

  async #revive(name: string): Promise<void> {
    const missed = (await this.#primaryStatus()).positions.flushed;
    const from = performance.now();
    const acknowledged = this.#clients.acknowledged;
    this.#setAside.delete(name);
    await this.#start(name);
    await this.#untilStatus((each) =>
      each.nodes.some(({ node, applied }) => node === name && applied >= missed),
    );
    this.#arriving.delete(name);
    const seconds = ((performance.now() - from) / 1000).toFixed(1);
    this.#print.line(
      `${name}: back as a standby, and has all it missed after ${seconds} s; ` +
        `${this.#clients.acknowledged - acknowledged} transactions were done meanwhile`,
    );
    this.#print.line(`the chain: ${this.#chain.join(' → ')}`);
  }

  /** To the node that was primary at first, as a rule. */
  async #switchover(): Promise<void> {
    const from = await this.#until('a primary', () => this.#primary);
    const to = from === first ? await this.#until('a standby', () => this.#chain[1]) : first;
    const { size } = this.#clients.ledger.unknown;
    const longestPauseMs = this.#clients.watchPauses();
    for (let attempt = 1; ; attempt++) {
      const answer = await this.#child(from).switchover(to);
      this.#print.line(`${from}: ${answer?.message}`);
      if (answer?.done) break;
      // Nothing has changed then.
      if (attempt === 5) throw new Error(`${from} could not hand over to ${to}`);
      await pass(0.5);
    }
    await this.#until(`${to} as primary`, () => this.#primary === to);
    await this.#clients.nextAcknowledged();
    this.#print.line(
      `${to} has the primary's role, in epoch ${this.#places.get(to)?.epoch}: ` +
        `for ${longestPauseMs().toFixed(0)} ms no transaction was done, ` +
        `and ${this.#clients.ledger.unknown.size - size} clients were left in doubt`,
    );
    this.#print.line(`the chain: ${this.#chain.join(' → ')}`);
  }

  async #caughtUp(): Promise<EngineStatus> {
    const end = (await this.#primaryStatus()).positions.received;
    return this.#untilStatus(
      (each) => each.nodes.length === 2 && each.nodes.every(({ applied }) => applied >= end),
    );
  }

  async #primaryStatus(): Promise<EngineStatus> {
    const name = await this.#until('a primary', () => this.#primary);
    const status = await this.#child(name).status();
    if (!status) throw new Error(`${name} was killed while it was asked`);
    return status;
  }

  async #untilStatus(good: (status: EngineStatus) => boolean): Promise<EngineStatus> {
    let status = await this.#primaryStatus();
    for (const until = performance.now() + patienceSeconds * 1000; !good(status); ) {
      if (performance.now() > until)
        throw new Error(`the standbys did not get where they should within ${patienceSeconds} s`);
      await pass(0.02);
      status = await this.#primaryStatus();
    }
    return status;
  }

  async #until<T>(what: string, look: () => T | undefined | false): Promise<T> {
    for (
      const until = performance.now() + patienceSeconds * 1000;
      performance.now() < until;
      await pass(0.005)
    ) {
      const seen = look();
      if (seen !== undefined && seen !== false) return seen as T;
    }
    throw new Error(`there was not ${what} within ${patienceSeconds} s`);
  }

  async #prove(): Promise<number> {
    this.#print.heading("the proof: every node's own database file, read with stock SQLite");
    const files = names.map((name) => join(this.#base, name, 'bank.db'));
    const { ledger } = this.#clients;
    const wrong: string[] = [];
    const there = new Set<number>();
    names.forEach((name, index) => {
      const found = examine(files[index] as string, ledger);
      wrong.push(...found.wrong.map((each) => `${name}: ${each}`));
      there.add(found.unknownThere);
    });
    const databases = compareDatabases(files);
    if (databases.different.length > 0) wrong.push(`not as ${first}'s: ${databases.different.join(', ')}`);
    const segments = compareSegments(names.map((name) => join(this.#base, name, 'log')));
    if (segments.different.length > 0) wrong.push(`segment files differ: ${segments.different.join(', ')}`);
    for (const problem of wrong.slice(0, 20)) this.#print.line(`WRONG: ${problem}`);
    const { transfers, notes, balances, unknown } = ledger;
    if (wrong.length === 0) {
      this.#print.line('SQLite on all three nodes: integrity_check ok');
      this.#print.line(
        `${transfers.size} transfers and ${notes.size} notes: every row there, as acknowledged, once`,
      );
      const done = [...there].join(' or ');
      this.#print.line(
        `${done} of the ${unknown.size} transactions whose outcome their clients never learned are there, too, once`,
      );
      this.#print.line(`${balances.length} balances: exactly what the transfers that are there make them`);
      this.#print.line(`the database, ${databases.bytes} bytes: the same on all three nodes, byte for byte`);
      this.#print.line(`${segments.count} segment files: the same on all three nodes, byte for byte`);
    }
    process.stdout.write(`\n${table(phaseColumns, this.#rows)}\n`);
    const verdict =
      wrong.length === 0 ? 'nothing is missing, nothing is doubled' : `${wrong.length} differences`;
    process.stdout.write(`\n${this.#clients.acknowledged} transactions acknowledged, ${verdict}.\n`);
    if (this.#keep) process.stdout.write(`Logs and databases are in ${this.#base}.\n`);
    return wrong.length === 0 ? 0 : 1;
  }
}

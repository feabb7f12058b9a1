// Random workloads on a primary and a standby, each in a process of its own: every state that a reader of the standby
// sees is one that was committed on the primary, and in the end the files are the same. How many runs:
// WALSHIP_SQLITE_RUNS; a failure prints the seed and path that WALSHIP_SQLITE_SEED and WALSHIP_SQLITE_PATH repeat.
import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, expect, test } from 'vitest';
import { base, Child, checkpoint, expectSameFile, options, pause } from './support.js';

const runs = Number(process.env['WALSHIP_SQLITE_RUNS'] ?? 40);
const seed = process.env['WALSHIP_SQLITE_SEED'];
const path = process.env['WALSHIP_SQLITE_PATH'];

// ---- what can happen ----

type Statement =
  | { readonly do: 'insert'; readonly bytes: number; readonly count: number }
  | { readonly do: 'update' | 'delete'; readonly modulus: number; readonly bytes: number }
  | { readonly do: 'schema'; readonly which: number };

type Step =
  | { readonly step: 'commit'; readonly statements: readonly Statement[] }
  | { readonly step: 'savepoint'; readonly kept: Statement; readonly undone: Statement }
  | { readonly step: 'rollback'; readonly statements: readonly Statement[] }
  | { readonly step: 'vacuum' | 'acknowledge' | 'read' | 'openReader' | 'closeReader' }
  | { readonly step: 'checkpoint'; readonly kind: string; readonly standby: boolean }
  | { readonly step: 'killStandby' | 'killPrimary' | 'failOver' | 'switchOver' | 'reopen' };

const bytes = fc.oneof(fc.integer({ min: 0, max: 300 }), fc.integer({ min: 300, max: 30_000 }));
const statement: fc.Arbitrary<Statement> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant('insert' as const),
      bytes,
      count: fc.integer({ min: 1, max: 12 }),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constantFrom('update' as const, 'delete' as const),
      modulus: fc.integer({ min: 1, max: 9 }),
      bytes,
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ do: fc.constant('schema' as const), which: fc.integer({ min: 0, max: 3 }) }),
  },
);
const statements = fc.array(statement, { minLength: 1, maxLength: 4 });
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 24, arbitrary: fc.record({ step: fc.constant('commit' as const), statements }) },
  {
    weight: 4,
    arbitrary: fc.record({ step: fc.constant('savepoint' as const), kept: statement, undone: statement }),
  },
  { weight: 4, arbitrary: fc.record({ step: fc.constant('rollback' as const), statements }) },
  {
    weight: 16,
    arbitrary: fc.record({
      step: fc.constantFrom('read' as const, 'read' as const, 'acknowledge' as const, 'vacuum' as const),
    }),
  },
  {
    weight: 6,
    arbitrary: fc.record({ step: fc.constantFrom('openReader' as const, 'closeReader' as const) }),
  },
  {
    weight: 5,
    arbitrary: fc.record({
      step: fc.constant('checkpoint' as const),
      kind: fc.constantFrom('passive', 'full', 'restart', 'truncate'),
      standby: fc.boolean(),
    }),
  },
  {
    weight: 5,
    arbitrary: fc.record({
      step: fc.constantFrom(
        'killStandby' as const,
        'killPrimary' as const,
        'failOver' as const,
        'switchOver' as const,
        'reopen' as const,
      ),
    }),
  },
);

function sqlOf(one: Statement): string {
  switch (one.do) {
    case 'insert':
      return `with recursive n(i) as (select 1 union all select i + 1 from n where i < ${one.count})
        insert into t(v, n) select zeroblob(${one.bytes} / i), i from n;`;
    case 'update':
      return `update t set v = zeroblob(${one.bytes}), n = n + 1 where id % ${one.modulus} = 1;`;
    case 'delete':
      return `delete from t where id % ${one.modulus} = 0;`;
    case 'schema':
      return [
        'create index if not exists t_n on t(n);',
        'drop index if exists t_n;',
        'create table if not exists u(x); insert into u values (zeroblob(5000));',
        'drop table if exists u;',
      ][one.which] as string;
  }
}

/** One row that tells one state from all others. */
const digest = `select (select version from meta) v, (select count(*) from t) c, (select count(*) from sqlite_schema) s,
  (select coalesce(sum(id * (n + 3) + length(v) * 7), 0) from t) h`;

// ---- the two nodes ----

/** Processes that outlive a run: starting node costs more than most runs. */
const spare: Child[] = [];
const readers: Child[] = [];
afterAll(() => Promise.all([...spare, ...readers].map((each) => each.kill())));

class Seat {
  process = spare.pop() ?? new Child();
  readonly dir: string;
  port = 0;

  constructor(dir: string) {
    this.dir = dir;
    mkdirSync(dir);
  }

  get path(): string {
    return join(this.dir, 'a.db');
  }

  async open(upstream?: Seat): Promise<void> {
    this.port = await this.process.open({
      ...options(this.dir.endsWith('a') ? 'a' : 'b', {
        path: this.path,
        listen: `127.0.0.1:${this.port}`,
        commitRule: { level: 'flushed', any: 1 },
        checkpoint: { everyMs: 15, walBytes: 64 * 1024 },
        log: { segmentBytes: 1024 * 1024, spareSegments: 1, pageBytes: 64 * 1024 },
        arena: { bytes: 2 * 1024 * 1024, hugePages: false },
        ...(upstream && { upstream: { address: `127.0.0.1:${upstream.port}` } }),
      }),
    });
  }

  async kill(): Promise<void> {
    await this.process.kill();
    this.process = new Child();
  }

  async end(): Promise<void> {
    if (this.process.over) return;
    await this.process.close();
    spare.push(this.process);
  }
}

interface State {
  readonly v: number;
}

class Run {
  primary: Seat;
  standby: Seat;
  reader: Child | undefined;
  /** What the open reader has seen once, and must see as long as it is open. */
  held: State | undefined;
  /** Every state committed, by its version; of the history that counts now. */
  readonly states = new Map<number, State>();
  /** Those of a history that was given up: a standby of the old primary may have seen them. */
  readonly lost: State[] = [];
  version = 0;
  acknowledged = 0;
  /** The highest one: who promotes gives no epoch twice, whatever the nodes have heard of each other. */
  epoch = 0n;

  constructor(dir: string) {
    this.primary = new Seat(join(dir, 'a'));
    this.standby = new Seat(join(dir, 'b'));
  }

  async begin(): Promise<void> {
    await this.primary.open();
    await this.noteEpoch();
    await this.primary.process.exec(`begin; create table meta(version int); insert into meta values (0);
      create table t(id integer primary key, v blob, n int); commit`);
    await this.note();
    await this.standby.open(this.primary);
    await this.standby.process.readAt(await this.primary.process.committed(), 'select 1');
    this.acknowledged = this.version;
  }

  /** The primary's state now is a committed one. */
  async note(): Promise<void> {
    const [state] = await this.primary.process.all<State>(digest);
    this.states.set((state as State).v, state as State);
    this.version = (state as State).v;
  }

  /** After a change of the primary. */
  async noteEpoch(): Promise<void> {
    this.epoch = (await this.primary.process.status()).epoch;
  }

  expectCommitted(seen: State): void {
    if (this.lost.some((each) => JSON.stringify(each) === JSON.stringify(seen))) return;
    expect(seen).toEqual(this.states.get(seen.v));
  }

  async closeReader(): Promise<void> {
    await this.reader?.close();
    if (this.reader) readers.push(this.reader);
    this.reader = undefined;
    this.held = undefined;
  }

  async read(): Promise<void> {
    const [seen] = (await this.standby.process.all<State>(digest)) as [State];
    this.expectCommitted(seen);
    expect(await this.standby.process.pragma('integrity_check')).toBe('ok');
    if (this.reader) expect(await this.reader.all(digest)).toEqual([this.held]);
  }

  /** What was acknowledged is on the standby, sooner or later. */
  async awaitAcknowledged(): Promise<State> {
    for (const until = performance.now() + 10_000; ; await pause(1)) {
      const [seen] = (await this.standby.process.all<State>(digest)) as [State];
      this.expectCommitted(seen);
      if (seen.v >= this.acknowledged || performance.now() > until) return seen;
    }
  }

  async exchange(): Promise<void> {
    await this.standby.process.promote(this.epoch + 1n);
    [this.primary, this.standby] = [this.standby, this.primary];
    await this.note();
    await this.noteEpoch();
    expect(this.version).toBeGreaterThanOrEqual(this.acknowledged);
    for (const [version, state] of this.states) {
      if (version <= this.version) continue;
      this.lost.push(state);
      this.states.delete(version);
    }
  }

  async take(one: Step): Promise<void> {
    const { process } = this.primary;
    const next = 'update meta set version = version + 1;';
    switch (one.step) {
      case 'commit':
        await process.exec(`begin immediate; ${next} ${one.statements.map(sqlOf).join(' ')} commit`);
        return this.note();
      case 'savepoint':
        await process.exec(
          `begin; ${next} ${sqlOf(one.kept)} savepoint s; ${sqlOf(one.undone)} rollback to s; release s; commit`,
        );
        return this.note();
      case 'rollback':
        return process.exec(`begin; ${next} ${one.statements.map(sqlOf).join(' ')} rollback`);
      case 'vacuum':
        return process.exec('vacuum');
      case 'acknowledge':
        await process.committed();
        this.acknowledged = this.version;
        return;
      case 'read':
        return this.read();
      case 'openReader': {
        if (this.reader) return;
        this.reader = readers.pop() ?? new Child();
        await this.reader.plain(this.standby.path);
        await this.reader.exec('begin');
        [this.held] = (await this.reader.all<State>(digest)) as [State];
        return this.expectCommitted(this.held);
      }
      case 'closeReader':
        return this.closeReader();
      case 'checkpoint': {
        const { path: file } = one.standby ? this.standby : this.primary;
        const other = readers.pop() ?? new Child();
        await other.plain(file);
        await other.pragma('busy_timeout = 2');
        await other.pragma(`wal_checkpoint(${one.kind})`);
        await other.close();
        readers.push(other);
        return;
      }
      case 'killStandby':
        await this.standby.kill();
        return this.standby.open(this.primary);
      case 'killPrimary':
        await this.primary.kill();
        await this.primary.open();
        await this.noteEpoch();
        // Nothing is lost by a kill: what was committed is there, acknowledged or not.
        return expect(await this.primary.process.all(digest)).toEqual([this.states.get(this.version)]);
      case 'failOver':
        await this.primary.kill();
        await this.awaitAcknowledged();
        await this.closeReader();
        await this.exchange();
        return this.standby.open(this.primary);
      case 'switchOver':
        await this.take({ step: 'acknowledge' });
        await this.awaitAcknowledged();
        await this.closeReader();
        await this.exchange();
        return this.standby.process.follow({ address: `127.0.0.1:${this.primary.port}` });
      case 'reopen':
        await this.standby.process.close();
        await this.primary.process.close();
        await this.primary.open();
        await this.noteEpoch();
        return this.standby.open(this.primary);
    }
  }

  async end(): Promise<void> {
    await this.closeReader();
    const lsn = await this.primary.process.committed();
    expect(await this.standby.process.readAt(lsn, digest)).toEqual([this.states.get(this.version)]);
    expect(await this.standby.process.pragma('integrity_check')).toBe('ok');
    await checkpoint(this.primary.path);
    await checkpoint(this.standby.path);
    expectSameFile(this.primary.path, this.standby.path);
    await this.standby.end();
    await this.primary.end();
  }

  async abandon(): Promise<void> {
    await Promise.all([this.primary.process.kill(), this.standby.process.kill(), this.reader?.kill()]);
  }
}

/** A run that hangs is a failure that says what the nodes said. */
async function within(milliseconds: number, run: Run, work: () => Promise<void>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const hangs = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      const told = [run.primary, run.standby].map(({ process }) => process.events.slice(-6));
      const words = JSON.stringify(told, (_key, value) =>
        typeof value === 'bigint' ? String(value) : value,
      );
      reject(new Error(`hangs for ${milliseconds} ms; the last events of primary and standby: ${words}`));
    }, milliseconds);
  });
  try {
    await Promise.race([work(), hangs]);
  } finally {
    clearTimeout(timer);
  }
}

let number = 0;

test(`${runs} runs`, { timeout: 60_000 + runs * 3000 }, async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 3, maxLength: 22 }), async (steps) => {
      const dir = join(base, `run-${++number}`);
      mkdirSync(dir);
      const run = new Run(dir);
      try {
        await within(30_000, run, async () => {
          await run.begin();
          for (const one of steps) await run.take(one);
          await run.end();
        });
      } catch (error) {
        await run.abandon();
        throw error;
      } finally {
        rmSync(dir, { recursive: true, force: true });
      }
    }),
    {
      numRuns: runs,
      endOnFailure: path === undefined && runs > 100,
      ...(seed !== undefined && { seed: Number(seed) }),
      ...(path !== undefined && { path }),
    },
  );
});

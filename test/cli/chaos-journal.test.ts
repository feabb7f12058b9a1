// A cluster is killed, stopped, cut off and handed over, and asked for its roles all the while; then its merged journal is
// played back: it must explain all of that, and without any of the lines that do so it must not.
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest';
import { type JournalEntry, mergeJournals, readJournal } from '../../src/consistency/journal.js';
import { timeOf } from '../../src/failover/clock.js';
import { AdminClient } from '../../src/node/client.js';
import { defaultAdminSocket } from '../../src/node/config.js';
import { journalDir } from '../../src/node/node.js';
import { type Network, tcpNetwork } from '../lib/network.js';
import { type Deed, type Done, Play, rolesOf, type Seen, unexplained } from '../lib/replay.js';
import { Random } from '../simulation/random.js';
import { NodeCommand, scratch, until, walship } from './support.js';

const names = ['a', 'b', 'c'] as const;
const suspectMs = 1000;
let network: Network;
beforeAll(() => {
  network = tcpNetwork(names.length);
});
afterAll(() => network.close());

/** The nodes, what is done to them, and what they say of their roles meanwhile. */
class Stage {
  readonly deeds: Deed[] = [];
  readonly seen: Seen[] = [];
  readonly #dir = scratch();
  readonly #nodes = new Map<string, NodeCommand>();
  readonly #looking: Promise<void>[] = [];
  #over = false;

  socketOf(name: string): string {
    return defaultAdminSocket(join(this.#dir, name));
  }

  async start(name: string): Promise<void> {
    const at = Date.now();
    const index = names.indexOf(name as 'a');
    const host = network.address(index);
    const settings = `admin_listen = "${host}:0"\ncommit_rule = { level = "flushed", any = 1 }`;
    const tables = `[failover]
listen = "${host}:0"
bootstrap = ${name === 'a'}
suspect_ms = "${suspectMs}ms"
lease_ms = "4s"
[coordinator]
kind = "embedded"
path = "coordinator"`;
    const place = { host, prefix: network.prefix(index) };
    this.#nodes.set(name, await NodeCommand.start(this.#dir, name, settings, [], tables, place));
    this.deeds.push({ kind: 'start', node: name, at, until: Date.now() });
  }

  async kill(name: string): Promise<void> {
    const at = Date.now();
    await this.#nodes.get(name)?.stop('SIGKILL');
    this.#nodes.delete(name);
    this.deeds.push({ kind: 'kill', node: name, at, until: Date.now() });
  }

  /** Stops a node, and lets it go on once `meanwhile` is over. */
  async stop(name: string, meanwhile: () => Promise<void>): Promise<void> {
    this.#nodes.get(name)?.signal('SIGSTOP');
    const at = Date.now();
    // What is over sooner than a node is suspected is not told.
    await Promise.all([meanwhile(), sleep(1.5 * suspectMs)]);
    this.deeds.push({ kind: 'stop', node: name, at, until: Date.now() });
    this.#nodes.get(name)?.signal('SIGCONT');
  }

  async cut(name: string, meanwhile: () => Promise<void>): Promise<void> {
    const index = names.indexOf(name as 'a');
    const at = Date.now();
    await network.cut(index);
    await meanwhile();
    this.deeds.push({ kind: 'cut', node: name, at, until: Date.now() });
    await network.heal(index);
  }

  async handOver(name: string, to: string): Promise<void> {
    const at = Date.now();
    await new AdminClient({ socket: this.socketOf(name) }).switchover(to);
    this.deeds.push({ kind: 'switchover', node: name, to, at, until: Date.now() });
  }

  status(name: string) {
    return new AdminClient({ socket: this.socketOf(name) }, 30_000).status();
  }

  /** Asks every node for its role, again and again. */
  look(): void {
    const each = async (name: string) => {
      while (!this.#over) {
        const from = Date.now();
        const status = await this.status(name).catch(() => undefined);
        const role = status?.failover?.members.find(({ node }) => node === name)?.role;
        if (role) this.seen.push({ node: name, role, from, until: Date.now() });
        await sleep(50);
      }
    };
    this.#looking.push(...names.map(each));
  }

  async close(): Promise<void> {
    this.#over = true;
    await Promise.all(this.#looking);
  }

  /** `who` are connected with none of the others in `gone`. */
  async miss(who: readonly string[], gone: readonly string[]): Promise<void> {
    await until(`${who} miss ${gone}`, async () => {
      const all = await Promise.all(who.map((name) => this.status(name)));
      return all.every((status) =>
        status.failover?.members.every(
          ({ node, connected }) => node === status.nodeId || !gone.includes(node) || !connected,
        ),
      );
    });
  }

  /** All of them agree on one primary, and do what they should. @returns the primary */
  async well(who: readonly string[] = names): Promise<string> {
    let primary: string | undefined;
    await until(`${who} are well`, async () => {
      const all = await Promise.all(who.map((name) => this.status(name)));
      const seen = new Set(all.map(({ failover }) => failover?.primary?.node));
      [primary] = seen;
      return (
        seen.size === 1 &&
        primary !== undefined &&
        who.includes(primary) &&
        all.every(
          ({ health, failover }) =>
            health.ok && failover?.members.filter(({ connected }) => connected).length === who.length,
        )
      );
    });
    return primary as string;
  }

  /** For people, of the files. */
  story(): string {
    const journals = names.map((name) => readJournal(journalDir(join(this.#dir, name))).entries);
    return [
      ...this.deeds.map((deed) => JSON.stringify(deed)),
      ...mergeJournals(journals).map(
        ({ clock, node, event, message }) => `${timeOf(clock).getTime()} ${node} ${event}: ${message}`,
      ),
    ].join('\n');
  }

  /** As the command tells it, once every node has said that the others are back. */
  async journal(): Promise<readonly JournalEntry[]> {
    let lines: JournalEntry[] = [];
    await until('all hear each other', async () => {
      const { stdout, stderr, code } = await walship(['journal', '--dir', join(this.#dir, 'b'), '--json']);
      expect([code, stderr]).toEqual([0, '']);
      lines = stdout
        .split('\n')
        .filter(Boolean)
        .map((text) => JSON.parse(text))
        .map((line) => ({
          ...line,
          clock: BigInt(line.clock),
          epoch: BigInt(line.epoch),
          lsn: BigInt(line.lsn),
        }));
      const play = new Play(lines, this);
      return names.every((node) =>
        names.every((other) => node === other || play.hears(node, other, Date.now())),
      );
    });
    return lines;
  }
}

const others = (...but: readonly string[]) => names.filter((name) => !but.includes(name));

/** By name, given the primary and a standby. */
const faults: Readonly<Record<string, (stage: Stage, primary: string, standby: string) => Promise<unknown>>> =
  {
    'the primary is killed': async (stage, primary) => {
      await stage.kill(primary);
      await stage.well(others(primary));
      await stage.start(primary);
    },
    'a standby is killed': async (stage, _, standby) => {
      await stage.kill(standby);
      await stage.miss(others(standby), [standby]);
      await stage.start(standby);
    },
    'the primary is stopped': (stage, primary) =>
      stage.stop(primary, async () => {
        await stage.well(others(primary));
      }),
    'a standby is stopped': (stage, _, standby) =>
      stage.stop(standby, () => stage.miss(others(standby), [standby])),
    'the primary is cut off': (stage, primary) =>
      stage.cut(primary, async () => {
        await stage.well(others(primary));
        await stage.miss([primary], others(primary));
      }),
    'a standby is cut off': (stage, _, standby) =>
      stage.cut(standby, async () => {
        await stage.miss(others(standby), [standby]);
        await stage.miss([standby], others(standby));
      }),
    'the primary is killed while a standby is stopped': async (stage, primary, standby) => {
      await stage.stop(standby, async () => {
        await stage.kill(primary);
        await stage.miss(others(primary, standby), [primary, standby]);
      });
      await stage.well(others(primary));
      await stage.start(primary);
    },
    'the primary hands over': (stage, primary, standby) => stage.handOver(primary, standby),
  };

function shuffled<T>(items: readonly T[], random: Random): T[] {
  const rest = [...items];
  return items.map(() => rest.splice(random.below(rest.length), 1)[0] as T);
}

/** The journal as it would be had this line never been written. */
function without(journal: readonly JournalEntry[], line: JournalEntry): JournalEntry[] {
  return journal
    .filter((each) => each !== line)
    .map((each) => (each.node === line.node && each.seq > line.seq ? { ...each, seq: each.seq - 1 } : each));
}

/** … had it been written when the earlier line was, and that one then. */
function swapped(
  journal: readonly JournalEntry[],
  line: JournalEntry,
  earlier: JournalEntry,
): JournalEntry[] {
  const stamps = journal.map(({ clock }) => clock);
  const [from, to] = [journal.indexOf(earlier), journal.indexOf(line)];
  const lines = [...journal];
  [lines[from], lines[to]] = [line, earlier];
  const count = new Map<string, number>();
  return lines.map((each, index) => {
    const seq = (count.get(each.node) ?? 0) + 1;
    count.set(each.node, seq);
    return { ...each, seq, clock: stamps[index] as bigint };
  });
}

/** Lines of which each is the only one that can explain what it does. */
function isIrreplaceable(line: JournalEntry, play: Play): boolean {
  if (line.event !== 'role') {
    return ['starting', 'elected', 'takes-over', 'handed-over', 'switchover'].includes(line.event);
  }
  // A reign that nobody has seen may have ended before it began.
  const at = timeOf(line.clock).getTime();
  const reign = rolesOf(play, line.node).find(({ role, from }) => role === 'primary' && from === at);
  return play.done.seen.some(
    ({ node, from, until }) => reign?.node === node && from > reign.from && until < reign.until,
  );
}

function* mutants(journal: readonly JournalEntry[], done: Done): Iterable<[string, JournalEntry[]]> {
  const play = new Play(journal, done);
  for (const line of journal)
    if (isIrreplaceable(line, play)) yield [`without ${line.node}: ${line.message}`, without(journal, line)];
  for (const event of [
    'begins',
    'election',
    'promised',
    'primary-lost',
    'peer-down',
    'peer-up',
    'stood-still',
  ]) {
    const rest = journal
      .filter((line) => line.event === event)
      .reduce(
        (left, line) =>
          without(
            left,
            left.find(({ clock, node }) => clock === line.clock && node === line.node) as JournalEntry,
          ),
        [...journal],
      );
    yield [`without any ${event}`, rest];
  }
  for (const elected of journal.filter(({ event }) => event === 'elected')) {
    const { node, facts } = elected;
    const at = journal.indexOf(elected);
    const before = journal.slice(0, at);
    for (const name of String(facts?.['promises']).split(',')) {
      const promise = before.find(
        (line) =>
          line.node === name && line.event === 'promised' && line.facts?.['epoch'] === facts?.['epoch'],
      ) as JournalEntry;
      yield [
        `elected in epoch ${facts?.['epoch']} before ${name} promised`,
        swapped(journal, elected, promise),
      ];
    }
    const attempt = before.findLast(
      (line) => line.node === node && ['election', 'takes-over', 'begins'].includes(line.event),
    ) as JournalEntry;
    yield [`elected in epoch ${facts?.['epoch']} before it stood`, swapped(journal, elected, attempt)];
    const reign = journal.slice(at).find((line) => line.node === node && line.event === 'role');
    if (reign)
      yield [`reigns in epoch ${facts?.['epoch']} before it is elected`, swapped(journal, reign, elected)];
  }
}

test('the journal of a chaotic run explains all that was done and seen', { timeout: 240_000 }, async () => {
  const seed = Date.now() % 1_000_000;
  const random = new Random(seed);
  const chosen = shuffled(
    Object.keys(faults).filter((name) => network.wires || !name.endsWith('cut off')),
    random,
  );
  const stage = new Stage();
  // Not onTestFailed, which comes when the journals are removed.
  onTestFinished(({ task }) => {
    if (task.result?.state === 'fail') console.log(`seed ${seed}: ${chosen.join('; ')}\n${stage.story()}`);
  });
  for (const name of names) await stage.start(name);
  stage.look();
  let primary = await stage.well();
  for (const name of chosen) {
    await faults[name]?.(stage, primary, random.pick(others(primary)));
    primary = await stage.well();
  }
  const journal = await stage.journal();
  await stage.close();
  const done: Done = { deeds: stage.deeds, seen: stage.seen };
  const left = unexplained(journal, done);
  expect(left, left.join('\n')).toEqual([]);
  expect(new Set(stage.seen.map(({ node, role }) => `${node} ${role}`)).size).toBeGreaterThanOrEqual(5);

  let tried = 0;
  for (const [what, mutant] of mutants(journal, done)) {
    expect(unexplained(mutant, done).length, `${what}: not noticed`).toBeGreaterThan(0);
    tried++;
  }
  console.log(
    `seed ${seed}: ${stage.deeds.length} deeds, ${stage.seen.length} looks and ${journal.length} lines; ${tried} mutants`,
  );
  // What was never done, or seen, is not explained.
  const [begun] = stage.deeds as [Deed];
  const more: Deed = { kind: 'kill', node: begun.node, at: begun.until, until: begun.until };
  expect(unexplained(journal, { ...done, deeds: [...done.deeds, more] })).not.toEqual([]);
  const last = done.seen.at(-1) as Seen;
  const lie: Seen = { ...last, role: last.role === 'primary' ? 'standby' : 'primary' };
  expect(unexplained(journal, { ...done, seen: [...done.seen, lie] })).not.toEqual([]);
});

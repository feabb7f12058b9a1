// Answers that get lost on their way: a swap must know nevertheless whether it was its own that was carried out.
import { connect, createServer, type Socket } from 'node:net';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type CoordinatorSettings, openCoordinator } from '../../../src/failover/coordinator/settings.js';
import { Etcd } from '../../lib/etcd.js';
import { clusterId, record } from './support.js';

/** Passes everything on, until it is told to lose the answer to the next transaction, and what to do before that is seen. */
class Relay {
  readonly #server;
  readonly #open = new Set<Socket>();
  #before: (() => Promise<unknown>) | undefined;
  lost = 0;

  constructor(to: string) {
    const { hostname, port } = new URL(to);
    this.#server = createServer((down) => {
      const up = connect(Number(port), hostname);
      let losing = false;
      for (const each of [down, up]) {
        this.#open.add(each);
        each.on('error', () => {});
        each.on('close', () => {
          down.destroy();
          up.destroy();
        });
      }
      down.on('data', (chunk) => {
        losing ||= this.#before !== undefined && chunk.includes('/v3/kv/txn');
        up.write(chunk);
      });
      up.on('data', (chunk) => {
        if (!losing) return void down.write(chunk);
        const before = this.#before;
        this.#before = undefined;
        if (before === undefined) return;
        this.lost++;
        void before().then(() => down.destroy());
      });
    });
  }

  async start(): Promise<string> {
    await new Promise<void>((resolve) => this.#server.listen(0, '127.0.0.1', resolve));
    return `http://127.0.0.1:${(this.#server.address() as { port: number }).port}`;
  }

  loseNext(before: () => Promise<unknown> = async () => {}): void {
    this.#before = before;
  }

  close(): void {
    this.#server.close();
    for (const each of this.#open) each.destroy();
  }
}

let etcd: Etcd;
let relay: Relay;
let places = 0;
let relayed: CoordinatorSettings;
let direct: CoordinatorSettings;
beforeAll(async () => {
  etcd = await Etcd.start({ members: 3 });
  relay = new Relay(etcd.endpoints[0] as string);
  relayed = { kind: 'etcd', endpoints: [await relay.start()] };
  direct = { kind: 'etcd', endpoints: etcd.endpoints };
});
afterAll(async () => {
  relay.close();
  await etcd.close();
});
const openAt = async (...all: CoordinatorSettings[]) => {
  const prefix = `/answers-${places++}`;
  return Promise.all(
    all.map((settings) => openCoordinator({ ...settings, prefix } as CoordinatorSettings, clusterId)),
  );
};

test('the answer was lost: the swap was done once, and says so', async () => {
  const [coordinator] = await openAt(relayed);
  let revision = 0n;
  for (let round = 0; round < 20; round++) {
    relay.loseNext();
    const next = await coordinator?.swap(revision, record('a', 1n, round));
    expect(next).toBeGreaterThan(revision);
    revision = next as bigint;
    expect(await coordinator?.read()).toMatchObject({ revision, primary: { renewal: round } });
  }
  expect(relay.lost).toBe(20);
  await coordinator?.close();
});

test('the answer was lost and the record replaced before it was asked again: it was done all the same', async () => {
  const [coordinator, other] = await openAt(relayed, direct);
  let theirs: bigint | undefined;
  relay.loseNext(async () => {
    const { revision } = (await other?.read()) ?? {};
    theirs = await other?.swap(revision as bigint, record('b', 2n));
  });
  const ours = await coordinator?.swap(0n, record('a', 1n));
  expect(theirs).toBeGreaterThan(ours as bigint);
  expect(await coordinator?.read()).toMatchObject({ revision: theirs, primary: { node: 'b' } });
  // Replaced more than once: what it was before cannot be told any more.
  relay.loseNext(async () => {
    for (let renewal = 1; renewal < 3; renewal++) {
      const { revision } = (await other?.read()) ?? {};
      await other?.swap(revision as bigint, record('b', 2n, renewal));
    }
  });
  await expect(coordinator?.swap(theirs as bigint, record('a', 3n))).rejects.toMatchObject({
    code: 'WALSHIP_ERR_COORDINATOR',
    message: expect.stringMatching(/not known.*read it/),
  });
  for (const each of [coordinator, other]) await each?.close();
});

test('the answer to a swap that lost was lost: it lost', async () => {
  const [coordinator, other] = await openAt(relayed, direct);
  const theirs = await other?.swap(0n, record('b', 1n));
  relay.loseNext();
  expect(await coordinator?.swap(0n, record('a', 1n))).toBeUndefined();
  expect((await coordinator?.read())?.revision).toBe(theirs);
  for (const each of [coordinator, other]) await each?.close();
});

test('sent to a member that is stopped, and to another: of two that swap, one wins, and nothing comes late', async () => {
  const follower = (await etcd.leader()) === 0 ? 1 : 0;
  const endpoints = [etcd.endpoints[follower] as string, ...etcd.endpoints];
  let revision = 0n;
  const prefix = `/answers-${places++}`;
  for (let round = 0; round < 8; round++) {
    const settings: CoordinatorSettings = { kind: 'etcd', endpoints, prefix, timeoutMs: 5000 };
    const both = [await openCoordinator(settings, clusterId), await openCoordinator(settings, clusterId)];
    for (const each of both) await each.read();
    await etcd.pause(follower);
    const swaps = both.map((each, index) => each.swap(revision, record(`n${index}`, BigInt(round + 1))));
    const results = await Promise.all(swaps);
    const won = results.filter((result) => result !== undefined);
    expect(won).toHaveLength(1);
    revision = won[0] as bigint;
    const winner = `n${results.indexOf(revision)}`;
    etcd.resume(follower);
    await etcd.ready();
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(await both[0]?.read()).toMatchObject({
      revision,
      primary: { node: winner, epoch: BigInt(round + 1) },
    });
    for (const each of both) await each.close();
  }
});

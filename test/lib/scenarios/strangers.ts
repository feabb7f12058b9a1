// Who knocks at a node's door: the wrong secret, cluster, epoch or name, garbage, scanners. The cluster must not care.
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { expect } from 'vitest';
import { type Caller, callIn, helloBody, RawConnection, setupMessage } from '../client.js';
import { type Cluster, credentials, pause } from '../cluster.js';
import type { Scenario } from '../scenario.js';

export const stranger: Caller = { cluster: credentials.id, node: 'x', secret: credentials.secret };

export const door = (cluster: Cluster, index: number) =>
  RawConnection.to(cluster.network.address(index), cluster.member(index).port);

/** The two healthy nodes must not have noticed anything. */
export function expectUndisturbed(cluster: Cluster): void {
  expect(cluster.events(0, 'downstream-down').filter(({ node }) => node === 'b')).toEqual([]);
  expect(cluster.events(1, 'upstream-down')).toEqual([]);
}

async function refused(cluster: Cluster, index: number, code: string): Promise<void> {
  const codes = () => cluster.member(index).process.events.map((event) => event.code);
  await cluster.until(`node ${index} hears ${code}`, () => codes().includes(code));
}

/** RDMA objects of this host by kind; empty where there are none. */
function rdmaObjects(): string {
  try {
    return execFileSync('rdma', ['resource', 'show'], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    }).trim();
  } catch {
    return '';
  }
}

export const strangers: readonly Scenario[] = [
  {
    name: 'a wrong secret is refused on both sides, the right one then let in',
    async body(cluster) {
      await cluster.start([0, 0]);
      await cluster.load(0);
      await cluster.open(2, { cluster: { ...credentials, secret: 'quite another secret' } });
      await cluster.follow(2, 0);
      await refused(cluster, 2, 'WALSHIP_ERR_AUTH');
      await refused(cluster, 0, 'WALSHIP_ERR_AUTH');
      expect(cluster.events(0, 'connection-refused').length).toBeGreaterThan(0);
      await cluster.close(2);
      await cluster.open(2, { cluster: credentials });
      await cluster.follow(2, 0);
      await cluster.until('it is streaming', () => cluster.isLinked(2, 0));
      expectUndisturbed(cluster);
      await cluster.verify();
    },
  },
  {
    name: 'a node of another cluster is refused on both sides',
    async body(cluster) {
      await cluster.start([0, 0]);
      await cluster.load(0);
      await cluster.open(2, { cluster: { ...credentials, id: 'another-cluster' } });
      await cluster.follow(2, 0);
      await refused(cluster, 2, 'WALSHIP_ERR_CLUSTER');
      await refused(cluster, 0, 'WALSHIP_ERR_CLUSTER');
      await cluster.close(2);
      cluster.members.pop();
      expectUndisturbed(cluster);
      await cluster.verify();
    },
  },
  {
    name: 'another node than the expected one answers: refused',
    hostOnly: true,
    async body(cluster) {
      await cluster.start([0, 0]);
      await cluster.open(2);
      await cluster.member(2).process.follow({ ...cluster.upstreamOf(2, 0), node: 'z' });
      await refused(cluster, 2, 'WALSHIP_ERR_NODE');
      await cluster.follow(2, 0);
      await cluster.until('it is streaming', () => cluster.isLinked(2, 0));
      await cluster.verify();
    },
  },
  {
    name: 'a node with the name of its upstream is refused; one with the name of another does not stop the cluster',
    hostOnly: true,
    async body(cluster) {
      await cluster.start([0, 0, 0], { commitRule: { level: 'received', any: 1, nodes: ['c'] } });
      await cluster.load(0, { bytesPerSecond: (2 << 20) / cluster.network.slow });
      await cluster.open(3, { nodeId: 'a' });
      const anyName = (upstream: number) => ({ ...cluster.upstreamOf(3, upstream), node: undefined });
      await cluster.member(3).process.follow(anyName(0));
      await refused(cluster, 3, 'WALSHIP_ERR_NODE');
      await cluster.close(3);
      // A second b beside the first: each call ends the other's link.
      await cluster.open(3, { nodeId: 'b' });
      await cluster.member(3).process.follow(anyName(0));
      const anew = () =>
        cluster
          .events(0, 'downstream-down')
          .filter(({ message }) => message.includes('goes on over another link'));
      await cluster.until('they turn each other out', () => anew().length >= 2);
      await cluster.progress(50);
      // And below another node.
      await cluster.member(3).process.follow(anyName(2));
      await cluster.until('the second b is streaming', () => cluster.isLinked(3, 2));
      await cluster.progress(50);
      await cluster.close(3);
      cluster.members.pop();
      await cluster.until('the first b is back in its place', async () => {
        const { nodes } = await cluster.status(0);
        return nodes.some(({ node, parent }) => node === 'b' && parent === 'a');
      });
      expect(cluster.events(2, 'upstream-down')).toEqual([]);
      await cluster.verify();
    },
  },
  {
    name: 'a cascade that loops is noticed, named and left by hand',
    hostOnly: true,
    async body(cluster) {
      await cluster.start([0, 0, 1, 0]);
      await cluster.load(0);
      await cluster.progress(50);
      await cluster.follow(1, 2); // b below its own downstream c
      await cluster.until('the loop is named', () =>
        [1, 2].some((index) =>
          cluster.member(index).process.events.some(({ code }) => code === 'WALSHIP_ERR_NODE'),
        ),
      );
      await cluster.progress(50); // d goes on
      await cluster.follow(1, 0);
      await cluster.until(
        'both are streaming',
        async () => (await cluster.isLinked(1, 0)) && cluster.isLinked(2, 1),
      );
      await cluster.verify();
    },
  },
  {
    name: 'a standby that promised a newer epoch takes nothing of an older one, across a restart too',
    async body(cluster) {
      await cluster.start([0, 0, 0], { commitRule: { level: 'received', any: 1, nodes: ['b'] } });
      await cluster.load(0);
      await cluster.progress(50);
      const { lsn: received, logEpoch } = await cluster.member(2).process.promise(7n);
      expect(logEpoch).toBe(1n);
      await refused(cluster, 2, 'WALSHIP_ERR_EPOCH');
      await cluster.progress(50);
      expect((await cluster.member(2).process.positions()).received).toBe(received);
      await cluster.close(2);
      await cluster.open(2);
      await cluster.follow(2, 0);
      await cluster.until(
        'refused again',
        () => cluster.events(2, 'upstream-down').concat(cluster.events(2, 'upstream-unreachable')).length > 1,
      );
      await pause(300);
      expect((await cluster.member(2).process.positions()).received).toBe(received);
      await expect(cluster.member(2).process.promise(6n)).rejects.toMatchObject({
        code: 'WALSHIP_ERR_EPOCH',
      });
      await expect(cluster.member(0).process.promote(9n)).rejects.toMatchObject({
        code: 'WALSHIP_ERR_IS_PRIMARY',
      });
      // The primary reigns on in an epoch that the promise allows.
      const end = await cluster.endLoad();
      expect(end.unacknowledged).toBe(0);
      await cluster.member(0).process.promise(8n);
      await cluster.member(0).process.promote(8n);
      await cluster.until(
        'all follow the new reign',
        async () => (await cluster.isLinked(1, 0)) && cluster.isLinked(2, 0),
      );
      await cluster.load(0);
      await cluster.progress(50);
      await cluster.verify();
    },
  },
  {
    name: 'an old protocol version is refused with its number',
    async body(cluster) {
      await cluster.start([0, 0]);
      await cluster.load(0);
      const connection = await door(cluster, 0);
      expect(await callIn(connection, { ...stranger, version: 0 })).toBe('WALSHIP_ERR_PROTOCOL_VERSION');
      expect(await connection.untilClosed(5000 * cluster.network.slow)).toBe(true);
      await refused(cluster, 0, 'WALSHIP_ERR_PROTOCOL_VERSION');
      expectUndisturbed(cluster);
      await cluster.verify();
    },
  },
  {
    name: 'garbage at the door: every connection ends, nobody else notices',
    async body(cluster) {
      await cluster.start([0, 0]);
      await cluster.load(0);
      const hello = setupMessage(1, helloBody(stranger));
      const long = setupMessage(1, Buffer.alloc(10));
      long.writeUInt16LE(65535, 7);
      const said: Buffer[] = [
        randomBytes(5),
        randomBytes(2000),
        Buffer.from('GET / HTTP/1.1\r\nHost: x\r\n\r\n'),
        hello.subarray(0, 20),
        setupMessage(3, randomBytes(32)),
        setupMessage(99, Buffer.alloc(0)),
        setupMessage(1, randomBytes(200)),
        setupMessage(1, Buffer.alloc(0)),
        setupMessage(1, helloBody({ cluster: credentials.id, node: '' })),
        setupMessage(1, helloBody({ cluster: credentials.id, node: 'y'.repeat(200) })),
        long,
        Buffer.concat([hello, randomBytes(500)]),
        Buffer.concat([hello, setupMessage(3, randomBytes(32))]),
        Buffer.concat([hello, setupMessage(3, Buffer.alloc(0))]),
      ];
      const slow = cluster.network.slow;
      const ends = await Promise.all(
        said.map(async (bytes) => {
          const connection = await door(cluster, 0);
          connection.send(bytes);
          return connection.untilClosed(8000 * slow);
        }),
      );
      expect(ends).toEqual(said.map(() => true));
      expectUndisturbed(cluster);
      await cluster.verify();
    },
  },
  {
    name: 'a port scanner and silent callers: who is linked stays so, who comes gets in',
    async body(cluster) {
      const { slow } = cluster.network;
      await cluster.start([0, 0]);
      await cluster.load(0);
      const before = await cluster.member(0).process.resources();
      for (let i = 0; i < 200 / slow; i++) (await door(cluster, 0)).end();
      await cluster.open(2);
      // Some say nothing, some one byte now and then.
      const callers = await Promise.all(Array.from({ length: 48 / slow }, () => door(cluster, 0)));
      const hello = setupMessage(1, helloBody(stranger));
      let at = 0;
      const loris = setInterval(() => {
        for (const caller of callers.slice(0, callers.length / 2)) caller.send(hello.subarray(at, at + 1));
        at++;
      }, 100);
      cluster.onEnd(() => clearInterval(loris));
      const started = performance.now();
      await cluster.follow(2, 0);
      await cluster.until('the newcomer is streaming', () => cluster.isLinked(2, 0), 20);
      cluster.note(
        `${callers.length} silent callers held a newcomer up for ${(performance.now() - started).toFixed(0)} ms`,
      );
      const ends = await Promise.all(callers.map((caller) => caller.untilClosed(15_000 * slow)));
      expect(ends.every((end) => end)).toBe(true);
      clearInterval(loris);
      expectUndisturbed(cluster);
      await cluster.progress(20);
      await cluster.until('nothing of them is left', async () => {
        const { fds } = await cluster.member(0).process.resources();
        return fds <= before.fds + 3; // the newcomer's own link, over verbs
      });
      await cluster.verify();
    },
  },
  {
    name: '1,000 connects and disconnects leak nothing',
    seconds: 60,
    async body(cluster) {
      const { slow } = cluster.network;
      await cluster.start([0, 0, 0]);
      const sessions = slow > 1 ? 100 : 400;
      const calls = 1000 - sessions;
      // By events, and not by asking: answers, too, take memory.
      const told = (index: number, type: string) => cluster.events(index, type).length;
      const alone = async () => {
        const before = told(0, 'downstream-down');
        await cluster.member(2).process.follow(undefined);
        await cluster.until('it is gone', () => told(0, 'downstream-down') > before);
      };
      const cycle = async () => {
        const before = told(2, 'upstream-up');
        await cluster.follow(2, 0);
        await cluster.until('it is streaming', () => told(2, 'upstream-up') > before);
        await alone();
      };
      const call = async () => {
        const connection = await door(cluster, 0);
        await callIn(connection, stranger);
        connection.end();
      };
      await alone();
      for (let i = 0; i < 30 / slow; i++) {
        await cycle();
        await call();
      }
      await pause(300);
      const measure = async () => ({
        primary: await cluster.member(0).process.resources(),
        standby: await cluster.member(2).process.resources(),
        rdma: rdmaObjects(),
      });
      const half = async () => {
        for (let i = 0; i < sessions / 2; i++) await cycle();
        for (let i = 0; i < calls / 2; i += 10) await Promise.all(Array.from({ length: 10 }, call));
      };
      const started = performance.now();
      const cold = await measure();
      await half();
      const before = await measure();
      await half();
      const took = (performance.now() - started) / 1000;
      await cluster.until('what the last ones had is given back', async () => {
        const { fds } = await cluster.member(0).process.resources();
        return fds <= before.primary.fds;
      });
      const after = await measure();
      const grown = (role: 'primary' | 'standby') =>
        [cold, before, after].map((each) => (each[role].rssBytes / (1 << 20)).toFixed(1)).join(' → ');
      cluster.note(
        `${sessions} sessions and ${calls} calls in ${took.toFixed(1)} s; primary: fds ${before.primary.fds} → ` +
          `${after.primary.fds}, threads ${before.primary.threads} → ${after.primary.threads}, RSS MiB ${grown('primary')}; ` +
          `standby: fds ${before.standby.fds} → ${after.standby.fds}, RSS MiB ${grown('standby')}`,
      );
      if (after.rdma !== '') cluster.note(`rdma: ${after.rdma.replaceAll('\n', '; ')}`);
      expect(after.rdma).toBe(before.rdma);
      for (const role of ['primary', 'standby'] as const) {
        expect(after[role].fds).toBeLessThanOrEqual(before[role].fds);
        expect(after[role].threads).toBeLessThanOrEqual(before[role].threads);
        // The first half warms the allocators up. A leaked session would be tens of kilobytes, each time.
        expect(after[role].rssBytes - before[role].rssBytes).toBeLessThan(4 << 20);
      }
      await cluster.follow(2, 0);
      await cluster.load(0);
      await cluster.progress(50);
      await cluster.verify();
    },
  },
];

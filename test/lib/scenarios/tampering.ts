// Peers that have passed the hand-shake, or sit between two that have, and then say what no walship node says. TCP only:
// over verbs nobody sits in between, and a stranger cannot bring a queue pair.
import { randomBytes } from 'node:crypto';
import { expect } from 'vitest';
import { answerCall, callIn, listen, message, type RawConnection, range, wireHeader } from '../client.js';
import { type Cluster, credentials, pause, smallLog } from '../cluster.js';
import { Relay, type Tamper, whole } from '../relay.js';
import type { Scenario } from '../scenario.js';
import { door, expectUndisturbed, stranger } from './strangers.js';

function position(lsn = 0n, checksum = 0n, epoch = 0n, page = 0n, offset = 0): Buffer {
  const bytes = Buffer.alloc(36);
  for (const [index, value] of [lsn, checksum, epoch, page].entries())
    bytes.writeBigUInt64LE(value, index * 8);
  bytes.writeUInt32LE(offset, 32);
  return bytes;
}

const u16 = (value: number) => Buffer.from(new Uint16Array([value]).buffer);
const u32 = (value: number) => Buffer.from(new Uint32Array([value]).buffer);
const u64 = (...values: bigint[]) => Buffer.from(new BigUint64Array(values).buffer);
const u8 = (value: number) => Buffer.from([value]);

interface OfferFields {
  readonly hasLog?: number;
  readonly tail?: Buffer;
  readonly promisedEpoch?: bigint;
  readonly pageBytes?: number;
  readonly history?: readonly (readonly [bigint, bigint])[];
  readonly historyCount?: number;
}

function offer(fields: OfferFields = {}): Buffer {
  const {
    hasLog = 0,
    tail = position(),
    promisedEpoch = 0n,
    pageBytes = smallLog.pageBytes,
    history = [],
  } = fields;
  return Buffer.concat([
    u8(1),
    u64(1n), // session
    u8(hasLog),
    tail,
    u64(promisedEpoch, 0n),
    u32(pageBytes),
    u32(smallLog.segmentBytes / smallLog.pageBytes),
    u16(fields.historyCount ?? history.length),
    ...history.map(([epoch, lsn]) => u64(epoch, lsn)),
  ]);
}

const grants = (...list: readonly [id: number, page: bigint, offset: number][]) =>
  Buffer.concat([
    u8(3),
    u16(list.length),
    ...list.map(([id, page, offset]) => Buffer.concat([u32(id), u64(page), u32(offset), u64(0n), u32(0)])),
  ]);
const ack = (...entries: readonly [key: bigint, received: bigint, flushed: bigint][]) =>
  Buffer.concat([
    u8(4),
    u64(0n),
    u16(entries.length),
    ...entries.map(([key, received, flushed]) => u64(key, received, flushed, flushed)),
  ]);

/** What an authenticated stranger may say to a primary; each has to end its connection and nothing else. */
const impertinences: Record<string, readonly Buffer[]> = {
  'random bytes': [randomBytes(4000)],
  'a wire header of an unknown type': [wireHeader(7, 10), randomBytes(10)],
  'a message longer than any': [wireHeader(2, 1 << 30)],
  'an empty message': [wireHeader(2, 0)],
  'a range': [range(1, 0, randomBytes(100))],
  'a message of an unknown type': [message(Buffer.from([200, 1, 2, 3]))],
  'an ack before the offer': [message(ack([1n, 0n, 0n]))],
  'grants before the offer': [message(grants([1, 0n, 0]))],
  'a truncated offer': [message(offer().subarray(0, 30))],
  'an offer with a tail': [message(Buffer.concat([offer(), Buffer.alloc(8)]))],
  'an offer with a history that is not there': [message(offer({ historyCount: 50 }))],
  'an offer with an endless history': [message(offer({ historyCount: 65535 }))],
  'an offer with a history that runs backward': [
    message(
      offer({
        history: [
          [5n, 100n],
          [4n, 50n],
        ],
      }),
    ),
  ],
  'another page size': [message(offer({ pageBytes: 4096 }))],
  'a promise to an epoch far ahead': [message(offer({ promisedEpoch: 2n ** 63n }))],
  'two offers': [message(offer()), message(offer())],
  'a grant with a gap': [message(offer()), message(grants([1, 5n, 0], [2, 9n, 0]))],
  'a grant far ahead': [message(offer()), message(grants([1, 2n ** 60n, 0]))],
  'a grant beyond a page': [message(offer()), message(grants([1, 0n, 0xffffffff]))],
  'an ack of somebody else': [message(offer()), message(ack([12345n, 1n, 1n]))],
  'an ack of the future': [message(offer()), message(ack([12345n, 2n ** 62n, 0n]))],
  'more flushed than received': [message(offer()), message(ack([12345n, 1n, 2n]))],
  'an ack of nobody': [message(offer()), message(ack())],
  'an answer': [message(offer()), message(Buffer.concat([u8(2), u8(1), randomBytes(80)]))],
  'rails of a standby': [message(Buffer.concat([u8(11), u8(0)]))],
  'an answer to no probe': [message(Buffer.concat([u8(10), u64(1n), u8(1), u64(0n)]))],
  'a lane of its own alone': [message(Buffer.concat([u8(12), u64(1n), u8(0), u8(1)]))],
  'a heartbeat': [message(offer()), message(Buffer.concat([u8(6), randomBytes(40), u8(1)]))],
};

const isRange = (item: { kind: string }) => item.kind === 'range';

/** Follows through a relay that does something to every range whose number says so; the log must come out right. */
function relayed(name: string, tamper: (count: { ranges: number }) => Tamper, code?: string): Scenario {
  return {
    name,
    needs: ['tcp'],
    async body(cluster) {
      await cluster.start([0, 0]);
      await cluster.open(2);
      const { address } = cluster.upstreamOf(2, 0);
      const target = { host: address.slice(0, address.lastIndexOf(':')), port: cluster.member(0).port };
      const relay = await Relay.start(cluster.network.ownAddress, target, tamper({ ranges: 0 }));
      cluster.onEnd(() => relay.close());
      await cluster
        .member(2)
        .process.follow({ address: `${cluster.network.ownAddress}:${relay.port}`, node: 'a' });
      await cluster.load(0, { bytesPerSecond: (4 << 20) / cluster.network.slow });
      await cluster.until('it was tampered with five times', () => relay.tampered >= 5, 20);
      const downs = cluster.events(2, 'upstream-down').map((event) => event.code);
      cluster.note(
        `${relay.tampered} times over ${relay.connections} connections; the standby saw ${[...new Set(downs)].join(', ') || 'nothing'}`,
      );
      if (code !== undefined) expect(downs).toContain(code);
      const { flushed } = await cluster.member(2).process.positions();
      await cluster.follow(2, 0);
      await cluster.until('it is streaming, without the relay', () => cluster.isLinked(2, 0));
      expect((await cluster.member(2).process.positions()).flushed).toBeGreaterThanOrEqual(flushed);
      expectUndisturbed(cluster);
      await cluster.verify();
    },
  };
}

/** Every fiftieth range. */
const now = (count: { ranges: number }) => ++count.ranges % 20 === 0;

/** An upstream that knows the secret and lies: what each of its sessions does after the hand-shake. */
async function fakeUpstream(cluster: Cluster, session: (connection: RawConnection) => Promise<void>) {
  let sessions = 0;
  const server = await listen(cluster.network.ownAddress, async (connection) => {
    try {
      if (await answerCall(connection, { ...stranger, node: 'liar' })) {
        await connection.readItem(); // the offer
        await session(connection);
        sessions++;
      }
    } catch {
      // The standby hung up.
    }
    await connection.untilClosed(500);
    connection.end();
  });
  cluster.onEnd(() => void server.close());
  const { port } = server.address() as { port: number };
  return { address: `${cluster.network.ownAddress}:${port}`, sessions: () => sessions };
}

function answer(
  kind: number,
  epoch: bigint,
  start: Buffer,
  history: readonly (readonly [bigint, bigint])[] = [],
): Buffer {
  return message(
    Buffer.concat([
      u8(2),
      u8(kind),
      u64(epoch),
      start,
      u64(0n, 0n),
      u16(history.length),
      ...history.map(([from, lsn]) => u64(from, lsn)),
      u8(0),
      u8(0),
    ]),
  );
}

export const tampering: readonly Scenario[] = [
  {
    name: 'an authenticated stranger that talks nonsense is shown the door, in every state of the session',
    needs: ['tcp'],
    async body(cluster) {
      await cluster.start([0, 0]);
      await cluster.load(0);
      await cluster.progress(100);
      const stayed: string[] = [];
      for (const [name, parts] of Object.entries(impertinences)) {
        const connection = await door(cluster, 0);
        expect(await callIn(connection, stranger)).toBe('');
        connection.send(...parts);
        if (!(await connection.untilClosed(3000 * cluster.network.slow))) stayed.push(name);
        connection.end();
      }
      expect(stayed).toEqual([]);
      expectUndisturbed(cluster);
      const codes = new Set(cluster.events(0, 'downstream-down').map(({ code }) => code));
      cluster.note(`${Object.keys(impertinences).length} kinds; the primary says ${[...codes].join(', ')}`);
      await cluster.verify();
    },
  },
  {
    name: 'random messages and ranges, cut off anywhere: 200 authenticated connections',
    needs: ['tcp'],
    async body(cluster) {
      await cluster.start([0, 0]);
      await cluster.load(0, { bytesPerSecond: (1 << 20) / cluster.network.slow });
      const kinds = Object.values(impertinences);
      for (let i = 0; i < 200 / cluster.network.slow; i++) {
        const connection = await door(cluster, 0);
        await callIn(connection, { ...stranger, node: `x${i % 7}` });
        const bytes = Buffer.concat([message(offer()), ...(kinds[i % kinds.length] as Buffer[])]);
        const spoiled = Buffer.from(bytes);
        for (let flips = 0; flips < i % 4; flips++) {
          const at = Math.floor(Math.random() * spoiled.length);
          spoiled[at] = (spoiled[at] as number) ^ (1 << (i % 8));
        }
        connection.send(spoiled.subarray(0, Math.ceil(Math.random() * spoiled.length)));
        if (i % 3 === 0) await pause(2);
        connection.end();
      }
      await cluster.progress(20);
      expectUndisturbed(cluster);
      await cluster.verify();
    },
  },
  relayed(
    'a bit flipped in a range: the frame is refused, the link renewed',
    (count) => (item) => {
      if (!isRange(item) || !now(count)) return whole(item);
      const body = Buffer.from(item.body);
      const at = (count.ranges * 7919) % body.length;
      body[at] = (body[at] as number) ^ 1;
      return [item.header, body];
    },
    'WALSHIP_ERR_FRAME_INVALID',
  ),
  relayed(
    'a range that is missing',
    (count) => (item) => (isRange(item) && now(count) ? [] : whole(item)),
    'WALSHIP_ERR_LINK_PROTOCOL',
  ),
  relayed(
    'a range that comes twice',
    (count) => (item) => (isRange(item) && now(count) ? [...whole(item), ...whole(item)] : whole(item)),
    'WALSHIP_ERR_LINK_PROTOCOL',
  ),
  relayed('a connection that ends in the middle of a range', (count) => (item) => {
    if (!isRange(item) || !now(count)) return whole(item);
    // The rest never comes: what follows lands in the range, and is not what was promised.
    return [item.header, item.body.subarray(0, item.body.length >> 1)];
  }),
  relayed(
    'a connection that ends between two ranges',
    (count) => (item) => (isRange(item) && now(count) ? 'cut' : whole(item)),
    'WALSHIP_ERR_LINK_CLOSED',
  ),
  {
    ...relayed(
      'a connection over which nothing comes any more',
      (count) => (item) => (isRange(item) && now(count) ? 'stall' : whole(item)),
      'WALSHIP_ERR_LINK_TIMEOUT',
    ),
    seconds: 60,
  },
  {
    name: 'an upstream that lies: the standby keeps its log and finds back',
    needs: ['tcp'],
    async body(cluster) {
      await cluster.start([0, 0, 0]);
      await cluster.load(0);
      await cluster.progress(100);
      const end = await cluster.endLoad();
      expect(end.unacknowledged).toBe(0);
      await cluster.caughtUp(2, 0);
      const { flushed } = await cluster.member(2).process.positions();
      const lies: readonly ((connection: RawConnection) => Promise<void>)[] = [
        async (connection) => connection.send(randomBytes(5000)),
        async (connection) => connection.send(answer(1, 1n, position())),
        async (connection) => connection.send(answer(1, 0n, position(flushed))),
        async (connection) => connection.send(answer(2, 1n, position(flushed + 1000n))),
        async (connection) => connection.send(answer(2, 1n, position(0n))), // cut everything away, committed as it is
        async (connection) => connection.send(answer(2, 1n, position(flushed))),
        async (connection) => connection.send(answer(9, 1n, position(flushed))),
        async (connection) => connection.send(message(randomBytes(100))),
        async (connection) => connection.send(range(1, 0, randomBytes(1000))),
        async (connection) => connection.send(wireHeader(2, 100)),
        async (connection) => connection.send(message(ack([1n, 1n, 1n]))),
      ];
      let turn = 0;
      const liar = await fakeUpstream(cluster, async (connection) => {
        await (lies[turn++ % lies.length] as (typeof lies)[number])(connection);
      });
      await cluster.member(2).process.follow({ address: liar.address, node: 'liar' });
      await cluster.until('every lie was told', () => liar.sessions() > lies.length, 30);
      const codes = new Set(cluster.events(2, 'upstream-down').map(({ code }) => code));
      cluster.note(`${liar.sessions()} sessions; the standby says ${[...codes].join(', ')}`);
      expect((await cluster.member(2).process.positions()).flushed).toBe(flushed);
      await cluster.follow(2, 0);
      await cluster.until('it is streaming', () => cluster.isLinked(2, 0));
      await cluster.load(0);
      await cluster.progress(50);
      await cluster.verify();
    },
  },
  {
    name: 'a fake primary without the secret gets nothing out of a standby',
    needs: ['tcp'],
    async body(cluster) {
      await cluster.open(0);
      const offered: Buffer[] = [];
      const server = await listen(cluster.network.ownAddress, async (connection) => {
        await answerCall(connection, {
          cluster: credentials.id,
          node: 'liar',
          secret: 'not the secret at all',
        });
        offered.push(await connection.read(1, 300).catch(() => Buffer.alloc(0)));
        connection.end();
      });
      cluster.onEnd(() => void server.close());
      const { port } = server.address() as { port: number };
      await cluster.member(0).process.follow({ address: `${cluster.network.ownAddress}:${port}` });
      await cluster.until('three calls', () => offered.length >= 3);
      expect(offered.every((each) => each.length === 0)).toBe(true);
      expect(cluster.events(0, 'upstream-unreachable').every(({ code }) => code === 'WALSHIP_ERR_AUTH')).toBe(
        true,
      );
      await cluster.close(0);
    },
  },
];

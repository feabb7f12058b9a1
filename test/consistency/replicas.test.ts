// The monitor over real nodes: what it says against what is done to them.
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { AdminClient, type Node } from '../../src/index.js';
import { until } from '../cli/support.js';
import { Disk } from '../lib/disk.js';
import { Throttle } from '../lib/throttle.js';
import { knows, Lab, load, pause, quick, replica } from './support.js';

test('lag in time is the truth: of a standby that stands still, and that is taken for gone', async () => {
  const lab = new Lab();
  const { node: a, lines } = await lab.node('a', 'primary');
  const b = await lab.standbyProcess('b', a.engine.listenPort);
  await knows(a, 'b');
  // However long nothing is written: what is there is all there is.
  a.engine.append(Buffer.alloc(1000));
  await pause(700);
  expect(replica(a, 'b')).toMatchObject({ lagBytes: 0, lagMs: 0, appliedLagMs: 0, applyLagBytes: 0 });
  const asked = new AdminClient({ socket: join(b.dir, 'walship.sock') });
  const idle = (await asked.status()).monitor.replicas.find(({ node }) => node === 'b');
  expect(idle?.appliedLagMs).toBeLessThan(300);

  process.kill(b.pid as number, 'SIGSTOP');
  onTestFinished(() => void process.kill(b.pid as number, 'SIGCONT'));
  await pause(300);
  // The first byte that it lacks is made here, and not when it was heard last.
  a.engine.append(Buffer.alloc(1000));
  const made = performance.now();
  for (const seconds of [0.5, 1.5, 2.5]) {
    await pause(made + 1000 * seconds - performance.now());
    // One look may be an old one: this process has other things to do than to look.
    await until('the lag is the truth', () => {
      const { lagMs, lagBytes, appliedLagMs } = replica(a, 'b');
      const truth = performance.now() - made;
      return lagBytes === 1000 && [lagMs, appliedLagMs].every((ms) => Math.abs((ms ?? 0) - truth) < 60);
    });
  }
  expect(replica(a, 'b').link).toBe('lost');
  await until('it is found', () =>
    lines.some(({ event, level }) => event === 'replica-stalled' && level === 'warn'),
  );
  const found = lines.find(({ event }) => event === 'replica-stalled');
  expect(found).toMatchObject({ code: 'WALSHIP_ERR_MONITOR_STALLED', facts: { node: 'b', over: false } });
  expect(a.journal().entries.map(({ event }) => event)).toContain('replica-stalled');
  // It goes on, and has everything.
  process.kill(b.pid as number, 'SIGCONT');
  await until('it is over', () =>
    lines.some(({ event, level }) => event === 'replica-stalled' && level === 'info'),
  );
  expect(replica(a, 'b')).toMatchObject({ link: 'up', lagBytes: 0, lagMs: 0 });
});

test('behind a slow wire: the standby itself knows how late it is, although each message has just arrived', async () => {
  const lab = new Lab();
  const { node: a, lines } = await lab.node('a', 'primary');
  const wire = await Throttle.start(a.engine.listenPort, 1 << 20);
  onTestFinished(() => wire.close());
  const { node: b } = await lab.node('b', 'standby', wire.port);
  const { node: c, lines: linesOfC } = await lab.node('c', 'standby', b.engine.listenPort);
  await knows(a, 'b', 'c');
  const marks: { lsn: bigint; at: number }[] = [];
  const timer = setInterval(() => {
    const lsn = a.engine.append(Buffer.alloc(32 * 1024, 7));
    marks.push({ lsn, at: performance.now() });
  }, 20);
  onTestFinished(() => clearInterval(timer));
  /** For how long a node has lacked something, by what this test knows. */
  const truth = (node: Node) => {
    const has = node.engine.positions.applied;
    const first = marks.find(({ lsn }) => lsn > has);
    return first ? performance.now() - first.at : 0;
  };
  const seen: number[][] = [];
  for (let i = 0; i < 40; i++) {
    await pause(100);
    for (const node of [b, c]) {
      const before = truth(node);
      const said = node.engine.appliedAgeMs;
      const row = [before, said];
      seen.push(row);
      // Never less than the truth; more only by what heartbeats and acknowledgements take on this wire.
      expect(said).toBeGreaterThan(before - 5);
    }
  }
  clearInterval(timer);
  const late = seen.map(([before]) => before as number);
  expect(Math.max(...late)).toBeGreaterThan(1000);
  console.log(
    `truth and what was said, ms: ${seen
      .slice(-4)
      .map((row) => row.map(Math.round).join('/'))
      .join(' ')}`,
  );
  await until('the primary finds the drift', () => lines.some(({ event }) => event === 'replica-drifting'));
  expect(lines.find(({ event }) => event === 'replica-drifting')?.facts).toMatchObject({ node: 'b' });
  // What is behind its upstream, and what behind the primary, are told apart.
  const { hopLagBytes, lagBytes, parent } = replica(a, 'c');
  expect(parent).toBe('b');
  expect(hopLagBytes).toBeLessThan(lagBytes);
  wire.bytesPerSecond = Number.POSITIVE_INFINITY;
  await until('all have everything', () => c.engine.positions.applied === a.engine.positions.received);
  await until('it is over', () =>
    lines.some(({ event, level }) => event === 'replica-drifting' && level === 'info'),
  );
  await until('c is near again', () => c.engine.appliedAgeMs < 200);
  expect(linesOfC.filter(({ level }) => level === 'error')).toEqual([]);
});

test.skipIf(process.getuid?.() !== 0)(
  "a standby's disk is told of before it is full, and when it is",
  async () => {
    const lab = new Lab();
    mkdirSync(join(lab.dir, 'b'), { recursive: true });
    const disk = new Disk(join(lab.dir, 'b'), 64);
    onTestFinished(() => disk.remove());
    const { node: a, lines: linesOfA } = await lab.node('a', 'primary');
    const limits = { ...quick, diskMs: 4000, diskBytes: 4 << 20, rateMs: 200 };
    const { node: b, lines } = await lab.node('b', 'standby', a.engine.listenPort, limits, {
      dir: disk.log,
      log: { pageBytes: 65_536, segmentBytes: 1 << 20, spareSegments: 1, zeroFill: true },
    });
    await knows(a, 'b');
    const writing = load(a, 64 * 1024, 10);
    await until('it will be full', () => lines.some(({ event }) => event === 'disk-filling'));
    expect(b.status().storageProblem).toBe('');
    const free = b.status().monitor.disk?.freeBytes as number;
    expect(free).toBeGreaterThan(limits.diskBytes / 2);
    await until('it is as good as full', () => lines.some(({ event }) => event === 'disk-full'));
    expect(lines.find(({ event }) => event === 'disk-full')).toMatchObject({
      level: 'error',
      facts: { node: 'b' },
    });
    await until('it is full', () => b.status().storageProblem !== '');
    await until('the primary finds that it stands still', () =>
      linesOfA.some(({ event }) => event === 'replica-stalled'),
    );
    expect(replica(a, 'b').link).toBe('up');
    writing.stop();
  },
);

test('a reader that is away: the log will be trimmed past it, and is', async () => {
  const lab = new Lab();
  const log = {
    pageBytes: 65_536,
    segmentBytes: 1 << 20,
    spareSegments: 0,
    retainBytes: 1 << 20,
    retainBytesMax: 16 << 20,
  };
  const limits = { ...quick, trimMs: 2000, rateMs: 300 };
  const { node: a, lines } = await lab.node('a', 'primary', 0, limits, { log });
  const { node: b } = await lab.node('b', 'standby', a.engine.listenPort, quick, { log });
  await knows(a, 'b');
  a.engine.append(Buffer.alloc(1000));
  await until('b has it', () => replica(a, 'b').lagBytes === 0);
  await b.stop();
  const began = performance.now();
  const writing = load(a, 32 * 1024, 10);
  await until('it is told', () => lines.some(({ event }) => event === 'log-trim-near'));
  const told = performance.now();
  const inMs = replica(a, 'b').trimInMs as number;
  expect(a.engine.status().log.firstLsn).toBe(0n);
  await until('it is so', () => replica(a, 'b').trimInMs === 0);
  const tookMs = performance.now() - told;
  writing.stop();
  console.log(
    `told after ${Math.round(told - began)} ms: in ${Math.round(inMs)} ms; it was ${Math.round(tookMs)} ms`,
  );
  expect(Math.abs(tookMs - inMs)).toBeLessThan(0.5 * inMs + 300);
});

// Records bench/traces/lagging-standbys.trace.gz: npx tsx bench/cache/record.ts [SECONDS]
//
// A primary with a small arena appends at a steady pace. Three standbys follow; each is away for a while of its own and
// comes back far behind, and a reader tails the log at the primary. Every page that a session or the reader wants is an
// access, as the engine saw it.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Engine } from '../../src/engine/engine.js';
import type { TracedAccess } from '../../src/engine/native.js';
import { writeTrace } from './trace.js';

const seconds = Number(process.argv[2] ?? 30);
const dir = mkdtempSync(join(tmpdir(), 'walship-trace-'));
const cluster = { id: 'trace', secret: 'a secret for the recording only' };
const log = { pageBytes: 65536, segmentBytes: 4 << 20, zeroFill: false };
const bytesPerSecond = 24 << 20;
const appendBytes = 16384;

const primary = await Engine.open({
  dir: join(dir, 'primary'),
  nodeId: 'primary',
  cluster,
  log,
  listen: '127.0.0.1:0',
  transport: 'tcp',
  arena: { bytes: 16 << 20 },
  durability: { sync: 'interval', intervalMs: 20 },
});
await primary.promote();
const upstream = { address: `127.0.0.1:${primary.listenPort}` };
const standbys = await Promise.all(
  [1, 2, 3].map((number) =>
    Engine.open({
      dir: join(dir, `standby-${number}`),
      nodeId: `standby-${number}`,
      cluster,
      log,
      transport: 'tcp',
      arena: { bytes: 8 << 20 },
      durability: { sync: 'interval', intervalMs: 20 },
    }),
  ),
);
for (const standby of standbys) await standby.follow(upstream);
primary.traceAccesses(true);

const end = performance.now() + seconds * 1000;
const running = () => performance.now() < end;

async function append(): Promise<void> {
  const bytes = Buffer.alloc(appendBytes, 7);
  const start = performance.now();
  for (let sent = 0; running(); ) {
    const due = ((performance.now() - start) / 1000) * bytesPerSecond;
    for (; sent < due; sent += appendBytes) await primary.appendWhenWritable(bytes);
    await sleep(2);
  }
}

/** Present for a while, away for a while: the longer away, the further behind it comes back. */
async function comeAndGo(standby: Engine, presentMs: number, awayMs: number): Promise<void> {
  while (running()) {
    await sleep(presentMs);
    await standby.follow();
    await sleep(awayMs);
    await standby.follow(upstream);
  }
}

async function tail(): Promise<void> {
  const abort = new AbortController();
  setTimeout(() => abort.abort(), seconds * 1000);
  for await (const chunk of primary.read(0n, { signal: abort.signal })) {
    // Sometimes the reader is slow, and finds its next page a little back.
    if (chunk.lsn % (32n << 20n) < 65536n) await sleep(150);
  }
}

const accesses: TracedAccess[] = [];
const drain = setInterval(() => accesses.push(...primary.drainTrace()), 200);
await Promise.all([
  append(),
  tail(),
  ...standbys.map((standby, index) => comeAndGo(standby, 1500 + 700 * index, [400, 1100, 2300][index] ?? 0)),
]);
clearInterval(drain);
accesses.push(...primary.drainTrace());
await Promise.all([primary, ...standbys].map((engine) => engine.close()));
rmSync(dir, { recursive: true });

const first = accesses[0]?.atMs ?? 0;
accesses.sort((one, other) => one.atMs - other.atMs);
writeTrace(
  'bench/traces/lagging-standbys.trace.gz',
  accesses.map(({ atMs, page, kind }) => ({ timeMs: Math.round((atMs - first) * 100) / 100, page, kind })),
  `Recorded by bench/cache/record.ts: a primary at ${bytesPerSecond >> 20} MiB/s with pages of 64 KiB and an arena of 256,\nthree standbys that come and go, a reader at the tail; ${seconds} s.`,
);
console.log(`${accesses.length} accesses`);

import { formatLsn } from '../engine/lsn.js';
import type { LatencySummary, Rail } from '../engine/native.js';
import type { CommitRule } from '../engine/options.js';
import type { Json } from '../node/client.js';
import type { NodeStatus } from '../node/node.js';
import { readableSize, readableTime } from '../node/units.js';
import { failoverRows, memberRows } from './members.js';
import { columns, type Paint } from './terminal.js';

type Status = Json<NodeStatus>;

/** The node asked, its upstream, and every standby below it, for people. `bytesPerSecond`: what it takes in. */
export function renderStatus(status: Status, paint: Paint, bytesPerSecond?: number): string {
  const up = readableTime(Date.now() - Date.parse(status.startedAt));
  const head = [
    `cluster ${paint.bold(status.cluster)}`,
    `node ${paint.bold(status.nodeId)}`,
    `${status.role} in epoch ${status.epoch}`,
    status.listen ? `listens on ${status.listen}` : 'does not listen',
    `up ${up}`,
    `walship ${status.version}`,
  ];
  const problems = [...status.health.problems, ...status.monitor.findings.map(({ message }) => message)];
  return [
    head.join(' · '),
    ...problems.map((problem) => paint.bad(`PROBLEM  ${problem}`)),
    '',
    ...columns([
      ['NODE', 'ROLE', 'RECEIVED', 'FLUSHED', 'APPLIED', 'LAG', 'RAIL'].map((title) => paint.dim(title)),
      ...treeRows(status, paint),
    ]),
    ...(status.failover ? ['', ...columns(memberRows(status.failover, status.nodeId, paint))] : []),
    '',
    ...columns([
      ...(status.failover ? failoverRows(status.failover, paint) : []),
      ...detailRows(status, paint, bytesPerSecond),
    ]),
  ].join('\n');
}

function treeRows(status: Status, paint: Paint): string[][] {
  const { nodeId, positions } = status;
  const upstream = status.links.find((link) => link.direction === 'upstream');
  const rows: string[][] = [];
  let indent = '';
  let lag = '';
  if (upstream) {
    rows.push([upstream.node, 'upstream', lsn(status.upstreamTailLsn), '', '', '', '']);
    indent = '└─ ';
    const own = status.monitor.replicas.find((each) => each.node === nodeId);
    lag = own ? lagText(own.lagBytes, own.applyLagBytes, own.appliedLagMs) : '';
  }
  rows.push([
    `${indent}${paint.bold(nodeId)}`,
    status.role,
    lsn(positions.received),
    lsn(positions.flushed),
    lsn(positions.applied),
    lag,
    upstream ? railText(upstream.rail) : '',
  ]);
  rows.push(...rowsBelow(status, nodeId, upstream ? '   ' : '', paint));
  return rows;
}

function rowsBelow(status: Status, parent: string, indent: string, paint: Paint): string[][] {
  const connected = status.nodes.filter((node) => node.parent === parent);
  const away = parent === status.nodeId ? awayFrom(status) : [];
  return [...connected, ...away].flatMap((child, i, all) => {
    const last = i === all.length - 1;
    const name = `${indent}${last ? '└─' : '├─'} ${child.node}`;
    if (!('received' in child)) {
      const seen = readableTime(Math.max(0, Date.now() - child.seenAt));
      return [
        [
          name,
          paint.warn('away'),
          '',
          '',
          '',
          paint.warn(`last seen ${seen} ago; log kept from ${lsn(child.lsn)}`),
          '',
        ],
      ];
    }
    const replica = status.monitor.replicas.find((each) => each.node === child.node);
    const stuck = status.monitor.findings.some((each) => each.node === child.node && each.distrusted);
    const lag = lagText(child.lagBytes, replica?.applyLagBytes ?? 0, child.appliedLagMs ?? child.lagMs);
    const row = [
      name,
      'standby',
      lsn(child.received),
      lsn(child.flushed),
      lsn(child.applied),
      stuck ? paint.bad(lag) : lag,
      railText(child.rail),
    ];
    return [row, ...rowsBelow(status, child.node, `${indent}${last ? '   ' : '│  '}`, paint)];
  });
}

/** Bytes that are missing, bytes that are not applied, and how old a read there is. */
function lagText(lagBytes: number, applyLagBytes: number, ms: number | undefined): string {
  const unapplied = applyLagBytes > 0 ? ` +${readableSize(applyLagBytes)} unapplied` : '';
  return `${readableSize(lagBytes)}${unapplied}${ms === undefined ? '' : ` ${readableTime(Math.round(ms))}`}`;
}

/** Standbys that were connected once, are not now, and for which the log is kept. */
function awayFrom(status: Status): { node: string; lsn: string; seenAt: number }[] {
  return status.log.readers
    .filter((reader) => !status.nodes.some((node) => node.node === reader.name))
    .map((reader) => ({ node: reader.name, lsn: reader.lsn, seenAt: reader.lastSeenMs }));
}

function detailRows(status: Status, paint: Paint, bytesPerSecond: number | undefined): string[][] {
  const { cache, arena, log, latency, positions } = status;
  const title = (text: string) => paint.dim(text);
  const rows: string[][] = [];
  const rule = status.role === 'primary' ? ` · rule: ${ruleText(status.commitRule)}` : '';
  rows.push([title('committed'), `${lsn(positions.committed)}${rule}`]);
  if (bytesPerSecond !== undefined) rows.push([title('rate'), `${readableSize(bytesPerSecond)}/s`]);
  rows.push([
    title('cache'),
    `${arena.used} of ${arena.slots} pages${arena.hugePages ? ', huge pages' : ''} · ` +
      `${cache.hits} hits, ${arena.loads} loads, ${cache.misses} misses, ${cache.evictions} evictions`,
  ]);
  rows.push([
    title('log'),
    `from ${lsn(log.firstLsn)} · ${readableSize(log.bytesOnDisk)} on disk in ${log.segments} segments · kept for ` +
      (log.readers.map((reader) => `${reader.name} (from ${lsn(reader.lsn)})`).join(', ') || 'nobody'),
  ]);
  rows.push(...monitorRows(status, paint));
  if (status.setAside.length > 0)
    rows.push([
      title('set aside'),
      `${status.setAside.join(', ')} in the log directory: walship log reads them`,
    ]);
  for (const [name, summary] of Object.entries(latency) as [string, LatencySummary][]) {
    if (summary.count > 0) rows.push([title(name), latencyText(summary)]);
  }
  for (const link of status.links.filter((each) => each.direction === 'downstream')) {
    const trip = [link.roundTripP50Us, link.roundTripP99Us].map((us) => readableTime(us / 1000));
    const sent = `${readableSize(link.shippedBytes)} shipped, ${readableSize(link.wireBytesSent)} on the wire`;
    rows.push([title(`to ${link.node}`), `round trip p50 ${trip[0]}, p99 ${trip[1]} · ${sent}`]);
  }
  return rows;
}

/** What the monitor has measured: how fast replicas take what is written, and when the disk will be full. */
function monitorRows({ monitor }: Status, paint: Paint): string[][] {
  const perSecond = (bytes: number) => `${readableSize(Math.round(bytes))}/s`;
  const rows = monitor.replicas
    .filter(({ link }) => link === 'up')
    .map(({ node, rates, hopLagBytes, hopLagMs }) => [
      paint.dim(`rate ${node}`),
      `receives ${perSecond(rates.received)}, flushes ${perSecond(rates.flushed)}, applies ${perSecond(rates.applied)} · ` +
        `${readableSize(hopLagBytes)}${hopLagMs === undefined ? '' : `, ${readableTime(Math.round(hopLagMs))}`} behind its upstream`,
    ]);
  const { disk } = monitor;
  if (disk) {
    const full = disk.fullInMs === undefined ? '' : ` · full in ${readableTime(disk.fullInMs)} as things go`;
    rows.push([
      paint.dim('disk'),
      `${readableSize(disk.freeBytes)} of ${readableSize(disk.totalBytes)} free${full}`,
    ]);
  }
  return rows;
}

function latencyText({ count, p50Us, p99Us, maxUs }: LatencySummary): string {
  const [p50, p99, max] = [p50Us, p99Us, maxUs].map((us) => readableTime(us / 1000));
  return `p50 ${p50}, p99 ${p99}, max ${max} of ${count}`;
}

function ruleText(rule: Json<CommitRule>): string {
  if (rule.level === 'async') return 'async';
  const names = rule.nodes?.join(', ');
  const level = `${rule.level}${rule.ownDisk === false ? ', own disk behind' : ''}`;
  if ('first' in rule) return `first ${rule.first} of ${names}, ${level}`;
  return `any ${rule.any}${names ? ` of ${names}` : ''}, ${level}`;
}

/** From the upstream's end to the node's own. */
function railText({ transport, device, local, remote }: Json<Rail>): string {
  if (transport === '') return '';
  return `${transport}${device ? ` ${device}` : ''} ${remote} → ${local}`;
}

const lsn = (text: string) => formatLsn(BigInt(text));

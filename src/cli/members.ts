import type { AgentStatus } from '../failover/agent.js';
import type { Json } from '../node/client.js';
import { readableTime } from '../node/units.js';
import type { Paint } from './terminal.js';

type Failover = Json<AgentStatus>;

/** Who belongs to the cluster, as the node asked sees it. */
export function memberRows({ members, counting }: Failover, nodeId: string, paint: Paint): string[][] {
  const head = ['MEMBER', 'ROLE', 'UPSTREAM', 'COMMITS', 'PRIORITY', 'LOG', 'CONTROLLER', 'HTTP'];
  return [
    head.map((title) => paint.dim(title)),
    ...members.map((member) => [
      member.node === nodeId ? paint.bold(member.node) : member.node,
      member.connected ? (member.role ?? 'not heard yet') : paint.warn('away'),
      member.upstream ?? '',
      counting.includes(member.node) ? 'counts' : '',
      member.nofailover ? 'nofailover' : String(member.priority),
      member.log,
      member.control,
      member.http ?? '',
    ]),
  ];
}

/** Who decides, and how it stands. */
export function failoverRows(failover: Failover, paint: Paint): string[][] {
  const { coordinator, primary, paused, leaseMs, standing } = failover;
  const state = [
    primary ? `primary ${primary.node} in epoch ${primary.epoch}` : 'there has been no primary yet',
    paused ? paint.warn('PAUSED: nobody is promoted by itself until walship resume') : 'automatic',
    ...(standing ? [paint.warn('this node stands for primary')] : []),
    ...(leaseMs === undefined
      ? []
      : [leaseMs > 0 ? `lease of ${readableTime(leaseMs)}` : paint.bad('lease has run out')]),
  ];
  const rows = [
    [paint.dim('failover'), state.join(' · ')],
    [
      paint.dim('coordinator'),
      `${coordinator.kind}, ${coordinator.up ? 'answers' : paint.bad('DOES NOT ANSWER: nobody can be promoted')}`,
    ],
  ];
  if (coordinator.caveat !== '') rows.push([paint.dim('note'), coordinator.caveat]);
  return rows;
}

import { type Capabilities, capabilities } from '../engine/capabilities.js';
import { exitCode } from './exit.js';
import { columns, jsonText, type Paint, paintFor, print } from './terminal.js';

/** `walship capabilities` */
export function showCapabilities(options: { json?: boolean }): number {
  const found = capabilities();
  print(options.json ? jsonText(found, 2) : renderCapabilities(found, paintFor(process.stdout)));
  return exitCode.ok;
}

function renderCapabilities({ version, verbs }: Capabilities, paint: Paint): string {
  const ready = verbs.state === 'ready';
  const lines = [`walship ${version}`, `TCP    ${paint.good('ready')}`];
  lines.push(
    `RDMA   ${ready ? paint.good('ready') : paint.warn(verbs.state)}${verbs.detail ? `: ${verbs.detail}` : ''}`,
  );
  if (!ready) lines.push('       Until then nodes ship over TCP, unless transport = "verbs" forbids it.');
  const rows = verbs.devices.flatMap((device) => {
    if (device.problem !== '') return [[device.name, '', paint.bad(device.problem), '', '', '']];
    return device.ports.flatMap((port) => [
      [
        device.name,
        String(port.port),
        port.state === 'ACTIVE' ? port.state : paint.warn(port.state),
        port.linkLayer,
        port.speed,
        `MTU ${port.mtuBytes}`,
      ],
      ...port.gids.map((gid) => [
        '',
        '',
        `GID ${gid.index}`,
        gid.type,
        gid.address,
        gid.netdev || 'no network device',
      ]),
    ]);
  });
  if (rows.length > 0)
    lines.push('', ...columns([['DEVICE', 'PORT', 'STATE', 'LAYER', 'SPEED', ''].map(paint.dim), ...rows]));
  return lines.join('\n');
}

import type { EngineRails, RailStatus } from '../cluster/rail-keeper.js';
import { WalshipError } from '../engine/errors.js';
import { readableTime } from '../node/units.js';
import { clientFor, type Target } from './control.js';
import { exitCode } from './exit.js';
import { columns, jsonText, type Paint, paintFor, print } from './terminal.js';

export interface RailsOptions extends Target {
  readonly pin?: readonly string[];
  readonly exclude?: readonly string[];
  readonly auto?: boolean;
  readonly json?: boolean;
}

/** `walship rails` */
export async function railsOf(options: RailsOptions): Promise<number> {
  const { pin, exclude, auto } = options;
  if (auto && (pin || exclude))
    throw new WalshipError(
      'WALSHIP_ERR_ARGUMENT',
      '--auto takes back what was pinned and excluded: give it alone',
    );
  const client = clientFor(options);
  const shown =
    pin || exclude || auto
      ? await client.chooseRails({ ...(pin && { pin }), ...(exclude && { exclude }), ...(auto && { auto }) })
      : await client.rails();
  print(options.json ? jsonText(shown, 2) : render(shown, paintFor(process.stdout)));
  return exitCode.ok;
}

function render({ upstream, rails }: EngineRails, paint: Paint): string {
  if (upstream === '') return 'this node has no upstream: a primary, or a standby that is not connected';
  if (rails.length === 0) return `one rail to ${upstream}, so there is nothing to choose`;
  return [
    `rails to ${upstream}`,
    ...columns([
      ['RAIL', 'PART', 'ROUND TRIP', 'SPEED', 'MTU', 'NUMA', 'SENT AGAIN', 'WHY'].map(paint.dim),
      ...rails.map((rail) => row(rail, paint)),
    ]),
  ].join('\n');
}

function row(rail: RailStatus, paint: Paint): string[] {
  const { name, part, why, roundTripUs, speedMbps, mtuBytes, numaNode, retransmits } = rail;
  const colour = { carries: paint.good, spare: String, down: paint.bad, excluded: paint.dim }[part];
  const given = (value: number | undefined, text: (value: number) => string) =>
    value === undefined || value <= 0 ? '–' : text(value);
  return [
    name,
    colour(part),
    given(roundTripUs, (us) => (us < 1000 ? `${Math.round(us)} µs` : readableTime(us / 1000))),
    given(speedMbps, (mbps) => `${mbps / 1000} Gbit/s`),
    given(mtuBytes, String),
    numaNode === undefined || numaNode < 0 ? '–' : String(numaNode),
    retransmits === undefined ? '–' : String(retransmits),
    part === 'down' || why.includes('degraded') ? paint.warn(why) : why,
  ];
}

import { setTimeout as sleep } from 'node:timers/promises';
import type { Finding, PassProgress } from '../consistency/pass.js';
import { WalshipError } from '../engine/errors.js';
import { formatLsn } from '../engine/lsn.js';
import type { Json } from '../node/client.js';
import { readableSize, readableTime } from '../node/units.js';
import { clientFor, type Target } from './control.js';
import { exitCode } from './exit.js';
import { columns, jsonText, type Paint, paintFor, print, withProgress } from './terminal.js';

export interface VerifyOptions extends Target {
  readonly repair?: boolean;
  /** Bytes per second; 0: no bound. */
  readonly rate: number;
  readonly json?: boolean;
}

const pollMs = 200;

/** `walship verify` */
export async function verifyNode(options: VerifyOptions): Promise<number> {
  const client = clientFor(options);
  const { number } = await client.verify({ repair: options.repair === true, bytesPerSecond: options.rate });
  const pass = await withProgress(async (onProgress) => {
    for (;;) {
      await sleep(pollMs);
      const { verify } = await client.scrub();
      if (verify?.number !== number)
        throw new WalshipError(
          'WALSHIP_ERR_VERIFY',
          'the node has been started again meanwhile; ask it anew',
        );
      if (verify.state !== 'running') return verify;
      onProgress?.(verify.doneBytes, verify.totalBytes);
    }
  });
  if (pass.state === 'failed')
    throw new WalshipError('WALSHIP_ERR_VERIFY', `it ended early: ${pass.problem}`);
  if (options.json) print(jsonText(pass, 2));
  else print(render(pass, paintFor(process.stdout)));
  if (pass.state === 'stopped') {
    process.stderr.write('walship: the node was stopped before the end\n');
    return exitCode.failed;
  }
  return bad(pass) > 0 ? exitCode.problems : exitCode.ok;
}

/** What was found and not repaired. */
function bad({ findings, findingsLeftOut }: Json<PassProgress>): number {
  return findings.filter(({ outcome }) => outcome !== 'repaired').length + findingsLeftOut;
}

function render(pass: Json<PassProgress>, paint: Paint): string {
  const { findings, findingsLeftOut, page, firstPage, pagesCompared, neighboursDamaged } = pass;
  const tookMs = Date.parse(pass.endedAt as string) - Date.parse(pass.startedAt);
  const table =
    findings.length === 0
      ? []
      : columns([
          ['PAGE', 'LSN', 'WHERE', 'OUTCOME', 'WHAT'].map(paint.dim),
          ...findings.map((finding) => row(finding, paint)),
        ]);
  const more = findingsLeftOut > 0 ? [paint.bad(`and ${findingsLeftOut} more`)] : [];
  const count = findings.length + findingsLeftOut;
  const left = bad(pass);
  const outcome =
    count === 0
      ? paint.good('all in good order')
      : left === 0
        ? paint.good(`${count} in bad order, all repaired`)
        : paint.bad(`${count} in bad order, ${count - left} repaired`);
  const theirs =
    neighboursDamaged > 0
      ? [paint.warn(`${neighboursDamaged} damaged copies on the disks of neighbours: verify those, too`)]
      : [];
  const size = readableSize(pass.doneBytes);
  const summary = `${page - firstPage} pages (${size}) in ${readableTime(tookMs)}, ${pagesCompared} of them compared with another node's; ${outcome}`;
  return [...table, ...more, ...theirs, summary].join('\n');
}

function row({ page, lsn, place, what, outcome, source, copy }: Json<Finding>, paint: Paint): string[] {
  const from = source === undefined ? '' : ` from ${source}`;
  const said =
    outcome === 'isolated'
      ? paint.bad('isolated')
      : outcome === 'repaired'
        ? paint.good(`repaired${from}`)
        : paint.warn(`repairable${from}`);
  const kept = copy === undefined ? '' : `; a copy is in ${copy}`;
  return [String(page), lsn === undefined ? '' : formatLsn(BigInt(lsn)), place, said, what + kept];
}

import { existsSync } from 'node:fs';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type JournalEntry, mergeJournals, readJournal } from '../consistency/journal.js';
import { WalshipError } from '../engine/errors.js';
import { formatLsn } from '../engine/lsn.js';
import { stampOf, timeOf } from '../failover/clock.js';
import { AdminClient, parseAdminAddress } from '../node/client.js';
import { journalDir } from '../node/node.js';
import { clientFor, type Target } from './control.js';
import { exitCode } from './exit.js';
import { columns, jsonText, type Paint, paintFor, print } from './terminal.js';

export interface JournalOptions extends Target {
  readonly since?: Date;
  readonly node?: string;
  readonly follow?: boolean;
  readonly json?: boolean;
}

const followMs = 500;
/** With --follow entries wait so long for earlier ones of other nodes. */
const settleMs = 1000;

/** Entries of every node that could be asked, and what could not be had, in words. */
interface Gathered {
  readonly entries: readonly JournalEntry[];
  readonly missing: readonly string[];
}

/** `walship journal` */
export async function showJournal(options: JournalOptions): Promise<number> {
  const client = clientFor(options);
  const since = options.since ? stampOf(options.since) - 1n : 0n;
  let { entries, missing } = await gather(client, since);
  let told = new Set<string>();
  const tellMissing = () => {
    for (const each of missing) if (!told.has(each)) process.stderr.write(`walship: ${each}\n`);
    told = new Set(missing);
  };
  tellMissing();
  if (!options.follow) {
    show(entries, options);
    return exitCode.ok;
  }
  for (let shown = since; ; ) {
    const settled = stampOf(new Date(Date.now() - settleMs));
    const due = entries.filter(({ clock }) => clock > shown && clock <= settled);
    show(due, options);
    shown = due.at(-1)?.clock ?? shown;
    await sleep(followMs);
    ({ entries, missing } = await gather(client, shown));
    tellMissing();
  }
}

async function gather(client: AdminClient, after: bigint): Promise<Gathered> {
  const missing: string[] = [];
  let own: readonly JournalEntry[];
  let others: readonly { readonly node: string; readonly http?: string }[] = [];
  try {
    const [status, journal] = await Promise.all([client.status(), wholeJournal(client, after)]);
    others = (status.failover?.members ?? []).filter(({ node }) => node !== status.nodeId);
    own = journal.entries;
    missing.push(...journal.damaged);
  } catch (error) {
    const files = filesOf(client);
    if (!(error instanceof WalshipError) || files === undefined) throw error;
    const { entries, damaged } = readJournal(files, { after });
    own = entries;
    missing.push(...damaged, `${error.message}; this is what its files say, and no other node's`);
  }
  const journals = await Promise.all(
    others.map(async ({ node, http }) => {
      try {
        if (http === undefined) throw new Error('it has no admin_listen');
        const { entries, damaged } = await wholeJournal(new AdminClient(parseAdminAddress(http)), after);
        missing.push(...damaged);
        return entries;
      } catch (error) {
        missing.push(`the journal of '${node}' is missing here: ${(error as Error).message}`);
        return [];
      }
    }),
  );
  return { entries: mergeJournals([own, ...journals]), missing };
}

async function wholeJournal(client: AdminClient, after: bigint) {
  const [entries, damaged]: [JournalEntry[], Set<string>] = [[], new Set()];
  for (let more = true; more; ) {
    const part = await client.journal(entries.at(-1)?.clock ?? after);
    for (const entry of part.entries) {
      entries.push({
        ...entry,
        clock: BigInt(entry.clock),
        epoch: BigInt(entry.epoch),
        lsn: BigInt(entry.lsn),
      });
    }
    for (const place of part.damaged) damaged.add(place);
    more = part.more && part.entries.length > 0;
  }
  return { entries, damaged };
}

/** A node's journal beside its socket, if it is in its log directory. */
function filesOf({ address }: AdminClient): string | undefined {
  if (!('socket' in address)) return undefined;
  const dir = journalDir(dirname(address.socket));
  return existsSync(dir) ? dir : undefined;
}

function show(entries: readonly JournalEntry[], { node, json }: JournalOptions): void {
  const wanted = entries.filter((entry) => node === undefined || entry.node === node);
  if (wanted.length === 0) return;
  const paint = paintFor(process.stdout);
  print(
    json
      ? wanted.map((entry) => jsonText(entry)).join('\n')
      : columns(wanted.map((entry) => row(entry, paint))).join('\n'),
  );
}

function row({ clock, node, epoch, lsn, level, message }: JournalEntry, paint: Paint): string[] {
  const text = message.replace(/\s*\n\s*/g, ' ');
  const said = level === 'error' ? paint.bad(text) : level === 'warn' ? paint.warn(text) : text;
  return [paint.dim(timeOf(clock).toISOString()), paint.bold(node), `epoch ${epoch}`, formatLsn(lsn), said];
}

import { existsSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { WalshipError } from '../engine/errors.js';
import { AdminClient, type Json, parseAdminAddress, type RoleChange } from '../node/client.js';
import { adminSocketOf, defaultAdminSocket } from '../node/config.js';
import type { NodeStatus } from '../node/node.js';
import { exitCode, UsageError } from './exit.js';
import { jsonText, paintFor, print } from './terminal.js';
import { renderStatus } from './tree.js';

/** Which node is meant. */
export interface Target {
  readonly config?: string;
  readonly dir?: string;
  readonly url?: string;
}

export const defaultConfigFile = 'walship.toml';

export function clientFor({ config, dir, url }: Target): AdminClient {
  if (url !== undefined) return new AdminClient(parseAdminAddress(url));
  if (dir !== undefined) return new AdminClient({ socket: defaultAdminSocket(dir) });
  if (config === undefined && !existsSync(defaultConfigFile)) {
    throw new UsageError(
      `which node? There is no ${defaultConfigFile} in this directory: give --config FILE, --dir DIR or --url URL`,
    );
  }
  return new AdminClient({ socket: adminSocketOf(config ?? defaultConfigFile) });
}

export interface StatusOptions extends Target {
  readonly json?: boolean;
  /** Seconds between two looks. */
  readonly watch?: number;
}

/** `walship status` */
export async function showStatus(options: StatusOptions): Promise<number> {
  const client = clientFor(options);
  if (options.watch === undefined) {
    const status = await client.status();
    print(options.json ? jsonText(status, 2) : renderStatus(status, paintFor(process.stdout)));
    return exitCode.ok;
  }
  return watch(client, options.watch * 1000, options.json === true);
}

/** Looks again and again until a signal ends it, also past a restart of the node. */
async function watch(client: AdminClient, everyMs: number, json: boolean): Promise<never> {
  const paint = paintFor(process.stdout);
  const frame = (text: string) => print(process.stdout.isTTY ? `\u001b[H\u001b[2J${text}` : `${text}\n`);
  let status = await client.status();
  let at = performance.now();
  let rate: number | undefined;
  while (true) {
    if (json) print(jsonText(status));
    else frame(renderStatus(status, paint, rate));
    await sleep(everyMs);
    const [before, beforeAt] = [status, at];
    status = await client.status().catch(async (error: Error) => {
      if (!json) frame(paint.bad(`PROBLEM  ${error.message}`));
      return firstAnswer(client, everyMs);
    });
    at = performance.now();
    const bytes = Number(BigInt(status.positions.received) - BigInt(before.positions.received));
    rate = Math.max(0, (bytes * 1000) / (at - beforeAt));
  }
}

async function firstAnswer(client: AdminClient, everyMs: number): Promise<Json<NodeStatus>> {
  while (true) {
    await sleep(everyMs);
    try {
      return await client.status();
    } catch (error) {
      if (!(error instanceof WalshipError)) throw error;
    }
  }
}

/** `walship promote` */
export async function promote(options: Target & { readonly epoch?: bigint }): Promise<number> {
  const change = await clientFor(options).promote(options.epoch);
  report(`primary in epoch ${change.epoch}`, change);
  return exitCode.ok;
}

/** `walship follow` */
export async function follow(
  address: string | undefined,
  options: Target & { readonly node?: string; readonly none?: boolean },
): Promise<number> {
  if ((address === undefined) !== (options.none === true)) {
    throw new UsageError('follow whom? Give either the HOST:PORT of the upstream, or --none');
  }
  const change = await clientFor(options).follow({ address: address ?? null, node: options.node });
  report(address === undefined ? 'standby that follows nobody' : `standby, follows ${address}`, change);
  return exitCode.ok;
}

function report(done: string, { note }: RoleChange): void {
  print(done);
  if (note) print(paintFor(process.stdout).warn(`note: ${note}`));
}

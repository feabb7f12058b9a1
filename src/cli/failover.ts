import type { CommandOutcome } from '../node/client.js';
import { clientFor, type Target } from './control.js';
import { exitCode } from './exit.js';
import { print } from './terminal.js';

/** `walship switchover` */
export function switchover({ to, ...target }: Target & { readonly to?: string }): Promise<number> {
  return tell(clientFor(target).switchover(to));
}

/** `walship failover` */
export function failover({
  to,
  acceptDataLoss = false,
  ...target
}: Target & { readonly to?: string; readonly acceptDataLoss?: boolean }): Promise<number> {
  return tell(clientFor(target).failover({ to, acceptDataLoss }));
}

/** `walship pause` */
export function pause(target: Target): Promise<number> {
  return tell(clientFor(target).pause());
}

/** `walship resume` */
export function resume(target: Target): Promise<number> {
  return tell(clientFor(target).resume());
}

/** `walship rejoin` */
export function rejoin({
  discardCommitted = false,
  ...target
}: Target & { readonly discardCommitted?: boolean }): Promise<number> {
  return tell(clientFor(target).rejoin(discardCommitted));
}

/** `walship forget` */
export function forget(node: string, target: Target): Promise<number> {
  return tell(clientFor(target).forget(node));
}

async function tell(outcome: Promise<CommandOutcome>): Promise<number> {
  print((await outcome).message);
  return exitCode.ok;
}

// The child's side of a bench's process: does what its parent says over IPC, and ends with it.

export interface Request {
  readonly id: number;
  readonly call: string;
  readonly argument: unknown;
}
export type Reply =
  | { readonly id: number; readonly value: unknown }
  | { readonly id: number; readonly error: string };

/** Answers each request with what the function of that name gives: one argument, one answer. */
export function serve(calls: Readonly<Record<string, (argument: never) => Promise<unknown>>>): void {
  process.on('message', async ({ id, call, argument }: Request) => {
    let reply: Reply;
    try {
      reply = { id, value: await (calls[call] as (argument: unknown) => Promise<unknown>)(argument) };
    } catch (error) {
      reply = { id, error: error instanceof Error ? (error.stack ?? error.message) : String(error) };
    }
    process.send?.(reply);
  });
  process.on('disconnect', () => process.exit(1));
}

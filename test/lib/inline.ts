// Runs a piece of JavaScript in a node process of its own, for what must not happen in the test's.
import { spawn } from 'node:child_process';

export interface Outcome {
  readonly code: number | null;
  readonly signal: string | null;
  readonly stdout: string;
  readonly stderr: string;
  readonly milliseconds: number;
}

const entry = new URL('../../dist/index.js', import.meta.url).href;

/** `body` finds `Engine`, `capabilities` and `options` of the built package; `argument` is JSON. */
export async function runInline(
  body: string,
  argument: unknown = {},
  prefix: readonly string[] = [],
): Promise<Outcome> {
  const script = `import { Engine, capabilities } from ${JSON.stringify(entry)};
const argument = ${JSON.stringify(argument)};
${body}`;
  const command = [...prefix, process.execPath, '--input-type=module', '--eval', script];
  const started = performance.now();
  const child = spawn(command[0] as string, command.slice(1), { stdio: ['ignore', 'pipe', 'pipe'] });
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (chunk: Buffer) => {
    stdout += chunk;
  });
  child.stderr.on('data', (chunk: Buffer) => {
    stderr += chunk;
  });
  const timer = setTimeout(() => child.kill('SIGKILL'), 60_000);
  const [code, signal] = await new Promise<[number | null, string | null]>((resolve) => {
    child.on('close', (...end) => resolve(end));
  });
  clearTimeout(timer);
  return { code, signal, stdout, stderr, milliseconds: performance.now() - started };
}

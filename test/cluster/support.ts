import { type ChildProcess, fork } from 'node:child_process';
import { request } from 'node:http';
import { fileURLToPath } from 'node:url';
import type { Target } from '../../src/cluster/choose.js';
import { notApplied } from '../../src/cluster/outcome.js';

const script = fileURLToPath(new URL('node.mjs', import.meta.url));

interface State {
  readonly role: 'primary' | 'standby';
  readonly epoch: number;
  readonly applied?: number;
  /** Whom it takes for the primary, and of which epoch. */
  readonly primary?: { node: string; epoch: number };
  readonly members?: readonly ShownNode[];
  readonly healthy?: boolean;
}

/** A node.mjs. */
export class ShownNode {
  readonly name: string;
  readonly port: number;
  readonly #child: ChildProcess;

  private constructor(name: string, port: number, child: ChildProcess) {
    this.name = name;
    this.port = port;
    this.#child = child;
  }

  /** `notes`: a file that gets a line for each write that it does. */
  static async start(name: string, state: State, port = 0, notes = ''): Promise<ShownNode> {
    const child = fork(script, [String(port), notes]);
    const { port: listening } = await new Promise<{ port: number }>((resolve, reject) => {
      child.once('message', (message) => resolve(message as { port: number }));
      child.once('exit', (code) => reject(new Error(`node.mjs ended with ${code}`)));
    });
    const node = new ShownNode(name, listening, child);
    await node.show(state);
    return node;
  }

  get http(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  /** `quietly`: without a new version, as positions change. */
  async show(state: State, quietly = false): Promise<void> {
    const { role, epoch, primary, applied = 0, members = [], healthy = true } = state;
    const position = String(applied);
    await this.#order({
      quietly,
      set: {
        node: this.name,
        role,
        epoch: String(epoch),
        ...(primary && { primary: { node: primary.node, log: 'log:1', epoch: String(primary.epoch) } }),
        members: members.map(({ name, port }) => ({
          node: name,
          http: `127.0.0.1:${port}`,
          log: `log-${name}:1`,
        })),
        positions: { received: position, flushed: position, applied: position, committed: position },
        health: { ok: healthy },
      },
    });
  }

  /** What becomes of writes: ok, refuse (not done), drop (done, and the connection breaks), hang (done, no answer). */
  async mode(mode: 'ok' | 'refuse' | 'drop' | 'hang' | 'garbage'): Promise<void> {
    await this.#order({ mode });
  }

  async written(): Promise<number> {
    return (await this.#order({ count: true })).written;
  }

  signal(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }

  async kill(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const exited = new Promise((resolve) => this.#child.once('exit', resolve));
    this.#child.kill('SIGKILL');
    await exited;
  }

  #order(order: object): Promise<{ written: number }> {
    return new Promise((resolve) => {
      this.#child.once('message', (message) => resolve(message as { written: number }));
      this.#child.send(order);
    });
  }
}

/** A client's write. The answer is how many the node has done. */
export function write(primary: Target, signal?: AbortSignal, id = ''): Promise<number> {
  return new Promise((resolve, reject) => {
    const asked = request(
      `${primary.http}/write?${id}`,
      { method: 'POST', agent: false, signal },
      (response) => {
        let text = '';
        response.setEncoding('utf8').on('data', (part) => {
          text += part;
        });
        response.on('end', () => {
          if (response.statusCode === 200) resolve(Number(text));
          else reject(notApplied(new Error(`HTTP ${response.statusCode}`)));
        });
      },
    );
    asked.on('error', reject);
    asked.end();
  });
}

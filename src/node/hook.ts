import { spawn } from 'node:child_process';

/** A role that a node has taken. */
export interface RoleTaken {
  readonly role: 'primary' | 'standby';
  readonly epoch: bigint;
  readonly node: string;
  readonly cluster: string;
}

const outputBytesMax = 2000;

/**
 * Runs a program for every change of role, for virtual IP addresses and the like: one run at a time, in order, with the
 * arguments role, epoch and node, and WALSHIP_ROLE, WALSHIP_EPOCH, WALSHIP_NODE and WALSHIP_CLUSTER in its environment.
 * Whatever becomes of it, the role stays.
 */
export class RoleHook {
  readonly #path: string;
  readonly #timeoutMs: number;
  readonly #onFailure: (message: string) => void;
  #running: Promise<void> = Promise.resolve();
  /** What the newest run was started for, or will be. */
  #last: 'primary' | 'standby' | undefined;

  constructor(path: string, timeoutMs: number, onFailure: (message: string) => void) {
    this.#path = path;
    this.#timeoutMs = timeoutMs;
    this.#onFailure = onFailure;
  }

  get last(): 'primary' | 'standby' | undefined {
    return this.#last;
  }

  run(taken: RoleTaken): void {
    this.#last = taken.role;
    this.#running = this.#running.then(async () => {
      const problem = await this.#spawn(taken);
      if (problem !== undefined) {
        this.#onFailure(`${this.#path} ${taken.role} ${taken.epoch} ${taken.node}: ${problem}`);
      }
    });
  }

  /** Until every run asked for so far has ended. */
  idle(): Promise<void> {
    return this.#running;
  }

  /** @returns what went wrong */
  #spawn({ role, epoch, node, cluster }: RoleTaken): Promise<string | undefined> {
    // The cluster's secret is the node's alone.
    const { WALSHIP_SECRET: _, ...inherited } = process.env;
    const env = {
      ...inherited,
      WALSHIP_ROLE: role,
      WALSHIP_EPOCH: String(epoch),
      WALSHIP_NODE: node,
      WALSHIP_CLUSTER: cluster,
    };
    return new Promise((resolve) => {
      // A process group of its own: what it starts ends with it.
      const child = spawn(this.#path, [role, String(epoch), node], {
        env,
        detached: true,
        stdio: ['ignore', 'pipe', 'pipe'],
      });
      let said = '';
      const listen = (part: Buffer) => {
        if (said.length < outputBytesMax) said += part;
      };
      child.stdout.on('data', listen);
      child.stderr.on('data', listen);
      let late = false;
      const timer = setTimeout(() => {
        late = true;
        try {
          process.kill(-(child.pid as number), 'SIGKILL');
        } catch {
          // It has just ended.
        }
      }, this.#timeoutMs);
      child.once('error', (error) => {
        clearTimeout(timer);
        resolve(error.message);
      });
      // Not `close`: what it has left running in the background may keep its output open.
      child.once('exit', (code, signal) => {
        clearTimeout(timer);
        const how = late
          ? `was ended after ${this.#timeoutMs} ms`
          : code === 0
            ? undefined
            : code === null
              ? `was ended by ${signal}`
              : `exit code ${code}`;
        resolve(how && (said.trim() === '' ? how : `${how}: ${said.trim().slice(0, outputBytesMax)}`));
      });
    });
  }
}

import { setTimeout as sleep } from 'node:timers/promises';
import type { Engine } from '../../engine/engine.js';
import { settled } from '../../engine/native.js';
import type { PostgresServerControl } from './managed.js';
import type { NativeReceiver, NativeSender } from './native.js';

/** What the server beside a node is to be. */
export type ServerGoal =
  | { readonly role: 'primary' }
  /** `from`: the primary server as a connection string, as soon as it is known. */
  | { readonly role: 'standby'; readonly from: () => string | undefined }
  /** `immediate`: as a crash; `fast`: after all that it has written is in the log. */
  | { readonly role: 'stopped'; readonly mode: 'immediate' | 'fast' };

/** Something that was done to the server, or that keeps it from being what it should be. */
export type Teller = (level: 'info' | 'warn', message: string) => void;

const retryMs = 300;
/** How often it is looked whether the server still runs. */
const watchMs = 200;
const pollMs = 5;

/**
 * Makes the server beside a node what it is to be, for as long as it takes, and starts it again when it dies. The newest goal
 * counts: work for an older one ends at its next step.
 */
export class ServerKeeper {
  readonly #engine: Engine;
  readonly #server: PostgresServerControl;
  readonly #receiver: NativeReceiver;
  readonly #sender: NativeSender;
  readonly #tell: Teller;
  #goal: ServerGoal | undefined;
  #reached: ServerGoal | undefined;
  #streams = false;
  #wake = () => {};
  #closed = false;
  readonly #ended: Promise<void>;

  constructor(
    engine: Engine,
    server: PostgresServerControl,
    ends: { receiver: NativeReceiver; sender: NativeSender },
    tell: Teller,
  ) {
    this.#engine = engine;
    this.#server = server;
    this.#receiver = ends.receiver;
    this.#sender = ends.sender;
    this.#tell = tell;
    this.#ended = this.#run();
  }

  pursue(goal: ServerGoal): void {
    this.#goal = goal;
    this.#wake();
  }

  /** As pursue(), until the server is that; not if another goal comes meanwhile. */
  async reach(goal: ServerGoal): Promise<void> {
    this.pursue(goal);
    while (goal === this.#goal && goal !== this.#reached && !this.#closed) await sleep(pollMs);
  }

  /** The server stays as it is. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#wake();
    await this.#ended;
  }

  async #run(): Promise<void> {
    let told = '';
    while (!this.#closed) {
      const goal = this.#goal;
      const { isRunning } = this.#server;
      const holds = goal === undefined || (goal === this.#reached && (goal.role === 'stopped' || isRunning));
      if (holds) {
        await this.#pause(watchMs);
        continue;
      }
      if (goal === this.#reached) this.#tell('warn', 'the server has ended; it is started again');
      try {
        await this.#approach(goal);
        if (goal === this.#goal) this.#reached = goal;
        told = '';
      } catch (error) {
        const { message } = error as Error;
        if (message !== told) this.#tell('warn', message);
        told = message;
        if (goal === this.#goal) await this.#pause(retryMs);
      }
    }
  }

  async #approach(goal: ServerGoal): Promise<void> {
    const server = this.#server;
    if (goal.role === 'primary') {
      if (!server.isRunning) await server.start();
      if (server.isStandby) {
        await this.#caughtUp(goal);
        if (goal !== this.#goal) return;
        await server.promote();
        this.#tell('info', 'the server was promoted');
      }
      if (goal !== this.#goal) return;
      if (!this.#streams) await settled(this.#receiver.start());
      this.#streams = true;
      // Whoever is rewound from here reads the new timeline from the control file.
      server.sql('checkpoint').catch(() => {});
      return;
    }
    if (goal.role === 'stopped') await server.stop(goal.mode);
    if (this.#streams) await settled(this.#receiver.stop());
    this.#streams = false;
    if (goal.role === 'stopped') return;
    if (!server.isStandby) {
      await server.stop('immediate');
      const from = goal.from();
      if (from === undefined) throw new Error('it is not known yet which server is the primary');
      this.#tell('info', `the server returns as a standby: ${await server.follow(from)}`);
      if (goal !== this.#goal) return;
    }
    if (!server.isRunning) await server.start();
  }

  /** Until the server has all that the log holds: what it is promoted with. */
  async #caughtUp(goal: ServerGoal): Promise<void> {
    const end = this.#engine.positions.received;
    const has = () =>
      this.#sender
        .status()
        .sessions.some((each) => each.applicationName === this.#engine.nodeId && each.flushed >= end);
    while (!has()) {
      if (goal !== this.#goal || this.#closed) return;
      if (!this.#server.isRunning) throw new Error('the server ended before it had all of the log');
      await this.#pause(pollMs);
    }
  }

  #pause(milliseconds: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, milliseconds);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}

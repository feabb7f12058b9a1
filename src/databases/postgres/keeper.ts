import { setTimeout as sleep } from 'node:timers/promises';
import type { Engine } from '../../engine/engine.js';
import { formatLsn } from '../../engine/lsn.js';
import { settled } from '../../engine/native.js';
import { Pause } from '../../engine/pause.js';
import type { PostgresServerControl } from './managed.js';
import type { NativeReceiver, NativeSender } from './native.js';

/** What the server beside a node is to be. */
export type ServerGoal =
  | { readonly role: 'primary' }
  /** `from`: the primary server as a connection string, as soon as it is known. */
  | { readonly role: 'standby'; readonly from: () => string | undefined }
  /**
   * `immediate`: as a crash; `fast`: after all that it has written is in the log, and committed there, or after `patienceMs`
   * if standbys for that are not to be had.
   */
  | { readonly role: 'stopped'; readonly mode: 'immediate' | 'fast'; readonly patienceMs?: number };

/** Whom a keeper needs. */
export interface KeeperSurroundings {
  /** Hears what was done to the server, or keeps it from being what it should be. */
  tell(level: 'info' | 'warn', message: string): void;
  /** The server runs, in a role that may be another than the last time. */
  running(): void;
  /** Lets another node be the primary: this one's server cannot. */
  handOver(): Promise<void>;
}

const retryMs = 300;
/** How often it is looked whether the server still runs. */
const watchMs = 200;
const pollMs = 5;
/** A server that shuts down waits for its standby, walship, to have everything flushed; here for so long. */
const retireMs = 1000;
/** A standby server that is to be promoted, and has not come closer to the end of the log for so long, is told of … */
const slowMs = 3000;
/** … and after so long another node is asked to be the primary. */
const stuckMs = 20_000;

/**
 * Makes the server beside a node what it is to be, for as long as it takes, and starts it again when it dies. The newest goal
 * counts: work for an older one ends at its next step.
 */
export class ServerKeeper {
  readonly #engine: Engine;
  readonly #server: PostgresServerControl;
  readonly #receiver: NativeReceiver;
  readonly #sender: NativeSender;
  readonly #surroundings: KeeperSurroundings;
  #problem = '';
  #goal: ServerGoal | undefined;
  #reached: ServerGoal | undefined;
  #streams = false;
  /** For this goal the server's shutdown was hastened: what it had written may not all be in the log. */
  #hastened: ServerGoal | undefined;
  readonly #pause = new Pause();
  #closed = false;
  readonly #ended: Promise<void>;

  constructor(
    engine: Engine,
    server: PostgresServerControl,
    ends: { receiver: NativeReceiver; sender: NativeSender },
    surroundings: KeeperSurroundings,
  ) {
    this.#engine = engine;
    this.#server = server;
    this.#receiver = ends.receiver;
    this.#sender = ends.sender;
    this.#surroundings = surroundings;
    this.#ended = this.#run();
  }

  /** Why the server is not yet what it is to be; empty: it is, or is about to be. */
  get problem(): string {
    return this.#problem;
  }

  pursue(goal: ServerGoal): void {
    this.#goal = goal;
    this.#pause.wake();
  }

  /**
   * As pursue(), until the server is that; not if another goal comes meanwhile.
   *
   * @returns for a server that was to be stopped: whether it has done so by itself, after everything was in the log
   */
  async reach(goal: ServerGoal): Promise<boolean> {
    this.pursue(goal);
    while (goal === this.#goal && goal !== this.#reached && !this.#closed) await sleep(pollMs);
    return goal === this.#reached && goal !== this.#hastened;
  }

  /** For a planned stop: a server that is the primary still is stopped, with all that it has written in the log. */
  async retire(): Promise<void> {
    if (this.#goal?.role === 'primary')
      await this.reach({ role: 'stopped', mode: 'fast', patienceMs: retireMs });
  }

  /** The server stays as it is. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#pause.wake();
    await this.#ended;
  }

  async #run(): Promise<void> {
    let tried = '';
    while (!this.#closed) {
      const goal = this.#goal;
      const { isRunning } = this.#server;
      const holds = goal === undefined || (goal === this.#reached && (goal.role === 'stopped' || isRunning));
      if (holds) {
        await this.#pause.wait(watchMs);
        continue;
      }
      if (goal === this.#reached)
        this.#surroundings.tell('warn', 'the server has ended; it is started again');
      try {
        await this.#approach(goal);
        if (goal === this.#goal) this.#reached = goal;
        this.#problem = '';
        tried = '';
      } catch (error) {
        // What the next try gets past is no news: a new primary server, say, that is not promoted yet.
        const { message } = error as Error;
        if (message === tried) this.#hinders(message);
        tried = message;
        if (goal === this.#goal) await this.#pause.wait(retryMs);
      }
    }
  }

  #hinders(problem: string): void {
    if (problem !== this.#problem) this.#surroundings.tell('warn', problem);
    this.#problem = problem;
  }

  #tell(message: string): void {
    this.#surroundings.tell('info', message);
  }

  async #start(): Promise<void> {
    const server = this.#server;
    if (server.isRunning && !server.isOurs) {
      this.#tell(
        'the server was started by something else: it is started again with what it needs beside this node',
      );
      await server.stop('fast');
    }
    if (!server.isRunning) await server.start();
    this.#surroundings.running();
  }

  async #approach(goal: ServerGoal): Promise<void> {
    const server = this.#server;
    if (goal.role === 'primary') {
      await this.#start();
      if (server.isStandby) {
        await this.#caughtUp(goal);
        if (goal !== this.#goal) return;
        await server.promote();
        this.#tell('the server was promoted');
        this.#surroundings.running();
      }
      if (goal !== this.#goal) return;
      if (!this.#streams) await settled(this.#receiver.start());
      this.#streams = true;
      // Whoever is rewound from here reads the new timeline from the control file.
      server.sql('checkpoint').catch(() => {});
      return;
    }
    if (goal.role === 'stopped') {
      let stopped = false;
      const stopping = server.stop(goal.mode).then(() => {
        stopped = true;
      });
      stopping.catch(() => {}); // It is awaited below.
      await (goal.patienceMs === undefined ? stopping : Promise.race([stopping, sleep(goal.patienceMs)]));
      if (!stopped) this.#hastened = goal;
      await this.#endStream();
      return await stopping;
    }
    await this.#endStream();
    if (!server.isStandby) {
      await server.stop('immediate');
      const from = goal.from();
      if (from === undefined) throw new Error('it is not known yet which server is the primary');
      if (server.exists) {
        this.#tell(`the server returns as a standby: ${await server.follow(from)}`);
      } else {
        this.#tell(`there is no data directory yet: it is made by pg_basebackup from '${from}'`);
        await server.clone(from);
      }
      if (goal !== this.#goal) return;
    }
    await this.#start();
  }

  async #endStream(): Promise<void> {
    if (this.#streams) await settled(this.#receiver.stop());
    this.#streams = false;
  }

  /** Until the server has all that the log holds: what it is promoted with. */
  async #caughtUp(goal: ServerGoal): Promise<void> {
    const end = this.#engine.positions.received;
    let [has, since, handedOver] = [-1n, performance.now(), false];
    for (;;) {
      const session = this.#sender
        .status()
        .sessions.find(({ applicationName }) => applicationName === this.#engine.nodeId);
      const flushed = session?.flushed ?? -1n;
      if (flushed >= end || goal !== this.#goal || this.#closed) return;
      if (!this.#server.isRunning) throw new Error('the server ended before it had all of the log');
      const now = performance.now();
      if (flushed > has) [has, since] = [flushed, now];
      if (now - since > slowMs) {
        this.#hinders(
          session === undefined
            ? 'the server cannot be promoted: it does not stream from this node; its own log says why'
            : `the server cannot be promoted: it has the log up to ${formatLsn(flushed)} of ${formatLsn(end)} and does ` +
                'not move; its own log says why',
        );
      }
      if (now - since > stuckMs && !handedOver) {
        handedOver = true;
        this.#surroundings.handOver().catch((error: Error) => this.#tell(error.message));
      }
      await this.#pause.wait(pollMs);
    }
  }
}

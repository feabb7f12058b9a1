// A member process (member.mjs) as a test or a bench sees it.
import { type ChildProcess, spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { AgentStatus } from '../../src/failover/agent.js';
import type { MembershipSettings } from '../../src/failover/membership.js';
import type { EngineOptions, LinkStatus, Positions, ReplicatedOptions } from '../../src/index.js';

/** What it ships, if that is more than records of the clients. */
export interface MemberDatabase {
  /** What runs in place of member.mjs. */
  readonly program: string;
  readonly of: (name: string) => Pick<ReplicatedOptions, 'path' | 'checkpoint' | 'pollMs'>;
}

export interface MemberSettings {
  readonly options: EngineOptions;
  readonly database?: ReturnType<MemberDatabase['of']>;
  readonly failover: MembershipSettings;
  /** `host:port` for clients. */
  readonly clients: string;
}

/** Times are of the monotonic clock of the machine, in ms: they can be compared between processes. */
export interface MemberEvent {
  readonly at: number;
  readonly level: 'info' | 'warn' | 'engine';
  readonly event: string;
  readonly message: string;
}

export interface MemberStatus extends AgentStatus {
  readonly positions: Positions;
  readonly role: 'primary' | 'standby';
  readonly epoch: bigint;
}

type FromMember =
  | { readonly ready: true }
  | { readonly event: MemberEvent }
  | { readonly role: { readonly at: number; readonly role: 'primary' | 'standby'; readonly epoch: bigint } }
  | {
      readonly id: number;
      readonly value?: unknown;
      readonly error?: { readonly code?: string; readonly message: string };
    };

const ownProgram = fileURLToPath(new URL('member.mjs', import.meta.url));

export const monotonicMs = () => Number(process.hrtime.bigint()) / 1e6;

/** One life of a member; `restart()` gives the next one. */
export class MemberProcess {
  readonly name: string;
  readonly settings: MemberSettings;
  readonly events: MemberEvent[] = [];
  readonly reigns: { at: number; epoch: bigint }[] = [];
  readonly #prefix: readonly string[];
  readonly #program: string;
  #child: ChildProcess | undefined;
  #exited: Promise<void> = Promise.resolve();
  readonly #waiting = new Map<number, { resolve(value: unknown): void; reject(error: Error): void }>();
  #nextId = 1;
  #stderr = '';
  #expected = false;
  /** What it printed when it ended without being told to. */
  crash = '';

  /** @param prefix a command to run it under, such as nsenter */
  constructor(name: string, settings: MemberSettings, prefix: readonly string[] = [], program = ownProgram) {
    this.name = name;
    this.settings = settings;
    this.#prefix = prefix;
    this.#program = program;
  }

  get alive(): boolean {
    return this.#child !== undefined;
  }

  async start(): Promise<void> {
    const command = [...this.#prefix, process.execPath, this.#program];
    const child = spawn(command[0] as string, command.slice(1), {
      stdio: ['ignore', 'inherit', 'pipe', 'ipc'],
      serialization: 'advanced',
    });
    this.#child = child;
    this.#expected = false;
    child.stderr?.on('data', (chunk: Buffer) => {
      this.#stderr = (this.#stderr + chunk).slice(-4000);
    });
    let isReady = () => {};
    const ready = new Promise<void>((resolve) => {
      isReady = resolve;
    });
    child.on('message', (message) => this.#take(message as FromMember, isReady));
    this.#exited = new Promise((resolve) => {
      child.on('exit', (code, signal) => {
        if (this.#child === child) this.#child = undefined;
        if (!this.#expected) this.crash = `member ${this.name} ended (${signal ?? code}): ${this.#stderr}`;
        for (const waiting of this.#waiting.values())
          waiting.reject(new Error(`member ${this.name} ended (${signal ?? code})`));
        this.#waiting.clear();
        resolve();
      });
    });
    await Promise.race([ready, this.#exited]);
    await this.call('open', this.settings);
  }

  #take(message: FromMember, isReady: () => void): void {
    if ('ready' in message) return isReady();
    if ('event' in message) return void this.events.push(message.event);
    if ('role' in message) {
      if (message.role.role === 'primary')
        this.reigns.push({ at: message.role.at, epoch: message.role.epoch });
      return;
    }
    const waiting = this.#waiting.get(message.id);
    this.#waiting.delete(message.id);
    if (!message.error) return waiting?.resolve(message.value);
    waiting?.reject(Object.assign(new Error(message.error.message), { code: message.error.code }));
  }

  call(name: string, ...given: unknown[]): Promise<unknown> {
    const child = this.#child;
    if (!child) return Promise.reject(new Error(`member ${this.name} does not run`));
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      child.send({ id, call: name, given });
    });
  }

  status(): Promise<MemberStatus> {
    return this.call('status') as Promise<MemberStatus>;
  }

  links(): Promise<readonly LinkStatus[]> {
    return this.call('links') as Promise<readonly LinkStatus[]>;
  }

  signal(signal: 'SIGSTOP' | 'SIGCONT'): void {
    this.#child?.kill(signal);
  }

  async kill(): Promise<void> {
    this.#expected = true;
    this.#child?.kill('SIGKILL');
    await this.#exited;
  }

  async close(): Promise<void> {
    if (!this.#child) return;
    this.#expected = true;
    await this.call('close').catch(() => {});
    this.#child?.kill('SIGKILL');
    await this.#exited;
  }
}

// What befalls a cluster in a chaos run, as a seed has it, and how it ends.
import { setTimeout as sleep } from 'node:timers/promises';
import type { Disk } from '../lib/disk.js';
import type { FailoverCluster } from '../lib/failover.js';
import { type MemberProcess, monotonicMs } from '../lib/member.js';
import type { Random } from '../simulation/random.js';

export type Fault =
  | 'kill'
  | 'stop'
  | 'cut'
  | 'hang'
  | 'full disk'
  | 'etcd kill'
  | 'etcd leader kill'
  | 'etcd pause'
  | 'etcd cut'
  | 'switchover'
  | 'failover';

export type Counts = Partial<Record<Fault, number>>;

export interface Allowed {
  /** Of them one may die at a time: what only memory holds is promised to outlive one crash. */
  readonly onlyInMemory: boolean;
  /** Where the first etcd member lives in the network, if it can be cut. */
  readonly etcdAt: number | undefined;
  /** How long a fault lasts is multiplied by it. */
  readonly slow: number;
}

/** Faults under way, and what they were. */
export class Turmoil {
  readonly counts: Counts = {};
  readonly said: string[] = [];
  readonly #cluster: FailoverCluster;
  readonly #random: Random;
  readonly #allowed: Allowed;
  /** What ends a fault; each once. */
  readonly #ends = new Set<() => Promise<void>>();
  readonly #underWay = new Set<Promise<void>>();
  readonly #struck = new Set<string>();
  #failure: unknown;
  #crashes = 0;

  constructor(cluster: FailoverCluster, random: Random, allowed: Allowed) {
    this.#cluster = cluster;
    this.#random = random;
    this.#allowed = allowed;
  }

  /** A burst of faults, and then everything is healed. */
  async burst(): Promise<void> {
    this.#crashes = 0;
    const count = 1 + this.#random.below(4);
    const { slow } = this.#allowed;
    try {
      for (let i = 0; i < count; i++) {
        await this.#inject();
        await sleep(this.#random.pick([5, 50, 200, 600, 1200]) * this.#random.next() * slow);
      }
      await sleep(this.#random.between(0, 1200) * slow);
    } finally {
      await this.heal();
    }
    if (this.#failure !== undefined) throw this.#failure;
  }

  async heal(): Promise<void> {
    this.#say('all is healed');
    while (this.#ends.size > 0 || this.#underWay.size > 0) {
      for (const end of [...this.#ends]) await end();
      await Promise.all(this.#underWay);
    }
    for (const member of this.#cluster.members) {
      if (!member.alive && member.crash === '') await member.start();
    }
    const { etcd } = this.#cluster;
    for (let index = 0; index < (etcd?.size ?? 0); index++) {
      if (!etcd?.isRunning(index)) etcd?.launch(index);
    }
    await etcd?.ready();
  }

  #say(what: string): void {
    this.said.push(`${monotonicMs().toFixed(1)} ${what}`);
  }

  #count(fault: Fault, of: string): void {
    this.counts[fault] = (this.counts[fault] ?? 0) + 1;
    this.#say(`${fault} ${of}`);
  }

  /** Ends after a time, or when all is healed. */
  #until(lastsMs: number, run: () => unknown): void {
    let timer: NodeJS.Timeout | undefined;
    const end = async () => {
      if (!this.#ends.delete(end)) return;
      clearTimeout(timer);
      await run();
    };
    this.#ends.add(end);
    timer = setTimeout(() => this.#aside(end()), lastsMs * this.#allowed.slow);
  }

  #aside(work: Promise<unknown>): void {
    const done: Promise<void> = work
      .then(
        () => {},
        (error) => {
          this.#failure ??= error;
        },
      )
      .finally(() => this.#underWay.delete(done));
    this.#underWay.add(done);
  }

  async #inject(): Promise<void> {
    const { members, etcd, network, disks } = this.#cluster;
    const random = this.#random;
    const primary = await this.#cluster.primary();
    const victim = primary && random.chance(0.5) ? primary : random.pick(members);
    const index = members.indexOf(victim);
    // A node has one of these faults at a time; what befalls the coordinator or another node comes on top.
    const kinds: (() => Promise<void>)[] = [];
    const free = victim.alive && !this.#struck.has(victim.name);
    if (free) {
      kinds.push(...Array.from({ length: 5 }, () => () => this.#kill(victim)));
      kinds.push(() => this.#stop(victim));
      kinds.push(() => this.#hang(victim));
      if (network.wires)
        kinds.push(
          () => this.#cut(victim.name, index),
          () => this.#cut(victim.name, index),
        );
      const disk = disks.get(victim.name);
      if (disk) kinds.push(() => this.#fill(victim, disk));
      kinds.push(() => this.#switchover(victim));
      kinds.push(() => this.#failover(victim));
    }
    if (etcd)
      kinds.push(
        () => this.#etcd(),
        () => this.#etcd(),
      );
    if (kinds.length > 0) await random.pick(kinds)();
  }

  #strike(name: string, lastsMs: number, end: () => unknown): void {
    this.#struck.add(name);
    this.#until(lastsMs, async () => {
      await end();
      this.#struck.delete(name);
    });
  }

  async #kill(victim: MemberProcess): Promise<void> {
    if (this.#allowed.onlyInMemory && this.#crashes > 0) return;
    this.#crashes += 1;
    this.#count('kill', victim.name);
    await victim.kill();
    this.#strike(victim.name, this.#random.between(5, 2500), async () => {
      this.#say(`${victim.name} is started again`);
      await victim.start();
    });
  }

  async #stop(victim: MemberProcess): Promise<void> {
    this.#count('stop', victim.name);
    victim.signal('SIGSTOP');
    this.#strike(victim.name, this.#random.pick([30, 200, 600, 1500, 3000]), () => victim.signal('SIGCONT'));
  }

  async #cut(name: string, index: number): Promise<void> {
    const { network } = this.#cluster;
    this.#count('cut', name);
    await network.cut(index);
    this.#strike(name, this.#random.pick([100, 400, 1000, 3000]), () => network.heal(index));
  }

  async #hang(victim: MemberProcess): Promise<void> {
    this.#count('hang', victim.name);
    const ms = this.#random.pick([50, 400, 1000, 2500]) * this.#allowed.slow;
    this.#struck.add(victim.name);
    this.#aside(victim.call('hang', ms).finally(() => this.#struck.delete(victim.name)));
  }

  async #fill(victim: MemberProcess, disk: Disk): Promise<void> {
    this.#count('full disk', victim.name);
    disk.fill();
    this.#strike(victim.name, this.#random.pick([300, 1000, 2500]), () => disk.empty());
  }

  /** Either may be refused, or find that the node is struck meanwhile: what counts is what it leaves behind. */
  async #switchover(by: MemberProcess): Promise<void> {
    const to = this.#random.chance(0.5) ? this.#random.pick(this.#cluster.members).name : undefined;
    this.#count('switchover', `to ${to ?? 'anybody'}, asked of ${by.name}`);
    by.call('switchover', to).catch(() => {});
  }

  async #failover(by: MemberProcess): Promise<void> {
    const to = this.#random.chance(0.5) ? this.#random.pick(this.#cluster.members).name : undefined;
    this.#count('failover', `to ${to ?? 'anybody'}, asked of ${by.name}`);
    by.call('failover', to, false).catch(() => {});
  }

  async #etcd(): Promise<void> {
    const { etcd, network } = this.#cluster;
    if (!etcd) return;
    const running = Array.from({ length: etcd.size }, (_, each) => each).filter(
      (each) => etcd.isRunning(each) && !this.#struck.has(`etcd ${each}`),
    );
    if (running.length === 0) return;
    const random = this.#random;
    const index = random.pick(running);
    const name = `etcd ${index}`;
    const lastsMs = random.pick([100, 500, 1500, 3000]);
    switch (random.below(this.#allowed.etcdAt === undefined ? 3 : 4)) {
      case 0:
        this.#count('etcd kill', name);
        await etcd.kill(index);
        return this.#strike(name, lastsMs, () => etcd.launch(index));
      case 1: {
        const leader = await etcd.leader();
        if (leader === undefined || !running.includes(leader)) return;
        this.#count('etcd leader kill', `etcd ${leader}`);
        await etcd.kill(leader);
        return this.#strike(`etcd ${leader}`, lastsMs, () => etcd.launch(leader));
      }
      case 2:
        this.#count('etcd pause', name);
        await etcd.pause(index);
        return this.#strike(name, lastsMs, () => etcd.resume(index));
      default: {
        const place = (this.#allowed.etcdAt as number) + index;
        this.#count('etcd cut', name);
        await network.cut(place);
        return this.#strike(name, lastsMs, () => network.heal(place));
      }
    }
  }
}

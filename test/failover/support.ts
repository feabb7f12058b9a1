// For tests of clusters that decide themselves who is primary.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Client, FailoverCluster, type FailoverOptions } from '../lib/failover.js';
import { type MemberProcess, type MemberStatus, monotonicMs } from '../lib/member.js';

export async function until<T>(
  what: string,
  look: () => Promise<T | false | undefined> | T | false | undefined,
  boundMs = 10_000,
): Promise<T> {
  const end = performance.now() + boundMs;
  for (;;) {
    const found = await look();
    if (found !== false && found !== undefined) return found;
    if (performance.now() > end) throw new Error(`not within ${boundMs} ms: ${what}`);
    await sleep(10);
  }
}

/** A cluster with a client that appends all the time; closed and audited at the end. */
export class Stage {
  readonly cluster: FailoverCluster;
  readonly client: Client;
  readonly #others: Client[] = [];
  #lossAccepted = false;

  static async run(
    options: Omit<FailoverOptions, 'dir'>,
    body: (stage: Stage) => Promise<void>,
  ): Promise<void> {
    const dir = mkdtempSync(join(tmpdir(), 'walship-failover-'));
    const stage = new Stage(await FailoverCluster.start({ ...options, dir: join(dir, 'cluster') }));
    const { cluster, client } = stage;
    try {
      try {
        client.start();
        await stage.progress();
        await body(stage);
        await cluster.well();
        await stage.progress();
      } catch (error) {
        throw new Error(`${(error as Error).message}\n${cluster.story(60)}`, { cause: error });
      } finally {
        await Promise.all([client, ...stage.#others].map((each) => each.stop()));
        await cluster.close();
      }
      const { lost } = await cluster.audit([client, ...stage.#others], { lossAccepted: stage.#lossAccepted });
      console.log(`${client.acknowledged.length} acknowledged, ${lost} lost`);
    } finally {
      cluster.remove();
      rmSync(dir, { recursive: true, force: true });
    }
  }

  private constructor(cluster: FailoverCluster) {
    this.cluster = cluster;
    this.client = cluster.client('client', 2, 100);
  }

  /** One more client, with larger records; it ends with the others, or before. */
  writer(paddingBytes: number): Client {
    const writer = this.cluster.client('writer', 0, paddingBytes);
    this.#others.push(writer);
    writer.start();
    return writer;
  }

  acceptLoss(): void {
    this.#lossAccepted = true;
  }

  async primary(): Promise<{ member: MemberProcess; index: number; status: MemberStatus }> {
    const member = await until('there is a primary', () => this.cluster.primary());
    return { member, index: this.cluster.members.indexOf(member), status: await member.status() };
  }

  async standbys(): Promise<MemberProcess[]> {
    const { member } = await this.primary();
    return this.cluster.present.filter((each) => each !== member);
  }

  /** Something is acknowledged from now on. */
  async progress(not?: string): Promise<{ node: string; at: number }> {
    return this.client.acknowledgedSince(monotonicMs(), not, 10_000);
  }

  async standstill(ms: number): Promise<void> {
    await sleep(100); // What was acknowledged before is heard of.
    const before = this.client.acknowledged.length;
    await sleep(ms);
    const more = this.client.acknowledged.length - before;
    if (more > 0) throw new Error(`${more} appends were acknowledged, and none may be`);
  }

  /** Waits until `member` says why it waits. */
  waits(member: MemberProcess, why: RegExp): Promise<MemberStatus> {
    return until(`${member.name} waits because ${why}`, async () => {
      const status = await member.status();
      return why.test(status.waiting) && status;
    });
  }

  /** One standby is away, and commits rely on the other alone. */
  async relyOn(needed: MemberProcess, away: MemberProcess): Promise<void> {
    await away.kill();
    const { member } = await this.primary();
    await until(
      `only ${needed.name} counts`,
      async () => (await member.status()).counting.join() === needed.name,
    );
    await this.progress();
  }
}

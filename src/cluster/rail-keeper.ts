import { readdirSync } from 'node:fs';
import type { NativeRails, NativeRailTarget } from '../engine/native.js';
import {
  type DispatchSettings,
  dispatch,
  matchesRail,
  noDispatch,
  type RailFacts,
  type RailVerdict,
} from './dispatcher.js';
import { type Host, type LocalEnds, type RailPlan, railsMax, railsTo, thisHost } from './rails.js';

/** The data plane as the keeper sees it. */
export interface RailPort {
  /** undefined: this node has no upstream. */
  status(): NativeRails | undefined;
  /** Keeps a spare link over each of these and over no others. false: another upstream is followed by now. */
  setRails(rails: readonly NativeRailTarget[], upstream: string): Promise<boolean>;
  steer(order: readonly string[], carry: readonly string[], why: string): void;
}

export interface RailSettings extends DispatchSettings {
  /** Never use these; `*` stands for anything. */
  readonly exclude: readonly string[];
}

/** A rail to the upstream, for people. */
export interface RailStatus {
  /** `tcp@10.0.0.2:7400`, `verbs:rxe0@10.0.0.2:7400`: transport, RDMA device here, address there. */
  readonly name: string;
  readonly part: 'carries' | 'spare' | 'down' | 'excluded';
  /** Why it has this part. */
  readonly why: string;
  readonly roundTripUs?: number;
  readonly heardMsAgo?: number;
  readonly retransmits?: number;
  readonly speedMbps?: number;
  /** Of the link, at the other end; and the NUMA node of the device there, −1 where it is not known. */
  readonly mtuBytes?: number;
  readonly numaNode?: number;
}

/** What a person has chosen; what is left out stays as it is. */
export interface RailChoice {
  readonly pin?: readonly string[] | undefined;
  readonly exclude?: readonly string[] | undefined;
}

export interface EngineRails {
  /** The node that they lead to; empty without an upstream. */
  readonly upstream: string;
  readonly rails: readonly RailStatus[];
}

const none: NativeRails = { rails: [], railsNode: '', railEnds: [] };
const tickMs = 100;
/** A spare link that has not answered for so long is none. */
const silentMs = 500;
const ticksPerCount = 10;
/** Of a device's counters, those of packets that had to be sent again; drivers name them differently. */
const lossCounters =
  /^(local_ack_timeout_err|packet_seq_err|out_of_sequence|completer_retry_err|rcvd_seq_err|out_of_seq_request|duplicate_request)$/;

/** `10.0.0.2:7400` of `tcp@10.0.0.2:7400`. */
const addressOf = (name: string) => name.slice(name.indexOf('@') + 1);

/**
 * Gives the dispatcher its clock and its facts, and the data plane the dispatcher's decisions. With fewer than two rails there
 * is nothing to decide, and no spare link is kept. Its one timer does not keep the process alive.
 */
export class RailKeeper {
  readonly #port: RailPort;
  readonly #host: Host;
  readonly #local: LocalEnds;
  readonly #deviceLosses = new Map<string, number>();
  readonly #configured: RailSettings;
  #settings: RailSettings;
  #state = noDispatch;
  #plan: readonly RailPlan[] = [];
  #excluded: readonly RailPlan[] = [];
  #verdicts: readonly RailVerdict[] = [];
  #upstream = '';
  #planned = '';
  #steered = '';
  #ticks = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(port: RailPort, settings: RailSettings, local: LocalEnds, host: Host = thisHost) {
    this.#port = port;
    this.#settings = this.#configured = settings;
    this.#local = local;
    this.#host = host;
  }

  start(): void {
    // What an engine refuses that is being closed meanwhile needs no decision any more.
    this.#timer = setInterval(() => this.#look().catch(() => {}), tickMs).unref();
  }

  stop(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  /** Pins and excludes by hand, or `auto`matically again; holds until the next call or the end of the process. */
  async choose(choice: RailChoice | 'auto'): Promise<void> {
    const { pin, exclude } = choice === 'auto' ? this.#configured : choice;
    this.#settings = { ...this.#settings, ...(pin && { pin }), ...(exclude && { exclude }) };
    if (this.#timer) await this.#look();
  }

  status(): EngineRails {
    const { rails, railEnds, railsNode } = this.#port.status() ?? none;
    const ends = new Map(railEnds.map((end) => [`${end.host}|${end.port}`, end]));
    const about = (plan: RailPlan | undefined): Pick<RailStatus, 'speedMbps' | 'mtuBytes' | 'numaNode'> => {
      const end = plan && ends.get(`${plan.host}|${plan.port}`);
      return end ? { speedMbps: end.speedMbps, mtuBytes: end.mtuBytes, numaNode: end.numaNode } : {};
    };
    const verdicts = new Map(this.#verdicts.map((verdict) => [verdict.name, verdict]));
    const names = new Set([...verdicts.keys(), ...rails.map((rail) => rail.name)]);
    const excluded = new Set(this.#excluded.map((rail) => rail.name));
    return {
      upstream: railsNode,
      rails: [
        ...[...names].flatMap((name): RailStatus[] => {
          const known = rails.find((rail) => rail.name === name);
          if (excluded.has(name) && !known?.carries) return [];
          const { part, why } = verdicts.get(name) ?? {
            part: known?.carries ? 'carries' : known?.spare ? 'spare' : 'down',
            why: known?.problem ?? (known?.carries ? 'the only one' : ''),
          };
          return [
            {
              name,
              part,
              why,
              ...(known?.roundTripUs !== undefined && { roundTripUs: known.roundTripUs }),
              ...(known?.spare && { heardMsAgo: known.heardMsAgo, retransmits: known.retransmits }),
              ...about(this.#plan.find((rail) => rail.name === name)),
            },
          ];
        }),
        ...this.#excluded
          .filter(({ name }) => !rails.some((rail) => rail.name === name && rail.carries))
          .map((rail) => ({
            name: rail.name,
            part: 'excluded' as const,
            why: 'by hand or by the settings',
            ...about(rail),
          })),
      ],
    };
  }

  async #look(): Promise<void> {
    const { rails, railsNode, railEnds } = this.#port.status() ?? none;
    if (railsNode !== this.#upstream) this.#forget(railsNode);
    if (railsNode === '') return;
    const all = railsTo(railsNode, railEnds, this.#local, this.#host);
    // A way that the upstream does not tell of is one that it does not know: a tunnel, a proxy, another network. Whoever
    // chose it had a reason, and stays with it.
    const told = new Set(all.map((rail) => addressOf(rail.name)));
    if (rails.some(({ name, carries }) => carries && !told.has(addressOf(name)))) all.length = 0;
    const isExcluded = ({ name }: RailPlan) =>
      this.#settings.exclude.some((pattern) => matchesRail(pattern, name));
    this.#excluded = all.filter(isExcluded);
    const usable = all.filter((rail) => !isExcluded(rail)).slice(0, railsMax);
    // With one rail there is nowhere to go, and nothing to measure it by.
    const used = rails.filter(({ carries }) => carries).map(({ name }) => name);
    const settled = usable.length === used.length && usable.every(({ name }) => used.includes(name));
    this.#plan = usable.length > 1 || !settled ? usable : [];
    const planned = this.#plan.map(({ name }) => name).join();
    if (planned !== this.#planned) {
      this.#planned = planned;
      const taken = await this.#port.setRails(this.#plan, railsNode);
      if (!taken) this.#planned = '';
    }
    if (this.#plan.length === 0) {
      this.#verdicts = [];
      return;
    }
    this.#countLosses();
    this.#decide(rails);
  }

  #decide(rails: NativeRails['rails']): void {
    const known = new Map(rails.map((rail) => [rail.name, rail]));
    const unplanned = rails.filter(
      ({ name, carries }) => carries && !this.#plan.some((plan) => plan.name === name),
    );
    const facts = [
      ...this.#plan.map(({ name, transport, near, speedMbps, device }): RailFacts => {
        const rail = known.get(name);
        return {
          name,
          transport,
          near,
          speedMbps,
          planned: true,
          unwanted: false,
          carries: rail?.carries ?? false,
          spare: rail?.spare === true && rail.heardMsAgo < silentMs,
          failures: rail?.failures ?? 0,
          roundTripUs: rail?.roundTripUs,
          retransmits: (rail?.retransmits ?? 0) + (this.#deviceLosses.get(device) ?? 0),
          problem: rail?.problem ?? (rail?.spare ? `silent for ${rail.heardMsAgo} ms` : undefined),
        };
      }),
      ...unplanned.map(
        ({ name }): RailFacts => ({
          name,
          transport: name.startsWith('verbs:') ? 'verbs' : 'tcp',
          near: true,
          speedMbps: 0,
          planned: false,
          unwanted: this.#excluded.some((rail) => rail.name === name),
          carries: true,
          spare: false,
          failures: 0,
          retransmits: 0,
        }),
      ),
    ];
    const decided = dispatch(this.#state, facts, performance.now(), this.#settings);
    this.#state = decided.state;
    this.#verdicts = decided.verdicts;
    const steered = JSON.stringify([decided.order, decided.carry]);
    const carrying = facts.filter(({ carries }) => carries).map(({ name }) => name);
    // Said again until it is so: the data plane forgets it when it has to move by itself.
    if (steered === this.#steered && decided.carry.join() === carrying.sort().join()) return;
    this.#steered = steered;
    this.#port.steer(decided.order, decided.carry, decided.why);
  }

  #forget(upstream: string): void {
    this.#upstream = upstream;
    this.#state = noDispatch;
    this.#plan = this.#excluded = this.#verdicts = [];
    this.#planned = this.#steered = '';
  }

  /** What the devices here count, for all links over them together. */
  #countLosses(): void {
    if (this.#ticks++ % ticksPerCount !== 0) return;
    for (const { device, port } of this.#local.devices) {
      const folder = `/sys/class/infiniband/${device}/ports/${port}/hw_counters`;
      let sum = 0;
      try {
        for (const name of readdirSync(folder)) {
          if (lossCounters.test(name)) sum += this.#host.number(`${folder}/${name}`) ?? 0;
        }
      } catch {
        continue; // this driver has none
      }
      this.#deviceLosses.set(device, sum);
    }
  }
}

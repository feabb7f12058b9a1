// Scenarios: what must hold, whatever the nodes are connected by. Each runs over TCP and over verbs.
import { afterAll, beforeAll, describe, onTestFinished, test } from 'vitest';
import { Cluster, type Overrides, Workers } from './cluster.js';
import type { Network } from './network.js';
import { assertBuilt } from './process.js';

export interface Scenario {
  readonly name: string;
  /** `wires`: cuts them; `netem`: disturbs them, in the lab; `root`: mounts file systems; `tcp`: speaks TCP with the nodes itself; `verbs`: needs RDMA; `second`: cuts one of two ways. */
  readonly needs?: readonly ('wires' | 'netem' | 'root' | 'tcp' | 'verbs' | 'second')[];
  /** Options of every engine. */
  readonly options?: Overrides;
  /** How long it may take on this machine. */
  readonly seconds?: number;
  /** Not in the emulated lab: it would only take long there. */
  readonly hostOnly?: boolean;
  body(cluster: Cluster): Promise<void>;
}

/** Why the scenario cannot run on this network; empty if it can. */
function lack(scenario: Scenario, network: Network): string {
  for (const need of scenario.needs ?? []) {
    if (need === 'wires' && !network.wires) return 'needs wires to cut: network namespaces, which need root';
    if (need === 'second' && !network.second)
      return 'needs two ways to every node: network namespaces, which need root';
    if (need === 'root' && process.getuid?.() !== 0) return 'mounting a file system needs root';
  }
  return '';
}

/** Registers the scenarios as tests of a network, with one set of worker processes for all of them. */
export function specify(subject: string, scenarios: readonly Scenario[], network: Network): void {
  describe(`${subject} (${network.label})`, () => {
    const workers = new Workers(network);
    beforeAll(() => assertBuilt());
    afterAll(() => workers.close(), 60_000);
    for (const scenario of scenarios) {
      if (scenario.hostOnly && network.slow > 1) continue;
      if (scenario.needs?.includes('tcp') && network.transport !== 'tcp') continue;
      if (scenario.needs?.includes('verbs') && network.transport !== 'verbs') continue;
      if (scenario.needs?.includes('netem') && !network.disturbs) continue;
      const why = lack(scenario, network);
      if (why !== '') {
        console.log(`skipped: ${scenario.name}: ${why}`);
        test.skip(scenario.name);
        continue;
      }
      test(scenario.name, { timeout: (scenario.seconds ?? 40) * 1000 * network.slow }, async () => {
        const cluster = new Cluster(workers, scenario.options);
        const started = performance.now();
        let passed = false;
        // Also when the body did not come to its end in time.
        onTestFinished(async () => {
          await cluster.dispose();
          if (!passed) await workers.renew();
        }, 60_000);
        await scenario.body(cluster);
        passed = true;
        const seconds = ((performance.now() - started) / 1000).toFixed(1);
        console.log([`${scenario.name}: ${seconds} s`, ...cluster.notes].join('\n    '));
      });
    }
  });
}

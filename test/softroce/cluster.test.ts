// The scenarios of test/lib over real rdma_rxe packets; one set of processes for all, for node starts slowly in the lab.
import { lab } from '../lib/network.js';
import { type Scenario, specify } from '../lib/scenario.js';
import { disks } from '../lib/scenarios/disks.js';
import { processes } from '../lib/scenarios/processes.js';
import { rules } from '../lib/scenarios/rules.js';
import { shipping } from '../lib/scenarios/shipping.js';
import { strangers } from '../lib/scenarios/strangers.js';
import { wires } from '../lib/scenarios/wires.js';

const all: readonly Scenario[] = [...shipping, ...processes, ...wires, ...disks, ...rules, ...strangers];

specify('a cluster', all, lab('verbs'));

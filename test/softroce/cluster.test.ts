// The scenarios of test/lib over real rdma_rxe packets. One file and one set of processes for all: node starts slowly in
// the lab. TCP meets netem here too:
// not every kernel that runs the other tests has it.
import { lab } from '../lib/network.js';
import { specify } from '../lib/scenario.js';
import { disks } from '../lib/scenarios/disks.js';
import { processes } from '../lib/scenarios/processes.js';
import { rules } from '../lib/scenarios/rules.js';
import { shipping } from '../lib/scenarios/shipping.js';
import { strangers } from '../lib/scenarios/strangers.js';
import { wires } from '../lib/scenarios/wires.js';

const all = [...shipping, ...processes, ...wires, ...disks, ...rules, ...strangers];
specify('a cluster', all, lab('verbs'));

const disturbances = wires.filter(({ needs }) => needs?.includes('netem'));
specify('disturbed wires', disturbances, lab('tcp'));

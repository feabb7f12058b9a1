import { tcpNetwork } from '../lib/network.js';
import { specify } from '../lib/scenario.js';
import { disks } from '../lib/scenarios/disks.js';

specify('disks', disks, tcpNetwork(4));

import { tcpNetwork } from '../lib/network.js';
import { specify } from '../lib/scenario.js';
import { wires } from '../lib/scenarios/wires.js';

specify('wires', wires, tcpNetwork(4));

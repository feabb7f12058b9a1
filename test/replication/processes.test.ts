import { tcpNetwork } from '../lib/network.js';
import { specify } from '../lib/scenario.js';
import { processes } from '../lib/scenarios/processes.js';

specify('processes', processes, tcpNetwork(4));

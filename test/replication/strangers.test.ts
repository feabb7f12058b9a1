import { tcpNetwork } from '../lib/network.js';
import { specify } from '../lib/scenario.js';
import { strangers } from '../lib/scenarios/strangers.js';

specify('strangers', strangers, tcpNetwork(4));

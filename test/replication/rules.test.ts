import { tcpNetwork } from '../lib/network.js';
import { specify } from '../lib/scenario.js';
import { rules } from '../lib/scenarios/rules.js';

specify('rules', rules, tcpNetwork(4));

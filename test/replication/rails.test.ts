import { tcpNetwork } from '../lib/network.js';
import { specify } from '../lib/scenario.js';
import { rails } from '../lib/scenarios/rails.js';

specify('rails', rails, tcpNetwork(4));

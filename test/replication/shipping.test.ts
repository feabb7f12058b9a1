import { tcpNetwork } from '../lib/network.js';
import { specify } from '../lib/scenario.js';
import { shipping } from '../lib/scenarios/shipping.js';

specify('shipping', shipping, tcpNetwork(4));

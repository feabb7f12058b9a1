import { tcpNetwork } from '../lib/network.js';
import { specify } from '../lib/scenario.js';
import { tampering } from '../lib/scenarios/tampering.js';

specify('tampering', tampering, tcpNetwork(4));

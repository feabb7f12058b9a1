// Two ways to every node over real rdma_rxe packets: from RDMA to RDMA, from RDMA to TCP, and striped.
import { lab } from '../lib/network.js';
import { specify } from '../lib/scenario.js';
import { rails } from '../lib/scenarios/rails.js';

specify('rails', rails, lab('verbs'));

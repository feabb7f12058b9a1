// A process of its own for one node beside a PostgreSQL server. Does what its parent says over IPC; ends with it.
import type { PostgresOptions } from '../../src/databases/postgres/options.js';
import { openPostgres, type PostgresNode } from '../../src/databases/postgres/postgres.js';
import { serve } from '../lib/serve.js';

let node: PostgresNode | undefined;

const calls = {
  async open(options: PostgresOptions): Promise<{ port: number }> {
    node = await openPostgres(options);
    return { port: node.engine.listenPort };
  },
  async close(): Promise<void> {
    await node?.close();
    node = undefined;
  },
  async forgetReader(name: string): Promise<void> {
    await node?.engine.forgetReader(name);
  },
  /** Of the whole process since it began, in seconds. */
  async cpuSeconds(): Promise<number> {
    const { user, system } = process.cpuUsage();
    return (user + system) / 1e6;
  },
};

export type PostgresNodeCalls = typeof calls;

serve(calls);

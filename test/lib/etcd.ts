// etcd, the real one: one member or several, each a process that can be killed, stopped and started again, with its data
// synced to a directory of its own.
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { request as httpRequest } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export interface EtcdOptions {
  /** Default 1. */
  readonly members?: number;
  /** Client connections are TLS, and a client must show a certificate. */
  readonly tls?: boolean;
  /** etcd's defaults: 100 and 1000. */
  readonly heartbeatMs?: number;
  readonly electionMs?: number;
  /** A token is good for so long after its last use. */
  readonly tokenSeconds?: number;
  /** Of member i. Default 127.0.0.1 for all. */
  readonly host?: (index: number) => string;
  /** A command to run member i under, such as nsenter. */
  readonly prefix?: (index: number) => readonly string[];
}

/** Files for a client of an etcd with TLS. */
export interface Certificates {
  readonly caFile: string;
  readonly certFile: string;
  readonly keyFile: string;
}

interface EtcdMember {
  readonly name: string;
  readonly client: string;
  readonly peer: string;
  process?: ChildProcess;
  exited?: Promise<void>;
  output: string;
}

/** A port that was free a moment ago. */
export async function freePort(host = '127.0.0.1'): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, host, resolve));
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  return port;
}

export class Etcd {
  readonly dir: string;
  readonly certificates: Certificates | undefined;
  readonly #options: EtcdOptions;
  readonly #members: EtcdMember[];

  private constructor(dir: string, options: EtcdOptions, members: EtcdMember[]) {
    this.dir = dir;
    this.#options = options;
    this.#members = members;
    this.certificates = options.tls ? makeCertificates(dir) : undefined;
  }

  /** Starts all members and waits until they answer. */
  static async start(options: EtcdOptions = {}): Promise<Etcd> {
    const scheme = options.tls ? 'https' : 'http';
    const members: EtcdMember[] = [];
    for (let index = 0; index < (options.members ?? 1); index++) {
      const host = options.host?.(index) ?? '127.0.0.1';
      const local = options.prefix === undefined;
      const [client, peer] = local ? [await freePort(host), await freePort(host)] : [2379, 2380];
      members.push({
        name: `m${index}`,
        client: `${scheme}://${host}:${client}`,
        peer: `http://${host}:${peer}`,
        output: '',
      });
    }
    const etcd = new Etcd(mkdtempSync(join(tmpdir(), 'walship-etcd-')), options, members);
    for (let index = 0; index < members.length; index++) etcd.launch(index);
    await etcd.ready();
    return etcd;
  }

  get endpoints(): string[] {
    return this.#members.map(({ client }) => client);
  }

  /** Where members talk to each other: no place for a client. */
  get peers(): string[] {
    return this.#members.map(({ peer }) => peer);
  }

  get size(): number {
    return this.#members.length;
  }

  /** Starts member `index`, for the first time or again; `ready()` waits for it. */
  launch(index: number): void {
    const member = this.#member(index);
    const { heartbeatMs = 100, electionMs = 1000, tokenSeconds, prefix } = this.#options;
    const tls = this.certificates;
    const command = [
      ...(prefix?.(index) ?? []),
      'etcd',
      ...['--name', member.name, '--data-dir', join(this.dir, member.name)],
      ...['--listen-client-urls', member.client, '--advertise-client-urls', member.client],
      ...['--listen-peer-urls', member.peer, '--initial-advertise-peer-urls', member.peer],
      ...['--initial-cluster', this.#members.map(({ name, peer }) => `${name}=${peer}`).join(',')],
      ...['--initial-cluster-state', 'new', '--initial-cluster-token', this.dir],
      ...['--heartbeat-interval', String(heartbeatMs), '--election-timeout', String(electionMs)],
      ...(tokenSeconds === undefined ? [] : ['--auth-token-ttl', String(tokenSeconds)]),
      ...(tls === undefined
        ? []
        : [
            ...['--cert-file', join(this.dir, 'server.crt'), '--key-file', join(this.dir, 'server.key')],
            ...['--client-cert-auth', '--trusted-ca-file', tls.caFile],
          ]),
      ...['--logger', 'zap', '--log-level', 'warn'],
    ];
    const child = spawn(command[0] as string, command.slice(1), { stdio: ['ignore', 'ignore', 'pipe'] });
    member.output = '';
    child.stderr?.on('data', (chunk: Buffer) => {
      member.output = (member.output + chunk).slice(-20_000);
    });
    child.on('error', (error) => {
      member.output += `${error.message}: install the Debian package etcd-server`;
    });
    member.process = child;
    // A test that fails may not come to close().
    const end = () => child.kill('SIGKILL');
    process.once('exit', end);
    member.exited = new Promise((resolve) => {
      child.on('close', () => {
        process.off('exit', end);
        resolve();
      });
    });
  }

  /** Waits until each running member knows a leader and answers a linearizable read. */
  async ready(milliseconds = 20_000): Promise<void> {
    const deadline = performance.now() + milliseconds;
    for (const [index, member] of this.#members.entries()) {
      while (this.isRunning(index)) {
        const reply = await this.#post(index, '/v3/maintenance/status', {}).catch(() => undefined);
        if (reply?.['leader'] !== undefined) break;
        if (performance.now() > deadline)
          throw new Error(`etcd ${member.name} is not ready: ${member.output}`);
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
      if (!this.isRunning(index) && member.process?.exitCode !== null)
        throw new Error(`etcd ${member.name} ended: ${member.output}`);
    }
  }

  isRunning(index: number): boolean {
    const { process } = this.#member(index);
    return process?.pid !== undefined && process.exitCode === null && process.signalCode === null;
  }

  /** Which member leads, if a running one says so. */
  async leader(): Promise<number | undefined> {
    for (let index = 0; index < this.size; index++) {
      if (!this.isRunning(index)) continue;
      const { leader } = await this.#post(index, '/v3/maintenance/status', {}).catch(() => ({
        leader: undefined,
      }));
      if (leader === undefined) continue;
      for (let other = 0; other < this.size; other++) {
        if (!this.isRunning(other)) continue;
        const reply = await this.#post(other, '/v3/maintenance/status', {}).catch(() => undefined);
        if ((reply?.['header'] as { member_id?: string })?.member_id === leader) return other;
      }
    }
    return undefined;
  }

  async kill(index: number, signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    const { process, exited } = this.#member(index);
    process?.kill(signal);
    await exited;
  }

  /** SIGSTOP: its connections stay and nobody answers. */
  async pause(index: number): Promise<void> {
    const { process } = this.#member(index);
    process?.kill('SIGSTOP');
    // Some of its threads may be running still.
    const stopped = () =>
      readdirSync(`/proc/${process?.pid}/task`).every((thread) =>
        /\) T/.test(readFileSync(`/proc/${process?.pid}/task/${thread}/stat`, 'utf8')),
      );
    while (!stopped()) await new Promise((resolve) => setTimeout(resolve, 1));
  }

  resume(index: number): void {
    this.#member(index).process?.kill('SIGCONT');
  }

  /** Requires a user from now on; `user` may do everything below `prefix`, and nothing else. */
  async enableAuth(user: { name: string; password: string }, prefix: string): Promise<void> {
    const key = Buffer.from(`${prefix}/`).toString('base64');
    const range_end = Buffer.from(`${prefix}0`).toString('base64');
    await this.#post(0, '/v3/auth/user/add', { name: 'root', password: 'root' });
    await this.#post(0, '/v3/auth/role/add', { name: 'root' });
    await this.#post(0, '/v3/auth/user/grant', { user: 'root', role: 'root' });
    await this.#post(0, '/v3/auth/user/add', user);
    await this.#post(0, '/v3/auth/role/add', { name: 'walship' });
    const perm = { permType: 'READWRITE', key, range_end };
    await this.#post(0, '/v3/auth/role/grant', { name: 'walship', perm });
    await this.#post(0, '/v3/auth/user/grant', { user: user.name, role: 'walship' });
    await this.#post(0, '/v3/auth/enable', {});
  }

  async get(key: string): Promise<string | undefined> {
    const { kvs } = await this.#post(0, '/v3/kv/range', { key: Buffer.from(key).toString('base64') });
    const found = (kvs as { value?: string }[] | undefined)?.[0];
    return found && Buffer.from(found.value ?? '', 'base64').toString();
  }

  /** As anybody could with etcdctl. `value` undefined removes the key. */
  async put(key: string, value: string | undefined): Promise<void> {
    const base64 = (text: string) => Buffer.from(text).toString('base64');
    if (value === undefined) await this.#post(0, '/v3/kv/deleterange', { key: base64(key) });
    else await this.#post(0, '/v3/kv/put', { key: base64(key), value: base64(value) });
  }

  /** Forgets what was before the present revision. */
  async compact(): Promise<void> {
    const { header } = await this.#post(0, '/v3/kv/range', { key: Buffer.from('x').toString('base64') });
    await this.#post(0, '/v3/kv/compaction', {
      revision: (header as { revision: string }).revision,
      physical: true,
    });
  }

  async close(): Promise<void> {
    for (let index = 0; index < this.size; index++) this.resume(index);
    await Promise.all(this.#members.map((_, index) => this.kill(index)));
    rmSync(this.dir, { recursive: true, force: true });
  }

  #member(index: number): EtcdMember {
    const member = this.#members[index];
    if (member === undefined) throw new Error(`there is no member ${index}`);
    return member;
  }

  #post(index: number, path: string, body: unknown): Promise<Record<string, unknown>> {
    const url = new URL(path, this.#member(index).client);
    const tls = this.certificates && {
      ca: readFileSync(this.certificates.caFile),
      cert: readFileSync(this.certificates.certFile),
      key: readFileSync(this.certificates.keyFile),
    };
    return new Promise((resolve, reject) => {
      const options = { method: 'POST', timeout: 2000, agent: false, ...tls };
      const request = (tls ? httpsRequest : httpRequest)(url, options, (response) => {
        let text = '';
        response.setEncoding('utf8');
        response.on('data', (chunk) => {
          text += chunk;
        });
        response.on('end', () => {
          if (response.statusCode === 200) resolve(JSON.parse(text));
          else reject(new Error(`${path}: ${text}`));
        });
      });
      request.on('timeout', () => request.destroy(new Error(`${path}: no answer`)));
      request.on('error', reject);
      request.end(JSON.stringify(body));
    });
  }
}

/** An authority, a certificate of the servers at 127.0.0.1 and one of a client. */
export function makeCertificates(dir: string): Certificates {
  const file = (name: string) => join(dir, name);
  const openssl = (...parameters: string[]) => execFileSync('openssl', parameters, { stdio: 'pipe' });
  mkdirSync(dir, { recursive: true });
  const fresh = ['req', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];
  openssl(
    ...fresh,
    '-x509',
    '-days',
    '2',
    '-subj',
    '/CN=test authority',
    '-keyout',
    file('ca.key'),
    '-out',
    file('ca.crt'),
  );
  for (const name of ['server', 'client']) {
    // etcd's gateway is a client of its own server and shows the same certificate there.
    const extensions = 'subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth,clientAuth\n';
    writeFileSync(file(`${name}.ext`), extensions);
    openssl(...fresh, '-subj', `/O=${name}`, '-keyout', file(`${name}.key`), '-out', file(`${name}.csr`));
    openssl(
      ...['x509', '-req', '-days', '2', '-in', file(`${name}.csr`), '-out', file(`${name}.crt`)],
      ...[
        '-CA',
        file('ca.crt'),
        '-CAkey',
        file('ca.key'),
        '-CAcreateserial',
        '-extfile',
        file(`${name}.ext`),
      ],
    );
  }
  return { caFile: file('ca.crt'), certFile: file('client.crt'), keyFile: file('client.key') };
}

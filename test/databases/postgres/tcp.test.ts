import { execFileSync } from 'node:child_process';
import { createConnection } from 'node:net';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { openPostgres, type PostgresNode } from '../../../src/databases/postgres/postgres.js';
import { type PostgresServe, verifierOf } from '../../../src/databases/postgres/serve.js';
import { WalshipError } from '../../../src/index.js';
import { cleanUp, hasWal, nodeOptions, type Scene, scene } from './scene.js';
import { type Server, until } from './support.js';

let now: Scene | undefined;
afterEach(async () => {
  await cleanUp(now);
  now = undefined;
});

const roles = [
  { name: 'plain', password: 'a password, with "marks"' },
  { name: 'kept', verifier: verifierOf('pencil', Buffer.from('W22ZaJ0SNY7soEsUEjb6gQ==', 'base64')) },
];

/** A primary server with node `a`, and node `b`, which serves by TCP, too. */
async function reached(serve: (dir: string) => Partial<PostgresServe>): Promise<{
  now: Scene;
  b: PostgresNode;
  primary: Server;
  /** psql by TCP, as a walsender's client. */
  ask: (rest: string, command?: string) => Promise<string>;
  conninfo: string;
}> {
  now = await scene(15);
  const { dir, a, primary } = now;
  const b = await now.follow('b', a, {
    serve: { directory: dir, port: 6000, listen: '127.0.0.1:0', roles, ...serve(dir) },
  });
  await hasWal(b);
  const port = b.status().postgres.sender?.listen?.split(':')[1];
  const conninfo = `host=127.0.0.1 port=${port}`;
  const ask = (rest: string, command = 'SHOW wal_segment_size') =>
    primary.psql(`${conninfo} replication=true ${rest}`, command);
  return { now, b, primary, ask, conninfo };
}

/** A certificate for 127.0.0.1 that is its own authority. */
function certificate(dir: string): { certFile: string; keyFile: string } {
  const [certFile, keyFile] = [join(dir, 'cert.pem'), join(dir, 'key.pem')];
  execFileSync(
    'openssl',
    [
      ...['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2'],
      ...[
        '-subj',
        '/CN=walship',
        '-addext',
        'subjectAltName=IP:127.0.0.1',
        '-out',
        certFile,
        '-keyout',
        keyFile,
      ],
    ],
    { stdio: 'pipe' },
  );
  return { certFile, keyFile };
}

const right = `user=plain password='a password, with "marks"'`;

describe('a client by TCP', () => {
  it('proves its password as PostgreSQL wants it', async () => {
    const { ask, b } = await reached(() => ({}));
    expect(await ask(right)).toBe('16MB');
    expect(await ask('user=kept password=pencil')).toBe('16MB');
    await expect(ask(`${right} channel_binding=require`)).rejects.toThrow(/channel binding/);
    for (const user of ['plain', 'nobody']) {
      await expect(ask(`user=${user} password=wrong`)).rejects.toThrow(
        new RegExp(`FATAL: +password authentication failed for user "${user}"`),
      );
    }
    await expect(ask('user=plain sslmode=require')).rejects.toThrow(/server does not support SSL/);
    expect(b.status().postgres.sender?.sessions).toEqual([]);
  }, 60_000);

  it('that says nonsense is sent away, and nobody else notices', async () => {
    const { ask, b, conninfo } = await reached(() => ({}));
    const port = Number(/port=(\d+)/.exec(conninfo)?.[1]);
    const startup = Buffer.from('\0\0\0\x25\0\x03\0\0user\0plain\0replication\0true\0\0', 'latin1');
    startup.writeUInt32BE(startup.length);
    const say = (...parts: Buffer[]) =>
      new Promise<string>((resolve) => {
        const socket = createConnection(port, '127.0.0.1', () => socket.write(Buffer.concat(parts)));
        let answer = '';
        socket.on('data', (bytes) => {
          answer += bytes.toString('latin1');
        });
        socket.on('error', () => {});
        socket.on('close', () => resolve(answer));
      });
    const query = Buffer.from('Q\0\0\0\x08SH\0\0', 'latin1');
    expect(await say(startup, query)).toMatch(/SCRAM-SHA-256[\s\S]*expected SASL response/);
    const response = (body: string) => {
      const message = Buffer.from(`p\0\0\0\0${body}`, 'latin1');
      message.writeUInt32BE(message.length - 1, 1);
      return message;
    };
    expect(await say(startup, response('SCRAM-SHA-1\0\0\0\0\0'))).toMatch(
      /invalid SASL authentication mechanism/,
    );
    expect(await say(startup, response('SCRAM-SHA-256\0\0\0\0\x03n,,'))).toMatch(/malformed SCRAM message/);
    expect(await say(startup, response('nonsense'))).toMatch(/malformed SASL message/);
    expect(await say(Buffer.from('GET / HTTP/1.1\r\n\r\n'))).toBe('');
    expect(await ask(right)).toBe('16MB');
    expect(b.status().postgres.sender?.refused).toBe(4);
  }, 60_000);

  it('encrypts, and knows that nobody is in between', async () => {
    const { now, ask, primary, b, conninfo } = await reached((dir) => ({
      tls: { ...certificate(dir), required: true },
      ordinary: { host: join(dir, 'primary') },
    }));
    expect(await ask(`${right} sslmode=require channel_binding=require`)).toBe('16MB');
    expect(await ask(`${right} sslmode=verify-full sslrootcert=${join(now.dir, 'cert.pem')}`)).toBe('16MB');
    expect(await ask(`${right} sslmode=require channel_binding=disable`)).toBe('16MB');
    await expect(ask('user=plain password=wrong sslmode=require')).rejects.toThrow(
      /password authentication failed/,
    );
    await expect(ask(`${right} sslmode=disable`)).rejects.toThrow(/connection requires TLS/);

    // A standby server, and its WAL, encrypted.
    const standby = await now.standby('standby', 'b');
    await standby.stop('fast');
    await standby.configure({
      primary_conninfo: `${conninfo} ${right.replaceAll("'", "''")} sslmode=require`,
    });
    await standby.start();
    await primary.pgbench(['-i', '-s', '2', '-q']);
    await primary.sql('set synchronous_commit = remote_apply; insert into mark values (1)');
    await until('the standby has it', async () => (await standby.sql('select count(*) from mark')) === '1');
    expect(await standby.sql('select count(*) from pgbench_accounts')).toBe('200000');
    expect(await standby.sql('select conninfo from pg_stat_wal_receiver')).toMatch(/sslmode=require/);
    expect(b.status().postgres.sender?.sessions.map(({ user }) => user)).toEqual(['plain']);

    // What is passed on to the server is encrypted up to here; the server asks for the password.
    await primary.sql("create role app login password 'hers'");
    await primary.trustNobody('app');
    const sql = (rest: string) =>
      primary.psql(
        `${conninfo} user=app dbname=postgres sslmode=require ${rest}`,
        "select repeat('x', 3000000)",
      );
    expect((await sql('password=hers')).length).toBe(3_000_000);
    await expect(sql('password=his')).rejects.toThrow(/password authentication failed for user "app"/);
  }, 90_000);
});

describe('settings of the walsender', () => {
  const problemsOf = async (serve: object): Promise<readonly string[]> => {
    const opening = openPostgres({
      ...nodeOptions('/nonexistent', 'x'),
      upstream: { address: '127.0.0.1:1' },
      serve: { directory: '/nonexistent', ...serve } as PostgresServe,
    });
    const error: unknown = await opening.catch((why) => why);
    if (!(error instanceof WalshipError)) throw error;
    expect(error.code).toBe('WALSHIP_ERR_CONFIG');
    return error.details?.['problems'] as string[];
  };

  it('are checked, all at once', async () => {
    expect(await problemsOf({ listen: '127.0.0.1:0' })).toEqual([
      'serve.listen: without roles nobody could connect: name some, or leave it out',
    ]);
    expect(await problemsOf({ roles, tls: { certFile: 'c', keyFile: 'k' } })).toEqual([
      'serve.roles: belong to listen',
      'serve.tls: belongs to listen',
    ]);
    const wrong = [
      { name: 'a' },
      { name: 'a', password: 'ä' },
      { name: 'b', verifier: 'md5abc' },
      { name: 'c', password: 'x', passwordFile: 'y' },
    ];
    const problems = await problemsOf({
      listen: 'nowhere',
      roles: wrong,
      ordinary: { host: '', sessionsMax: 0 },
    });
    for (const start of [
      'listen',
      'roles.0',
      'roles.1.password',
      'roles.2.verifier',
      'roles.3',
      'ordinary.host',
    ])
      expect(problems.filter((each) => each.startsWith(`serve.${start}:`))).toHaveLength(1);
    expect(problems).toContain('serve.ordinary.sessionsMax: Too small: expected number to be >=1');
    expect(
      await problemsOf({ listen: '127.0.0.1:0', roles: [{ name: 'a', passwordFile: '/nonexistent' }] }),
    ).toEqual([expect.stringMatching(/^serve\.roles\.0\.passwordFile: ENOENT/)]);
  });

  it('name a certificate that can be used', async () => {
    now = await scene(15);
    const opening = now.follow('b', now.a, {
      serve: {
        directory: now.dir,
        listen: '127.0.0.1:0',
        roles,
        tls: { certFile: join(now.dir, 'none'), keyFile: join(now.dir, 'none') },
      },
    });
    await expect(opening).rejects.toMatchObject({
      code: 'WALSHIP_ERR_POSTGRES_TLS',
      message: expect.stringMatching(/cannot use the certificate in .*none: /),
    });
  }, 60_000);
});

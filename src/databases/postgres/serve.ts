import { createHash, createHmac, pbkdf2Sync, randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { z } from 'zod';
import { address, parseAddress } from '../../engine/options.js';
import type { NativeSenderSettings } from './native.js';

/** Who may connect to {@link PostgresServe.listen}, by SCRAM-SHA-256. Of `password`, `passwordFile`, `verifier` one. */
export interface PostgresRole {
  readonly name: string;
  /** Of printable ASCII characters. */
  readonly password?: string;
  /** Holds the password; white space at its end is not part of it. */
  readonly passwordFile?: string;
  /** As in `pg_authid.rolpassword` of a server: `SCRAM-SHA-256$4096:<salt>$<StoredKey>:<ServerKey>`. */
  readonly verifier?: string;
}

/** TLS on {@link PostgresServe.listen}, from version 1.2 on. The files are read when the node is opened. */
export interface PostgresTls {
  /** PEM: the certificate, and behind it those between it and the authority that clients know. */
  readonly certFile: string;
  /** PEM, without a passphrase. */
  readonly keyFile: string;
  /** Refuse clients that do not encrypt. Default false: they may choose (`sslmode`). */
  readonly required?: boolean;
}

/** Where ordinary connections go. */
export interface PostgresOrdinary {
  /** A directory (that of the server's unix-domain socket), a name or an address. */
  readonly host: string;
  /** Default 5432. */
  readonly port?: number;
  /** So many at a time; one more is refused as by PostgreSQL (53300). Default 100. */
  readonly sessionsMax?: number;
}

/** Where standby servers get their WAL: `primary_conninfo = 'host=<directory> port=<port> user=…'`. */
export interface PostgresServe {
  /** Of the unix-domain socket; must exist. */
  readonly directory: string;
  /** Part of the socket's name, as everywhere in PostgreSQL. Default 5432. */
  readonly port?: number;
  /** Users of the operating system who may connect, beside the one who runs this process. Default `postgres`. */
  readonly users?: readonly string[];
  /** `host:port` to listen on for TCP, too; port 0 for any free one (see `status().postgres.sender.listen`). Default: none. */
  readonly listen?: string;
  /**
   * Who may connect by TCP. Each of them may copy the whole database, as a role with the attribute REPLICATION may; the
   * server's own roles are not asked.
   */
  readonly roles?: readonly PostgresRole[];
  /** Default: none; passwords are never sent as such, the WAL is. */
  readonly tls?: PostgresTls;
  /**
   * libpq's connection string of the server beside the node, for a role with the attribute REPLICATION: base backups
   * (`pg_basebackup` from walship), and history files older than the log, come from there. The connection must not be
   * encrypted: the unix-domain socket, or `sslmode=disable`. Default: `server.conninfo`, if the node has a `server`.
   */
  readonly server?: string;
  /**
   * Pass all other connections (ordinary ones, logical replication, cancel requests) on to this server, as they come: it
   * asks them for their password itself. To its `pg_hba.conf` **every client, however it came here, is one of this host**:
   * `trust` or `peer` for local connections lets everybody in who reaches this socket or `listen`. Default: refused.
   */
  readonly ordinary?: PostgresOrdinary;
  /**
   * What a standby server is given: what this node has on its disk (`flushed`, default), or at once what it has in memory
   * (`received`): then a crash of this host can leave the server with WAL that the node has to fetch again.
   */
  readonly sendAt?: 'flushed' | 'received';
  /**
   * `application_name` of the server whose replay is this node's `applied`. Default: any that replays; of several the one
   * that is behind.
   */
  readonly standby?: string;
  /**
   * While no commit waits for what standby servers apply (`remote_apply`), WAL goes out to one at most so often: every piece
   * of it costs the server several wake-ups and a sync. Its queries see rows so much later. 0: at once. Default 10.
   */
  readonly gatherMs?: number;
  /** A client that has said nothing for so long, though asked, is given up. Default 60,000. */
  readonly silenceMs?: number;
  /** For connecting to `server` and `ordinary`. Default 10,000. */
  readonly connectTimeoutMs?: number;
}

const key = '[A-Za-z0-9+/]{43}=';
const port = z.number().int().min(1).max(65535);
const ms = z.number().int().min(100).max(3_600_000);
const path = z.string().min(1);
const passwordPattern = /^[\x20-\x7e]+$/;

const role = z
  .strictObject({
    name: z.string().min(1).max(63),
    password: z
      .string()
      .regex(passwordPattern, 'must be of printable ASCII characters: give a verifier for any other')
      .optional(),
    passwordFile: path.optional(),
    verifier: z
      .string()
      .regex(
        new RegExp(`^SCRAM-SHA-256\\$[1-9][0-9]{0,8}:[A-Za-z0-9+/]+={0,2}\\$${key}:${key}$`),
        'must be as in pg_authid.rolpassword: SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>',
      )
      .optional(),
  })
  .check((context) => {
    const { password, passwordFile, verifier } = context.value;
    if ([password, passwordFile, verifier].filter((each) => each !== undefined).length === 1) return;
    const message = 'needs one of password, passwordFile and verifier';
    context.issues.push({ code: 'custom', message, input: context.value, path: [] });
  });

const serveFields = z.strictObject({
  directory: z.string().min(1).max(90, 'is too long for the name of a socket'),
  port: port.optional(),
  users: z.array(z.string().min(1)).optional(),
  listen: address.optional(),
  roles: z.array(role).optional(),
  tls: z.strictObject({ certFile: path, keyFile: path, required: z.boolean().optional() }).optional(),
  server: z.string().optional(),
  ordinary: z
    .strictObject({
      host: z.string().min(1),
      port: port.optional(),
      sessionsMax: z.number().int().min(1).max(10_000).optional(),
    })
    .optional(),
  sendAt: z.enum(['flushed', 'received']).optional(),
  standby: z.string().min(1).max(63).optional(),
  gatherMs: z.number().int().min(0).max(1000).optional(),
  silenceMs: ms.optional(),
  connectTimeoutMs: ms.optional(),
});

export const serveSchema = serveFields.check((context) => {
  const { listen, roles, tls } = context.value;
  const problem = (message: string, ...path: string[]) =>
    context.issues.push({ code: 'custom', message, input: context.value, path });
  if (listen !== undefined && !roles?.length)
    problem('without roles nobody could connect: name some, or leave it out', 'listen');
  if (listen === undefined && roles !== undefined) problem('belong to listen', 'roles');
  if (listen === undefined && tls !== undefined) problem('belongs to listen', 'tls');
  const names = roles?.map(({ name }) => name) ?? [];
  if (new Set(names).size < names.length) problem('name one twice', 'roles');
});

/** What a server keeps of a password. */
export function verifierOf(password: string, salt = randomBytes(16), iterations = 4096): string {
  const salted = pbkdf2Sync(password, salt, iterations, 32, 'sha256');
  const keyed = (text: string) => createHmac('sha256', salted).update(text).digest();
  const storedKey = createHash('sha256').update(keyed('Client Key')).digest('base64');
  const serverKey = keyed('Server Key').toString('base64');
  return `SCRAM-SHA-256$${iterations}:${salt.toString('base64')}$${storedKey}:${serverKey}`;
}

/** What is wrong with the files of passwords. Nothing is said of a `serve` that is not what {@link serveSchema} wants. */
export function roleProblems(serve: PostgresServe): string[] {
  if (!serveSchema.safeParse(serve).success) return [];
  return (serve.roles ?? []).flatMap(({ passwordFile }, index) => {
    if (passwordFile === undefined) return [];
    const where = `serve.roles.${index}.passwordFile`;
    try {
      if (passwordPattern.test(passwordIn(passwordFile))) return [];
      return [`${where}: ${passwordFile} must hold printable ASCII characters`];
    } catch (error) {
      return [`${where}: ${(error as Error).message}`];
    }
  });
}

function passwordIn(file: string): string {
  return readFileSync(file, 'utf8').trimEnd();
}

/** {@link PostgresServe} with every default. Nothing has been read yet. */
export interface SenderSettings extends Omit<NativeSenderSettings, 'roles'> {
  readonly roles: readonly PostgresRole[];
}

export function senderSettings(serve: PostgresServe, conninfo: string | undefined): SenderSettings {
  const { ordinary, tls } = serve;
  return {
    directory: serve.directory,
    port: serve.port ?? 5432,
    users: serve.users ?? ['postgres'],
    listen: serve.listen === undefined ? undefined : parseAddress(serve.listen),
    roles: serve.roles ?? [],
    tls: tls && { ...tls, required: tls.required ?? false },
    server: serve.server ?? conninfo ?? '',
    ordinary: ordinary && {
      host: ordinary.host,
      port: ordinary.port ?? 5432,
      sessionsMax: ordinary.sessionsMax ?? 100,
    },
    sendAt: serve.sendAt ?? 'flushed',
    standbyName: serve.standby ?? '',
    gatherMs: serve.gatherMs ?? 10,
    silenceMs: serve.silenceMs ?? 60_000,
    connectTimeoutMs: serve.connectTimeoutMs ?? 10_000,
  };
}

/** Instead of passwords what is kept of them. Throws what {@link roleProblems} would have told. */
export function nativeSender(settings: SenderSettings): NativeSenderSettings {
  const roles = settings.roles.map(({ name, password, passwordFile, verifier }) => ({
    name,
    verifier: verifier ?? verifierOf(password ?? passwordIn(passwordFile as string)),
  }));
  return { ...settings, roles };
}

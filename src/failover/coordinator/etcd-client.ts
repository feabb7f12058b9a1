import { Agent as HttpAgent, request as httpRequest, type IncomingMessage } from 'node:http';
import { Agent as HttpsAgent, request as httpsRequest } from 'node:https';
import { z } from 'zod';
import type { WalshipError } from '../../engine/errors.js';
import { coordinatorError } from './errors.js';

/** How to reach etcd. */
export interface EtcdAccess {
  /** `http://host:port` or `https://host:port` of members of one cluster. */
  readonly endpoints: readonly string[];
  readonly user?: string;
  readonly password?: string;
  /** PEM. */
  readonly ca?: Buffer;
  readonly cert?: Buffer;
  readonly key?: Buffer;
  /** An endpoint that has not answered for so long: the next one is asked as well. */
  readonly tryMs: number;
  /** After that a request has failed. */
  readonly timeoutMs: number;
}

/** Why one request to one endpoint came to nothing. */
interface Failure {
  /**
   * unconnected: it was not sent; lost: whether etcd did it is not known; token: it wants another token; refused: it
   * would be refused everywhere.
   */
  readonly kind: 'unconnected' | 'lost' | 'token' | 'refused';
  readonly text: string;
}

/** An answer, and to how many endpoints the request may have gone before it came. */
export interface Answer {
  readonly reply: unknown;
  readonly sent: number;
}

type Outcome = { readonly answer: unknown } | { readonly failure: Failure };

interface Exchange {
  readonly path: string;
  readonly body: string;
  readonly token: string | undefined;
}

/** All endpoints have answered that they cannot at the moment: they are asked again after so long. */
const retryMs = 10;
const tokenRenewalsMax = 3;
const replyBytesMax = 16 << 20;
const refusal = z.object({
  error: z.string().optional(),
  message: z.string().optional(),
  code: z.number().optional(),
});
const headed = z.object({ header: z.object({ cluster_id: z.string() }) });
const granted = z.object({ token: z.string().min(1) });

/** gRPC codes of refusals that are the same at every endpoint and every time. */
const finalCodes = new Set([3, 7, 8, 9, 11, 12]);
const unauthenticated = 16;

/**
 * Requests to etcd's JSON gateway that survive the loss of endpoints: one that refuses costs nothing, one that is silent
 * costs `tryMs`, then the next is asked as well and the first answer counts. So a request may be carried out more than
 * once: it must be such that this does no harm.
 */
export class EtcdClient {
  readonly #access: EtcdAccess;
  readonly #endpoints: readonly URL[];
  readonly #http = new HttpAgent({ keepAlive: true });
  readonly #https: HttpsAgent;
  readonly #closing = new Set<() => void>();
  #closed = false;
  /** The endpoint that answered last. */
  #good = 0;
  #token: Promise<string> | undefined;
  #clusterId: string | undefined;

  constructor(access: EtcdAccess) {
    this.#access = access;
    this.#endpoints = access.endpoints.map((endpoint) => new URL(endpoint));
    const { ca, cert, key } = access;
    this.#https = new HttpsAgent({
      keepAlive: true,
      ...(ca && { ca }),
      ...(cert && { cert }),
      ...(key && { key }),
    });
  }

  /** The reply to a request that may be carried out more than once. @throws {WalshipError} `WALSHIP_ERR_COORDINATOR` */
  async call(path: string, body: unknown): Promise<Answer> {
    let sent = 0;
    for (let renewals = 0; ; renewals++) {
      const token = this.#login();
      const raced = await this.#race({ path, body: JSON.stringify(body), token: await token });
      sent += raced.sent;
      if ('answer' in raced) return { reply: raced.answer, sent };
      if (raced.refused !== 'token') throw raced.error;
      // It ran out, or the member was restarted and has forgotten it.
      if (this.#token === token) this.#token = undefined;
      // Members learn of a new one one after another.
      if (renewals === tokenRenewalsMax) throw raced.error;
    }
  }

  /**
   * A request with an endless reply, one JSON value a line, at the endpoint that is `shift` behind the good one. Nobody
   * notices here when it just falls silent.
   *
   * @returns what ends it; `onEnd` is not called then
   */
  stream(
    path: string,
    body: unknown,
    shift: number,
    onLine: (value: unknown) => void,
    onEnd: (why: string) => void,
  ): () => void {
    const endpoint = this.#endpoints[(this.#good + shift) % this.#endpoints.length] as URL;
    let stop = () => {};
    let over = false;
    const end = (why: string) => {
      if (over) return;
      over = true;
      this.#closing.delete(cancel);
      stop();
      onEnd(`${endpoint.origin}: ${why}`);
    };
    const cancel = () => {
      over = true;
      this.#closing.delete(cancel);
      stop();
    };
    this.#closing.add(cancel);
    Promise.resolve(this.#login()).then(
      (token) => {
        if (over) return;
        stop = this.#send(
          endpoint,
          { path, body: JSON.stringify(body), token },
          (response) => {
            let rest = '';
            response.setEncoding('utf8');
            response.on('data', (chunk: string) => {
              const lines = (rest + chunk).split('\n');
              rest = lines.pop() as string;
              if (rest.length > replyBytesMax) end('a line of its stream is too long');
              for (const line of lines) {
                if (over) return;
                try {
                  onLine(JSON.parse(line));
                } catch (error) {
                  end((error as Error).message);
                }
              }
            });
            response.on('close', () => end('the stream was closed'));
          },
          (failure) => end(failure.text),
        );
      },
      (error: Error) => end(error.message),
    );
    return cancel;
  }

  /** The token in use is of no use any more. */
  forgetToken(): void {
    this.#token = undefined;
  }

  close(): void {
    this.#closed = true;
    for (const close of [...this.#closing]) close();
    this.#http.destroy();
    this.#https.destroy();
  }

  #login(): Promise<string> | undefined {
    const { user: name, password } = this.#access;
    if (name === undefined) return undefined;
    if (this.#token === undefined) {
      const asked = this.#authenticate(name, password ?? '');
      // A failure is not remembered.
      asked.catch(() => {
        if (this.#token === asked) this.#token = undefined;
      });
      this.#token = asked;
    }
    return this.#token;
  }

  async #authenticate(name: string, password: string): Promise<string> {
    const body = JSON.stringify({ name, password });
    const raced = await this.#race({ path: '/v3/auth/authenticate', body, token: undefined });
    if (!('answer' in raced)) throw raced.error;
    const parsed = granted.safeParse(raced.answer);
    if (!parsed.success) throw coordinatorError('etcd gave no token to the user that was named: check user');
    return parsed.data.token;
  }

  #race(
    exchange: Exchange,
  ): Promise<
    | { answer: unknown; sent: number }
    | { error: WalshipError; refused: Failure['kind'] | 'timeout'; sent: number }
  > {
    const { tryMs, timeoutMs } = this.#access;
    const count = this.#endpoints.length;
    const first = this.#good;
    const running = new Set<() => void>();
    const failures = new Map<number, Failure>();
    let launched = 0;
    let sent = 0;
    let next: NodeJS.Timeout | undefined;

    return new Promise((resolve) => {
      const finish = () => {
        this.#closing.delete(onClose);
        clearTimeout(next);
        clearTimeout(total);
        for (const cancel of running) cancel();
      };
      const fail = (refused: Failure['kind'] | 'timeout', what: string) => {
        finish();
        const tried = this.#endpoints.flatMap(({ origin }, index) => {
          const failure = failures.get(index);
          if (failure) return [`${origin}: ${failure.text}`];
          return launched > (index - first + count) % count ? [`${origin}: no answer`] : [];
        });
        resolve({ error: coordinatorError(`${what} (${tried.join('; ')})`), refused, sent });
      };
      const onClose = () => fail('timeout', 'the connection to etcd was closed meanwhile');
      this.#closing.add(onClose);
      const total = setTimeout(
        () => fail('timeout', `etcd did not answer within ${timeoutMs} ms: is a majority of its members up?`),
        timeoutMs,
      );

      const settle = (index: number, outcome: Outcome) => {
        if ('answer' in outcome) {
          this.#good = index;
          finish();
          resolve({ answer: outcome.answer, sent });
          return;
        }
        const { failure } = outcome;
        if (failure.kind === 'unconnected') sent--;
        failures.set(index, failure);
        if (failure.kind === 'refused') fail('refused', 'etcd refused: check user, password and permissions');
        else if (failure.kind === 'token') fail('token', 'etcd does not accept the token it gave');
        else if (launched < count) launch();
        else if (
          failures.size === count &&
          [...failures.values()].every(({ kind }) => kind === 'unconnected')
        )
          fail('unconnected', 'no endpoint of etcd can be connected to: check that it runs, and endpoints');
        else if (running.size === 0) schedule(retryMs);
      };
      /** Every round is slower than the one before. */
      const schedule = (milliseconds: number) => {
        clearTimeout(next);
        next = setTimeout(launch, milliseconds * 2 ** Math.floor((launched - 1) / count));
      };
      const launch = () => {
        const index = (first + launched) % count;
        launched++;
        sent++;
        schedule(tryMs);
        failures.delete(index);
        const cancel = this.#ask(this.#endpoints[index] as URL, exchange, (outcome) => {
          running.delete(cancel);
          settle(index, outcome);
        });
        running.add(cancel);
      };
      if (this.#closed) onClose();
      else launch();
    });
  }

  /** One request to one endpoint; `done` is called once, never at once, and not after it was cancelled. */
  #ask(endpoint: URL, exchange: Exchange, done: (outcome: Outcome) => void): () => void {
    let over = false;
    const settle = (outcome: Outcome) => {
      if (over) return;
      over = true;
      stop();
      done(outcome);
    };
    const stop = this.#send(
      endpoint,
      exchange,
      (response) => {
        const chunks: Buffer[] = [];
        let bytes = 0;
        response.on('data', (chunk: Buffer) => {
          chunks.push(chunk);
          bytes += chunk.length;
          if (bytes > replyBytesMax) settle({ failure: { kind: 'lost', text: 'its answer is too long' } });
        });
        response.on('end', () =>
          settle(this.#judge(response.statusCode ?? 0, Buffer.concat(chunks).toString())),
        );
        response.on('close', () => settle({ failure: { kind: 'lost', text: 'broke off in its answer' } }));
      },
      (failure) => settle({ failure }),
    );
    return () => {
      over = true;
      stop();
    };
  }

  #judge(status: number, text: string): Outcome {
    let reply: unknown;
    try {
      reply = JSON.parse(text);
    } catch {
      return {
        failure: { kind: 'lost', text: `answers HTTP ${status} without JSON: is it etcd 3.4 or later?` },
      };
    }
    if (status !== 200) {
      const { error, message, code } = refusal.safeParse(reply).data ?? {};
      const why = message ?? error ?? `HTTP ${status}`;
      const kind =
        code === unauthenticated || /auth store is old/.test(why)
          ? 'token'
          : finalCodes.has(code ?? -1)
            ? 'refused'
            : 'lost';
      return { failure: { kind, text: why } };
    }
    const header = headed.safeParse(reply).data?.header;
    if (header === undefined) return { failure: { kind: 'lost', text: 'answers what etcd does not answer' } };
    this.#clusterId ??= header.cluster_id;
    if (header.cluster_id !== this.#clusterId) {
      // Two stores, two primaries.
      const text = 'belongs to another etcd cluster than the other endpoints: correct endpoints';
      return { failure: { kind: 'refused', text } };
    }
    return { answer: reply };
  }

  #send(
    endpoint: URL,
    { path, body, token }: Exchange,
    onResponse: (response: IncomingMessage) => void,
    onFailure: (failure: Failure) => void,
  ): () => void {
    const tls = endpoint.protocol === 'https:';
    const request = (tls ? httpsRequest : httpRequest)({
      agent: tls ? this.#https : this.#http,
      host: endpoint.hostname.replace(/^\[|\]$/g, ''),
      port: endpoint.port || (tls ? 443 : 80),
      method: 'POST',
      path,
      headers: {
        'content-type': 'application/json',
        'content-length': Buffer.byteLength(body),
        ...(token !== undefined && { authorization: token }),
      },
    });
    let connected = false;
    request.once('socket', (socket) => {
      if (request.reusedSocket) connected = true;
      else
        socket.once(tls ? 'secureConnect' : 'connect', () => {
          connected = true;
        });
    });
    request.once('response', onResponse);
    request.on('error', (error: NodeJS.ErrnoException) =>
      onFailure({
        kind: connected ? 'lost' : 'unconnected',
        text: error.message || (error.code ?? 'failed'),
      }),
    );
    request.end(body);
    return () => request.destroy();
  }
}

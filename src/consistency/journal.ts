import {
  closeSync,
  fdatasync,
  fstatSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  unlinkSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import { z } from 'zod';

/** Something that a node saw or did. */
export interface JournalEntry {
  /** Counts this node's entries, without a gap. */
  readonly seq: number;
  /** Of a hybrid logical clock: entries of all nodes in its order are in causal order. */
  readonly clock: bigint;
  readonly node: string;
  readonly epoch: bigint;
  /** What the node had received. */
  readonly lsn: bigint;
  readonly level: 'info' | 'warn' | 'error';
  /** As in the node's own log. */
  readonly event: string;
  readonly message: string;
  readonly code?: string | undefined;
  readonly facts?: Readonly<Record<string, string | number | boolean>> | undefined;
}

const number = z
  .string()
  .regex(/^[0-9]{1,20}$/)
  .transform(BigInt);
const schema = z.strictObject({
  seq: z.number().int().min(1),
  clock: number,
  node: z.string(),
  epoch: number,
  lsn: number,
  level: z.enum(['info', 'warn', 'error']),
  event: z.string(),
  message: z.string(),
  code: z.string().optional(),
  facts: z.record(z.string(), z.union([z.string(), z.number(), z.boolean()])).optional(),
});

/** One line of JSON, bigints as decimal text, with a checksum of what stands before it as its last member. */
export function encodeEntry(entry: JournalEntry): string {
  const text = JSON.stringify(entry, (_, value) => (typeof value === 'bigint' ? String(value) : value));
  const body = text.slice(0, -1);
  return `${body},"sum":"${checksum(body)}"}`;
}

/** @returns undefined if this is not what encodeEntry has made */
export function decodeEntry(line: string): JournalEntry | undefined {
  const [, body, sum] = /^(\{.*),"sum":"([0-9a-f]{8})"\}$/.exec(line) ?? [];
  if (body === undefined || sum !== checksum(body)) return undefined;
  return schema.safeParse(JSON.parse(`${body}}`)).data;
}

function checksum(text: string): string {
  return crc32(text).toString(16).padStart(8, '0');
}

/** What a journal's files say. */
export interface JournalContents {
  /** Oldest first. */
  readonly entries: readonly JournalEntry[];
  /** Lines that are not as they were written, each with its place; the other lines are there. */
  readonly damaged: readonly string[];
  /** There is more behind the last entry. */
  readonly more: boolean;
}

const fileName = /^journal-([0-9]{10})\.jsonl$/;
const nameOf = (firstSeq: number) => `journal-${String(firstSeq).padStart(10, '0')}.jsonl`;

function filesIn(dir: string): string[] {
  return readdirSync(dir)
    .filter((name) => fileName.test(name))
    .sort();
}

/** Which part of a journal is read. */
export interface JournalRange {
  /** Only what is behind this stamp. */
  readonly after?: bigint;
  /** So many entries at most. */
  readonly max?: number;
}

/**
 * Reads a journal, also while its node writes it. A line that is not finished yet is left out. What comes before the range is
 * passed over without being decoded: a node is asked for this on the thread that its controller runs on.
 */
export function readJournal(dir: string, range: JournalRange = {}): JournalContents {
  const { after = -1n, max = Number.POSITIVE_INFINITY } = range;
  const [entries, damaged]: [JournalEntry[], string[]] = [[], []];
  for (const name of filesIn(dir)) {
    const lines = readFileSync(join(dir, name), 'utf8').split('\n');
    lines.pop();
    for (const [i, line] of lines.entries()) {
      if (BigInt(/"clock":"([0-9]{1,20})"/.exec(line)?.[1] ?? after + 1n) <= after) continue;
      if (entries.length >= max) return { entries, damaged, more: true };
      const entry = decodeEntry(line);
      if (entry) entries.push(entry);
      else damaged.push(`${join(dir, name)}:${i + 1}: this line is damaged`);
    }
  }
  return { entries, damaged, more: false };
}

/** In causal order; of what happened at once on two nodes, in any. */
export function mergeJournals(journals: readonly (readonly JournalEntry[])[]): JournalEntry[] {
  return journals.flat().sort((x, y) => (x.clock < y.clock ? -1 : x.clock > y.clock ? 1 : x.seq - y.seq));
}

export interface JournalOptions {
  readonly node: string;
  /** Of all files; the oldest is given up for a new one. Default 8 MiB, at least 64 KiB. */
  readonly bytesMax?: number | undefined;
  /** Hears, once, that the journal cannot be written: the node goes on without it. */
  readonly onProblem?: (message: string) => void;
}

export const journalBytesDefault = 8 * 1024 * 1024;
/** Of `bytesMax`: what is given up at once. */
const filesMin = 4;

/**
 * A node's own record of what it saw and did: lines in files that are only appended to, each with a checksum. What a crash
 * of the process leaves is whole but for the last line; a crash of the host can cost the lines of the last moment.
 */
export class Journal {
  readonly #dir: string;
  readonly #options: JournalOptions;
  readonly #fileBytesMax: number;
  #file: number | undefined;
  #fileBytes = 0;
  #nextSeq = 1;
  #syncing = false;
  #unsynced = false;
  #failed = false;
  #torn = false;

  /** Goes on where the files in `dir` end, which is made if missing. Never throws. */
  static open(dir: string, options: JournalOptions): Journal {
    const journal = new Journal(dir, options);
    try {
      mkdirSync(dir, { recursive: true });
      journal.#goOn();
    } catch (error) {
      journal.#fail(error as Error);
    }
    return journal;
  }

  private constructor(dir: string, options: JournalOptions) {
    this.#dir = dir;
    this.#options = options;
    this.#fileBytesMax = Math.floor((options.bytesMax ?? journalBytesDefault) / filesMin);
  }

  /** Whether a crash had left a line unfinished, which was cut off at the start. */
  get torn(): boolean {
    return this.#torn;
  }

  #goOn(): void {
    const last = filesIn(this.#dir).at(-1);
    if (last === undefined) return;
    const path = join(this.#dir, last);
    const bytes = readFileSync(path);
    const whole = bytes.lastIndexOf('\n') + 1;
    this.#file = openSync(path, 'a');
    this.#torn = whole < bytes.length;
    if (this.#torn) ftruncateSync(this.#file, whole);
    this.#fileBytes = whole;
    this.#nextSeq = Number(fileName.exec(last)?.[1]);
    // A damaged line had a number, too.
    for (const line of bytes.subarray(0, whole).toString().split('\n').slice(0, -1))
      this.#nextSeq = (decodeEntry(line)?.seq ?? this.#nextSeq) + 1;
  }

  /** Never throws: what a node does must not depend on its being written down. */
  append(entry: Omit<JournalEntry, 'seq' | 'node'>): void {
    if (this.#failed) return;
    try {
      const line = Buffer.from(
        `${encodeEntry({ seq: this.#nextSeq, node: this.#options.node, ...entry })}\n`,
      );
      if (this.#file === undefined || this.#fileBytes + line.length > this.#fileBytesMax) this.#beginFile();
      writeSync(this.#file as number, line);
      this.#fileBytes += line.length;
      this.#nextSeq++;
      this.#sync();
    } catch (error) {
      this.#fail(error as Error);
    }
  }

  close(): void {
    if (this.#file !== undefined) closeSync(this.#file);
    this.#file = undefined;
    this.#failed = true;
  }

  #beginFile(): void {
    if (this.#file !== undefined) closeSync(this.#file);
    this.#file = openSync(join(this.#dir, nameOf(this.#nextSeq)), 'a');
    this.#fileBytes = fstatSync(this.#file).size;
    for (const name of filesIn(this.#dir).slice(0, -filesMin)) unlinkSync(join(this.#dir, name));
  }

  /** As many as come while the disk is at work are synced together. */
  #sync(): void {
    this.#unsynced = true;
    if (this.#syncing || this.#file === undefined) return;
    this.#syncing = true;
    this.#unsynced = false;
    const file = this.#file;
    fdatasync(file, (error) => {
      this.#syncing = false;
      // The file may be closed by now, and the next one be there.
      if (error && error.code !== 'EBADF') this.#fail(error);
      else if (this.#unsynced && !this.#failed) this.#sync();
    });
  }

  #fail(error: Error): void {
    if (this.#failed) return;
    this.#failed = true;
    this.#options.onProblem?.(`the journal in ${this.#dir} is not written any more: ${error.message}`);
  }
}

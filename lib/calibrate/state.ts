// What was computed so far, in a file: a calibration that was broken off goes on from there. In: named parts. Out: the same parts again.
// The file is replaced as a whole, so that it is always one or the other. When the calibration is done it is removed, or kept for the next budget.
import { createHash } from 'node:crypto';
import fs from 'node:fs/promises';
import { ChaiError } from '../errors';
import { isObject, type JsonObject } from '../json_file';
import type { Drawn } from './samples';

const format = 'chai-llm/calibration-state@1';
const longest = 5000; // milliseconds from one save to the next, at most
const largest = 2 ** 28; // bytes of a file to go on from
const share = 50; // and so many times what writing took

export class State {
  readonly #parts: JsonObject;
  #saved = performance.now();
  #took = 1;

  private constructor(
    private readonly file: string | undefined,
    private readonly fingerprint: string,
    parts: JsonObject,
  ) {
    this.#parts = parts;
  }

  /** Throws OPTION_INVALID where the file to go on from belongs to other work, or cannot be read. */
  static async open(file: string | undefined, resume: boolean, fingerprint: string): Promise<State> {
    const text = file !== undefined && resume ? await read(file) : undefined;
    if (text === undefined) return new State(file, fingerprint, {});
    const saved = parse(text);
    if (!isObject(saved) || saved.format !== format || !isObject(saved.parts))
      throw unusable(file as string, 'is no state of a calibration');
    if (saved.fingerprint !== fingerprint) throw unusable(file as string, 'is of another model, another text or other options');
    return new State(file, fingerprint, saved.parts);
  }

  get<Part>(name: string): Part | undefined {
    return Object.hasOwn(this.#parts, name) ? (this.#parts[name] as Part) : undefined;
  }

  /** Keeps a part; what it holds is asked for only when it is time to write. */
  async set(name: string, part: () => unknown, now = false): Promise<void> {
    if (this.file === undefined) return;
    const due = now || performance.now() - this.#saved > Math.min(longest, share * this.#took);
    if (due) this.#parts[name] = part();
    if (due) await this.#write();
  }

  /** Keeps a small part for the next writing. */
  keep(name: string, part: unknown): void {
    this.#parts[name] = part;
  }

  async finish(keep: boolean): Promise<void> {
    if (this.file === undefined) return;
    if (keep) await this.#write();
    else await fs.rm(this.file, { force: true });
  }

  async #write(): Promise<void> {
    const began = performance.now();
    await replaceFile(this.file as string, JSON.stringify({ format, fingerprint: this.fingerprint, parts: this.#parts }));
    this.#saved = performance.now();
    this.#took = this.#saved - began;
  }
}

/** Writes beside the file, then renames: nobody ever sees half of it. */
export async function replaceFile(file: string, text: string): Promise<void> {
  const beside = `${file}.${process.pid}.tmp`;
  try {
    const handle = await fs.open(beside, 'w');
    try {
      await handle.writeFile(text);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await fs.rename(beside, file);
  } catch (error) {
    await fs.rm(beside, { force: true });
    throw new ChaiError('OPTION_INVALID', `cannot write ${file}: ${(error as Error).message}`, { cause: error });
  }
}

export const packed = (values: Float64Array) => Buffer.from(values.buffer, values.byteOffset, values.byteLength).toString('base64');

/** `count` numbers; undefined when the text holds another number of them. */
export function unpacked(text: string, count: number): Float64Array | undefined {
  const bytes = Buffer.from(text, 'base64');
  return bytes.length === count * 8 ? new Float64Array(Uint8Array.from(bytes).buffer) : undefined;
}

/** The same for the same options and the same tokens drawn. */
export function fingerprintOf(options: unknown, { samples, heldOut }: Drawn): string {
  const hash = createHash('sha256').update(JSON.stringify(options));
  for (const ids of [...samples, ...heldOut.map((window) => window.ids)]) hash.update(ids);
  return hash.digest('hex');
}

async function read(file: string): Promise<string | undefined> {
  try {
    const status = await fs.stat(file);
    if (!status.isFile() || status.size > largest) throw unusable(file, 'is no state of a calibration');
    return await fs.readFile(file, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error instanceof ChaiError ? error : unusable(file, `cannot be read: ${(error as Error).message}`);
  }
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

export function unusable(file: string, what: string): ChaiError {
  return new ChaiError('OPTION_INVALID', `calibrate: ${file} ${what}; remove it, or name another state file`);
}

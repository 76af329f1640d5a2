// Reads fields of config.json with their types proven. In: a JSON object. Out: numbers, booleans, strings; errors name the field.
import { ChaiError } from './errors';
import { isObject, type JsonObject } from './json_file';

/** A view of one JSON object whose getters throw MODEL_INVALID (wrong type or range) naming the field. */
export class Fields {
  constructor(
    private readonly object: JsonObject,
    private readonly where = 'config.json',
  ) {}

  /** A whole number in [least, most]; `fallback` when absent or null. */
  count(name: string, fallback?: number, least = 1, most = 2 ** 28): number {
    const value = this.value(name, fallback);
    if (typeof value !== 'number' || !Number.isInteger(value) || value < least || value > most)
      throw this.invalid(name, value, `a whole number from ${least} to ${most}`);
    return value;
  }

  /** A finite number above 0. */
  positive(name: string, fallback?: number): number {
    const value = this.value(name, fallback);
    if (typeof value !== 'number' || !Number.isFinite(value) || value <= 0) throw this.invalid(name, value, 'a number above 0');
    return value;
  }

  boolean(name: string, fallback: boolean): boolean {
    const value = this.value(name, fallback);
    if (typeof value !== 'boolean') throw this.invalid(name, value, 'true or false');
    return value;
  }

  text(name: string, fallback?: string): string {
    const value = this.value(name, fallback);
    if (typeof value !== 'string') throw this.invalid(name, value, 'a string');
    return value;
  }

  /** A nested object, or undefined when absent or null. */
  nested(name: string): Fields | undefined {
    const value = this.object[name];
    if (value === undefined || value === null) return undefined;
    if (!isObject(value)) throw this.invalid(name, value, 'an object');
    return new Fields(value, `${this.where}: ${name}`);
  }

  /** Whether the field is there and neither null nor one of `harmless`. */
  isSet(name: string, ...harmless: unknown[]): boolean {
    const value = this.object[name];
    return value !== undefined && value !== null && !harmless.includes(value);
  }

  /** Throws UNSUPPORTED_MODEL when the field has any other value than these (absent and null are fine). */
  refuseUnless(name: string, ...supported: unknown[]): void {
    if (this.isSet(name, ...supported)) throw this.unsupported(name, supported);
  }

  /** Throws UNSUPPORTED_MODEL at the first field with a value that is not among these names. */
  refuseOthers(names: readonly string[]): void {
    for (const name of Object.keys(this.object)) if (!names.includes(name) && this.isSet(name)) throw this.unsupported(name, []);
  }

  /** Whether the object has no field at all. */
  get isEmpty(): boolean {
    return Object.keys(this.object).length === 0;
  }

  unsupported(name: string, supported: unknown[]): ChaiError {
    const list = supported.length > 0 ? `; supported: ${supported.map((value) => JSON.stringify(value)).join(', ')}` : '';
    const value = JSON.stringify(this.object[name])?.slice(0, 200);
    return new ChaiError('UNSUPPORTED_MODEL', `${this.where}: ${name} = ${value} is not supported${list}`);
  }

  private value(name: string, fallback: unknown): unknown {
    return this.object[name] ?? fallback;
  }

  private invalid(name: string, value: unknown, expected: string): ChaiError {
    const given = value === undefined ? 'missing' : `${JSON.stringify(value)?.slice(0, 200)}`;
    return new ChaiError('MODEL_INVALID', `${this.where}: ${name} is ${given}, expected ${expected}`);
  }
}

// The package's version. In: package.json. Out: a string.
import fs from 'node:fs';
import path from 'node:path';

const manifest = JSON.parse(fs.readFileSync(path.join(__dirname, '..', 'package.json'), 'utf8')) as { version: string };
/** The version of this package. */
export const version = manifest.version;

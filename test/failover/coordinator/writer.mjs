// A process that replaces a document as fast as it can until it is killed. It writes a line for each edition before it begins
// the next one: what it wrote is known even if it dies then. It loads nothing else, because hundreds of it are started.
import { writeSync } from 'node:fs';
import { Document } from '../../../dist/failover/coordinator/document.js';

/** @type {{ path: string }} */
const { path } = JSON.parse(process.argv[2] ?? '');
const document = await Document.open(path, '0');
for (;;) {
  const seen = await document.read();
  const revision = await document.replace(seen, String(seen.revision + 1n));
  if (revision !== undefined) writeSync(1, `won ${seen.revision} ${revision} ${revision}\n`);
}

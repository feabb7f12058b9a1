import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { expect, test } from 'vitest';

test('the built addon is the one of this version', () => {
  const root = new URL('../../', import.meta.url);
  const addon = createRequire(import.meta.url)('../../build/Release/walship.node');
  const { version } = JSON.parse(readFileSync(new URL('package.json', root), 'utf8'));
  expect(addon.version).toBe(version);
});

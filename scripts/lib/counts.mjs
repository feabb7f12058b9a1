// How the tools that run tests say what they counted. Each function gives null for output without counts, which
// the caller takes for a failure: a tool that died must not look like one with nothing to do.

/** @typedef {{ passed: number, failed: number, skipped: number }} Counts */

/** @param {string} output of a doctest binary @returns {Counts | null} */
export function doctestCounts(output) {
  const found = output.match(
    /^\[doctest\] test cases:\s+(\d+) \|\s+(\d+) passed \|\s+(\d+) failed \|\s+(\d+) skipped/m,
  );
  if (found === null) return null;
  const [passed, failed, skipped] = found.slice(2).map(Number);
  // "skipped" of doctest means filtered out; no filter is given, so that is what the case itself asked for.
  return { passed: passed ?? 0, failed: failed ?? 0, skipped: skipped ?? 0 };
}

/**
 * The test cases that failed, each with what doctest printed of it.
 *
 * @param {string} output of a doctest binary @returns {string[]}
 */
export function doctestFailures(output) {
  return output
    .split(/^={50,}$/m)
    .slice(1)
    .filter((part) => /: (?:FATAL )?ERROR: /.test(part))
    .map((part) => part.replace(/^\[doctest\][\s\S]*/m, '').trim());
}

/**
 * The tests, and files, that failed, each with the beginning of its message.
 *
 * @param {string} json written by vitest's JSON reporter @returns {string[]}
 */
export function vitestFailures(json) {
  const failures = [];
  for (const file of JSON.parse(json).testResults) {
    if (file.status === 'failed' && file.message) failures.push(`${file.name}: ${file.message}`);
    for (const test of file.assertionResults) {
      if (test.status === 'failed') failures.push(`${test.fullName}: ${test.failureMessages.join('\n')}`);
    }
  }
  return failures;
}

/** @param {string} json written by vitest's JSON reporter @returns {Counts | null} */
export function vitestCounts(json) {
  /** @type {any} */
  let report;
  try {
    report = JSON.parse(json);
  } catch {
    return null;
  }
  if (!Array.isArray(report?.testResults)) return null;
  // A file that fails to load has no tests to count, yet it failed.
  const broken = report.testResults.filter(
    (/** @type {any} */ file) =>
      file.status === 'failed' &&
      !file.assertionResults.some((/** @type {any} */ test) => test.status === 'failed'),
  ).length;
  return {
    passed: report.numPassedTests,
    failed: report.numFailedTests + broken,
    skipped: report.numPendingTests + report.numTodoTests,
  };
}

/** @param {string} output that ends with "N passed, N failed, N skipped" @returns {Counts | null} */
export function plainCounts(output) {
  const found = [...output.matchAll(/^(\d+) passed, (\d+) failed, (\d+) skipped\s*$/gm)].at(-1);
  if (found === undefined) return null;
  return { passed: Number(found[1]), failed: Number(found[2]), skipped: Number(found[3]) };
}

/**
 * The lines of those that failed, each after what was told ("# …") before it.
 *
 * @param {string} output of "ok NAME" and "not ok NAME" lines @returns {string[]}
 */
export function plainFailures(output) {
  return output.match(/^(?:# .*\n)*not ok .*$/gm) ?? [];
}

/** @param {Counts} counts */
export function formatCounts({ passed, failed, skipped }) {
  return `${passed} passed, ${failed} failed, ${skipped} skipped`;
}

import { type NativeVerbs, native } from './native.js';

/** What this build and this host can do. */
export interface Capabilities {
  readonly version: string;
  /**
   * RDMA: `ready`, or exactly what is missing: the headers when the addon was built, libibverbs, one of its symbols,
   * the kernel's user verbs, or a device. `detail` says what to do about it; the devices found are listed either way.
   */
  readonly verbs: NativeVerbs;
}

/** Looks at the host anew at every call; works on every host. */
export function capabilities(): Capabilities {
  return { version: native.version, verbs: native.verbsCapabilities() };
}

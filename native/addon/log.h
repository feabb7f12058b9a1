// Offline access to a log's files, as JavaScript sees it. src/engine/native.ts declares this surface in TypeScript.
#pragma once

#include <napi.h>

namespace walship::addon {

// inspectLog(path): Promise<NativeLogSummary>
Napi::Value inspectLog(const Napi::CallbackInfo& info);

// verifyLog(path, progress: BigUint64Array(3)): Promise<NativeLogVerification>. `progress` is [bytes done, bytes in all,
// stop]: written and read while the run goes on, from a thread of libuv's pool; anything but 0 in the last stops it.
Napi::Value verifyLog(const Napi::CallbackInfo& info);

// exportLog(path, from, to, fd): Promise<bigint>, the bytes written. `fd` stays the caller's, who keeps it open until then.
Napi::Value exportLog(const Napi::CallbackInfo& info);

}  // namespace walship::addon

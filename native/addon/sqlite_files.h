// Offline access to SQLite databases and their logs, as JavaScript sees it. src/engine/native.ts declares this surface in
// TypeScript. `progress` is a BigUint64Array(2), [bytes done, bytes in all], written from a thread of libuv's pool.
#pragma once

#include <napi.h>

namespace walship::addon {

// surveySqliteLog(logDir, progress): Promise<NativeSqliteSurvey>
Napi::Value surveySqliteLog(const Napi::CallbackInfo& info);

// restoreSqlite(logDir, file, toLsn, toTimeUs, progress): Promise<NativeRestored>
Napi::Value restoreSqlite(const Napi::CallbackInfo& info);

// compareSqlite(database, logDir, progress): Promise<NativeComparison>
Napi::Value compareSqlite(const Napi::CallbackInfo& info);

// inspectSidecar(database): Promise<NativeSidecar>
Napi::Value inspectSidecar(const Napi::CallbackInfo& info);

}  // namespace walship::addon

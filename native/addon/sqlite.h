// A SQLite replica as JavaScript sees it. src/engine/native.ts declares this surface in TypeScript.
#pragma once

#include <napi.h>

namespace walship::addon {

// (engine, settings, onEvent) → promise of the replica.
Napi::Value openReplica(const Napi::CallbackInfo& info);

}  // namespace walship::addon

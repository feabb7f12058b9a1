// The two ends of PostgreSQL's replication as JavaScript sees them. src/databases/postgres/native.ts declares this surface
// in TypeScript.
#pragma once

#include <napi.h>

namespace walship::addon {

// (engine, settings) → promise of the receiver.
Napi::Value openPostgresReceiver(const Napi::CallbackInfo& info);
// (engine, settings) → promise of the sender.
Napi::Value openPostgresSender(const Napi::CallbackInfo& info);

}  // namespace walship::addon

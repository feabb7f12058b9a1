// The two ends of PostgreSQL's replication as JavaScript sees them. src/databases/postgres/native.ts declares this surface
// in TypeScript.
#pragma once

#include <napi.h>

namespace walship::addon {

// (engine, settings) → promise of the receiver.
// (conninfo, SQL, timeout in ms) → the columns of its only row.
Napi::Value queryPostgres(const Napi::CallbackInfo& info);
Napi::Value openPostgresReceiver(const Napi::CallbackInfo& info);
// (engine, settings) → promise of the sender.
Napi::Value openPostgresSender(const Napi::CallbackInfo& info);

}  // namespace walship::addon

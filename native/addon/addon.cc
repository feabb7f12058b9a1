// The one entry of the addon. Loads on every host: libibverbs is looked for only when it is asked for.
#include <napi.h>

#include "addon/convert.h"
#include "addon/engine.h"
#include "addon/log.h"
#include "addon/pages.h"
#include "addon/postgres.h"
#ifdef WALSHIP_WITH_SQLITE
#include "addon/sqlite.h"
#include "addon/sqlite_files.h"
#endif

namespace {

Napi::Value capabilities(const Napi::CallbackInfo& info) {
  return walship::addon::toJs(info.Env(), walship::verbsCapabilities());
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  // One constructor per environment (main thread, Workers).
  env.SetInstanceData(new Napi::FunctionReference(Napi::Persistent(walship::addon::NativeEngine::define(env))));
  exports.Set("version", Napi::String::New(env, WALSHIP_VERSION));
  exports.Set("openEngine", Napi::Function::New(env, walship::addon::openEngine));
  exports.Set("verbsCapabilities", Napi::Function::New(env, capabilities));
  exports.Set("inspectLog", Napi::Function::New(env, walship::addon::inspectLog));
  exports.Set("verifyLog", Napi::Function::New(env, walship::addon::verifyLog));
  exports.Set("queryPostgres", Napi::Function::New(env, walship::addon::queryPostgres));
  exports.Set("openPostgresReceiver", Napi::Function::New(env, walship::addon::openPostgresReceiver));
  exports.Set("openPostgresSender", Napi::Function::New(env, walship::addon::openPostgresSender));
  exports.Set("pages", walship::addon::pages(env));
  exports.Set("exportLog", Napi::Function::New(env, walship::addon::exportLog));
#ifdef WALSHIP_WITH_SQLITE
  exports.Set("openReplica", Napi::Function::New(env, walship::addon::openReplica));
  exports.Set("surveySqliteLog", Napi::Function::New(env, walship::addon::surveySqliteLog));
  exports.Set("restoreSqlite", Napi::Function::New(env, walship::addon::restoreSqlite));
  exports.Set("compareSqlite", Napi::Function::New(env, walship::addon::compareSqlite));
  exports.Set("inspectSidecar", Napi::Function::New(env, walship::addon::inspectSidecar));
#endif
  return exports;
}

}  // namespace

NODE_API_MODULE(walship, init)

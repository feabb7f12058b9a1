#include "addon/sqlite_files.h"

#include <atomic>

#include "addon/convert.h"
#include "databases/sqlite/check.h"
#include "databases/sqlite/restore.h"

namespace walship::addon {

namespace {

std::string text(const Napi::CallbackInfo& info, size_t index) { return info[index].ToString().Utf8Value(); }

// The task keeps the array, and with it this memory, alive until it is done.
ReadProgress progressInto(Napi::BigUint64Array& cells) {
  return [data = cells.Data()](uint64_t doneBytes, uint64_t totalBytes) {
    std::atomic_ref(data[0]).store(doneBytes, std::memory_order_relaxed);
    std::atomic_ref(data[1]).store(totalBytes, std::memory_order_relaxed);
  };
}

Napi::Object transactionToJs(Napi::Env env, const LoggedTransaction& transaction) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("startLsn", toJs(env, transaction.startLsn));
  out.Set("lsn", toJs(env, transaction.endLsn));
  out.Set("timeUs", static_cast<double>(transaction.timeUs));
  out.Set("pageBytes", transaction.pageBytes);
  out.Set("databasePages", transaction.databasePages);
  return out;
}

Napi::Object surveyToJs(Napi::Env env, const SqliteLogSurvey& survey) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("firstLsn", toJs(env, survey.firstLsn));
  out.Set("endLsn", toJs(env, survey.endLsn));
  out.Set("inUse", survey.inUse);
  out.Set("transactions", static_cast<double>(survey.transactions));
  if (survey.first) out.Set("first", transactionToJs(env, *survey.first));
  if (survey.last) out.Set("last", transactionToJs(env, *survey.last));
  Napi::Array snapshots = Napi::Array::New(env, survey.snapshots.size());
  for (uint32_t i = 0; i < survey.snapshots.size(); ++i) snapshots.Set(i, transactionToJs(env, survey.snapshots[i]));
  out.Set("snapshots", snapshots);
  return out;
}

Napi::Object comparisonToJs(Napi::Env env, const DatabaseComparison& comparison) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("pageBytes", comparison.pageBytes);
  out.Set("databasePages", comparison.databasePages);
  out.Set("walFrames", comparison.walFrames);
  out.Set("compared", static_cast<double>(comparison.compared));
  out.Set("uncaptured", static_cast<double>(comparison.uncaptured));
  out.Set("closest", transactionToJs(env, comparison.closest));
  out.Set("loggedPages", comparison.loggedPages);
  out.Set("differentCount", static_cast<double>(comparison.differentCount));
  Napi::Array different = Napi::Array::New(env, comparison.different.size());
  for (uint32_t i = 0; i < comparison.different.size(); ++i) different.Set(i, comparison.different[i]);
  out.Set("different", different);
  return out;
}

struct SidecarFacts {
  SidecarState state;
  bool untouched = false;
};

const char* nameOf(SidecarRole role) {
  switch (role) {
    case SidecarRole::none: return "none";
    case SidecarRole::primary: return "primary";
    case SidecarRole::standby: return "standby";
  }
  return "none";
}

}  // namespace

Napi::Value surveySqliteLog(const Napi::CallbackInfo& info) {
  auto cells = info[1].As<Napi::BigUint64Array>();
  return Task<SqliteLogSurvey>::run(
      info.Env(),
      [dir = text(info, 0), progress = progressInto(cells)] {
        return walship::surveySqliteLog(dir, [](const LoggedTransaction&) { return true; }, progress);
      },
      [](Napi::Env env, SqliteLogSurvey& survey) -> Napi::Value { return surveyToJs(env, survey); }, cells);
}

Napi::Value restoreSqlite(const Napi::CallbackInfo& info) {
  auto cells = info[4].As<Napi::BigUint64Array>();
  return Task<RestoredDatabase>::run(
      info.Env(),
      [dir = text(info, 0), file = text(info, 1), target = RestoreTarget{toU64(info[2]), toU64(info[3])},
       progress = progressInto(cells)] { return walship::restoreSqlite(dir, file, target, progress); },
      [](Napi::Env env, RestoredDatabase& restored) -> Napi::Value {
        Napi::Object out = Napi::Object::New(env);
        out.Set("reached", transactionToJs(env, restored.reached));
        out.Set("baseLsn", toJs(env, restored.baseLsn));
        out.Set("fromSnapshot", restored.fromSnapshot);
        out.Set("transactions", static_cast<double>(restored.transactions));
        return out;
      },
      cells);
}

Napi::Value compareSqlite(const Napi::CallbackInfo& info) {
  auto cells = info[2].As<Napi::BigUint64Array>();
  return Task<DatabaseComparison>::run(
      info.Env(),
      [database = text(info, 0), dir = text(info, 1), progress = progressInto(cells)] {
        return walship::compareSqlite(database, dir, progress);
      },
      [](Napi::Env env, DatabaseComparison& comparison) -> Napi::Value { return comparisonToJs(env, comparison); }, cells);
}

Napi::Value inspectSidecar(const Napi::CallbackInfo& info) {
  return Task<SidecarFacts>::run(
      info.Env(),
      [database = text(info, 0)]() -> Result<SidecarFacts> {
        auto opened = Sidecar::open(database);
        if (!opened) return opened.error();
        const SidecarState state = opened.value()->state();
        return SidecarFacts{state, state.closedCleanly && state.stamp == opened.value()->stampNow()};
      },
      [](Napi::Env env, SidecarFacts& facts) -> Napi::Value {
        Napi::Object out = Napi::Object::New(env);
        out.Set("role", nameOf(facts.state.role));
        out.Set("appliedLsn", toJs(env, facts.state.appliedLsn));
        out.Set("closedCleanly", facts.state.closedCleanly);
        out.Set("untouched", facts.untouched);
        return out;
      },
      Napi::Object::New(info.Env()));
}

}  // namespace walship::addon

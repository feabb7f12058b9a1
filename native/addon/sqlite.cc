#include "addon/sqlite.h"

#include "addon/convert.h"
#include "addon/engine.h"
#include "databases/sqlite/replica.h"

namespace walship::addon {

namespace {

// What the JavaScript object's functions share. The engine stops the replica before it closes.
struct Box {
  explicit Box(std::shared_ptr<Core> engineCore) : core(std::move(engineCore)) {}
  ~Box() { close(); }
  void close() {
    if (replica) static_cast<void>(replica->stop());
    if (!std::exchange(released, true)) callback.Release();
  }
  void tell(EngineEvent event) {
    callback.NonBlockingCall([event = std::move(event)](Napi::Env env, Napi::Function onEvent) {
      if (env != nullptr) onEvent.Call({toJs(env, event)});
    });
  }

  const std::shared_ptr<Core> core;
  Napi::ThreadSafeFunction callback;
  std::unique_ptr<Replica> replica;
  bool released = false;
};

double plain(uint64_t value) { return static_cast<double>(value); }

ReplicaSettings replicaSettingsFrom(const Napi::Object& from) {
  const auto number = [&](const char* key) { return from.Get(key).ToNumber().Uint32Value(); };
  ReplicaSettings settings;
  settings.path = from.Get("path").ToString().Utf8Value();
  settings.capture.checkpointMs = settings.applier.checkpointMs = number("checkpointMs");
  settings.capture.checkpointBytes = settings.applier.checkpointBytes = number("checkpointBytes");
  settings.capture.pollMs = number("pollMs");
  settings.capture.wait = from.Get("commitMode").ToString().Utf8Value() == "wait";
  settings.capture.commitTimeoutMs = number("commitTimeoutMs");
  return settings;
}

Napi::Object statusOf(Napi::Env env, const ReplicaStatus& status) {
  Napi::Object out = Napi::Object::New(env);
  const auto problem = [&](const std::optional<Error>& error) {
    if (error) out.Set("problem", toJs(env, *error).Value());
  };
  switch (status.role) {
    case ReplicaRole::none: out.Set("role", "none"); break;
    case ReplicaRole::primary: {
      const CaptureStatus& capture = status.capture;
      out.Set("role", "primary");
      out.Set("capturedLsn", toJs(env, capture.capturedLsn));
      out.Set("transactions", plain(capture.transactions));
      out.Set("snapshots", plain(capture.snapshots));
      out.Set("snapshotLsn", toJs(env, capture.snapshotLsn));
      out.Set("snapshotPages", plain(capture.snapshotPages));
      out.Set("snapshotPagesDone", plain(capture.snapshotPagesDone));
      out.Set("walBytes", plain(capture.walBytes));
      out.Set("checkpoints", plain(capture.checkpoints));
      out.Set("walRestarts", plain(capture.restarts));
      out.Set("blockedMs", plain(capture.blockedMs));
      out.Set("commitTimeouts", plain(capture.commitTimeouts));
      problem(capture.problem);
      break;
    }
    case ReplicaRole::standby: {
      const ApplierStatus& applier = status.applier;
      out.Set("role", "standby");
      out.Set("appliedLsn", toJs(env, applier.appliedLsn));
      out.Set("appliedUs", plain(applier.appliedUs));
      out.Set("transactions", plain(applier.transactions));
      out.Set("commits", plain(applier.commits));
      out.Set("pages", plain(applier.pages));
      out.Set("walBytes", plain(applier.walBytes));
      out.Set("checkpoints", plain(applier.checkpoints));
      out.Set("checkpointedMsAgo", plain(applier.checkpointedMsAgo));
      out.Set("blockedMs", plain(applier.blockedMs));
      out.Set("snapshotNeeded", applier.snapshotNeeded);
      out.Set("snapshotPages", plain(applier.snapshotPages));
      out.Set("snapshotPagesDone", plain(applier.snapshotPagesDone));
      problem(applier.problem);
      break;
    }
  }
  return out;
}

using Shared = std::shared_ptr<Box>;

Napi::Value lsnTask(const Napi::CallbackInfo& info, const Shared& box, std::function<Result<uint64_t>(Replica&)> work) {
  return Task<uint64_t>::run(
      info.Env(), box->core->guarded<uint64_t>([box, work = std::move(work)](Engine&) { return work(*box->replica); }),
      [](Napi::Env env, uint64_t& lsn) -> Napi::Value { return toJs(env, lsn); }, Napi::Object::New(info.Env()));
}

Napi::Value voidTask(const Napi::CallbackInfo& info, const Shared& box, std::function<Result<void>(Replica&)> work) {
  return Task<bool>::run(
      info.Env(), box->core->guarded<bool>([box, work = std::move(work)](Engine&) -> Result<bool> {
        if (auto done = work(*box->replica); !done) return done.error();
        return true;
      }),
      [](Napi::Env env, bool&) -> Napi::Value { return env.Undefined(); }, Napi::Object::New(info.Env()));
}

Napi::Object wrap(Napi::Env env, const Shared& shared) {
  Napi::Object out = Napi::Object::New(env);
  const auto method = [&](const char* name, std::function<Napi::Value(const Napi::CallbackInfo&, const Shared&)> call) {
    out.Set(name, Napi::Function::New(
                      env, [shared, call = std::move(call)](const Napi::CallbackInfo& info) { return call(info, shared); },
                      name));
  };
  method("startPrimary", [](const Napi::CallbackInfo& info, const Shared& box) {
    return lsnTask(info, box, [](Replica& replica) { return replica.startPrimary(); });
  });
  method("startStandby", [](const Napi::CallbackInfo& info, const Shared& box) {
    return voidTask(info, box, [](Replica& replica) { return replica.startStandby(); });
  });
  method("stop", [](const Napi::CallbackInfo& info, const Shared& box) {
    return voidTask(info, box, [](Replica& replica) { return replica.stop(); });
  });
  method("capture", [](const Napi::CallbackInfo& info, const Shared& box) {
    return lsnTask(info, box, [](Replica& replica) { return replica.captureNow(); });
  });
  method("snapshot", [](const Napi::CallbackInfo& info, const Shared& box) {
    return lsnTask(info, box, [](Replica& replica) { return replica.snapshotNow(); });
  });
  method("undo", [](const Napi::CallbackInfo& info, const Shared& box) {
    return voidTask(info, box, [lsn = toU64(info[0]), timeoutMs = info[1].ToNumber().Uint32Value()](Replica& replica) {
      return replica.undo(lsn, timeoutMs);
    });
  });
  method("setCommitMode", [](const Napi::CallbackInfo& info, const Shared& box) -> Napi::Value {
    box->replica->setWait(info[0].ToString().Utf8Value() == "wait");
    return info.Env().Undefined();
  });
  method("status", [](const Napi::CallbackInfo& info, const Shared& box) -> Napi::Value {
    return statusOf(info.Env(), box->replica->status());
  });
  return out;
}

}  // namespace

Napi::Value openReplica(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto core = Napi::ObjectWrap<NativeEngine>::Unwrap(info[0].As<Napi::Object>())->core();
  auto box = std::make_shared<Box>(core);
  box->callback = Napi::ThreadSafeFunction::New(env, info[2].As<Napi::Function>(), "walship-sqlite", 0, 1);
  box->callback.Unref(env);
  return Task<bool>::run(
      env,
      core->guarded<bool>([box, settings = replicaSettingsFrom(info[1].As<Napi::Object>())](Engine& engine) -> Result<bool> {
        auto replica = Replica::open(engine, settings, [raw = box.get()](EngineEvent event) { raw->tell(std::move(event)); });
        if (!replica) return replica.error();
        box->replica = replica.take();
        box->core->beforeClose([weak = std::weak_ptr<Box>(box)] {
          if (const auto live = weak.lock()) live->close();
        });
        return true;
      }),
      [box](Napi::Env inner, bool&) -> Napi::Value { return wrap(inner, box); }, info[0].As<Napi::Object>());
}

}  // namespace walship::addon

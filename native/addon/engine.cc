#include "addon/engine.h"

#include "addon/convert.h"
#include "engine/driver.h"

namespace walship::addon {

Napi::Function NativeEngine::define(Napi::Env env) {
  return DefineClass(env, "NativeEngine",
                     {InstanceMethod<&NativeEngine::append>("append"),
                      InstanceMethod<&NativeEngine::tryRead>("tryRead"),
                      InstanceMethod<&NativeEngine::read>("read"),
                      InstanceMethod<&NativeEngine::promote>("promote"),
                      InstanceMethod<&NativeEngine::promise>("promise"),
                      InstanceMethod<&NativeEngine::setLease>("setLease"),
                      InstanceMethod<&NativeEngine::hold>("hold"),
                      InstanceMethod<&NativeEngine::follow>("follow"),
                      InstanceMethod<&NativeEngine::rails>("rails"),
                      InstanceMethod<&NativeEngine::setRails>("setRails"),
                      InstanceMethod<&NativeEngine::steer>("steer"),
                      InstanceMethod<&NativeEngine::forgetReader>("forgetReader"),
                      InstanceMethod<&NativeEngine::close>("close"),
                      InstanceMethod<&NativeEngine::setApplied>("setApplied"),
                      InstanceMethod<&NativeEngine::setCommitRule>("setCommitRule"),
                      InstanceMethod<&NativeEngine::status>("status"),
                      InstanceMethod<&NativeEngine::drainEvents>("drainEvents"),
                      InstanceMethod<&NativeEngine::counters>("counters"),
                      InstanceMethod<&NativeEngine::referenceBits>("referenceBits"),
                      InstanceMethod<&NativeEngine::drainArenaEvents>("drainArenaEvents"),
                      InstanceMethod<&NativeEngine::slotPages>("slotPages"),
                      InstanceMethod<&NativeEngine::offerVictims>("offerVictims"),
                      InstanceMethod<&NativeEngine::traceAccesses>("traceAccesses"),
                      InstanceMethod<&NativeEngine::drainTrace>("drainTrace"),
                      InstanceMethod<&NativeEngine::drive>("drive")});
}

NativeEngine::NativeEngine(const Napi::CallbackInfo& info)
    : Napi::ObjectWrap<NativeEngine>(info), core_(*info[0].As<Napi::External<std::shared_ptr<Core>>>().Data()) {
  // The net under close(): the environment ends. Errors have nobody to go to then.
  info.Env().AddCleanupHook([core = std::weak_ptr<Core>(core_)] {
    if (const auto live = core.lock()) {
      live->down_.store(true);
      static_cast<void>(live->shutDown());
    }
  });
}

NativeEngine::~NativeEngine() {
  core_->down_.store(true);
  static_cast<void>(core_->shutDown());
}

// Called from the pump. One call is on its way at a time: JavaScript reads everything new when it comes.
void Core::notify() {
  if (called_.exchange(true, std::memory_order_acq_rel)) return;
  callback_.NonBlockingCall([core = shared_from_this()](Napi::Env env, Napi::Function wake) {
    core->called_.store(false, std::memory_order_release);
    if (env != nullptr && !core->down_.load()) wake.Call({});
  });
}

Result<void> Core::shutDown() {
  const std::unique_lock lock(closing_);
  if (!engine_ || std::exchange(shut_, true)) return {};
  for (const auto& action : beforeClose_) action();
  auto outcome = engine_->close();
  callback_.Release();
  return outcome;
}

Napi::Value openEngine(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  auto core = std::make_shared<Core>();
  core->callback_ = Napi::ThreadSafeFunction::New(env, info[1].As<Napi::Function>(), "walship", 0, 1);
  auto settings = std::make_shared<EngineSettings>(settingsFrom(info[0].As<Napi::Object>()));
  return Task<bool>::run(
      env,
      [core, settings]() -> Result<bool> {
        auto engine = Engine::open(*settings, [raw = core.get()] { raw->notify(); });
        if (!engine) {
          core->callback_.Release();
          return engine.error();
        }
        core->engine_ = engine.take();
        return true;
      },
      [core](Napi::Env inner, bool&) -> Napi::Value {
        auto* constructor = inner.GetInstanceData<Napi::FunctionReference>();
        auto box = std::make_shared<std::shared_ptr<Core>>(core);
        Napi::Object wrapped = constructor->New({Napi::External<std::shared_ptr<Core>>::New(inner, box.get())});
        const RecoveryReport& recovery = core->engine_->recovery();
        wrapped.Set("listenPort", core->engine_->listenPort());
        Napi::Array devices = Napi::Array::New(inner);
        for (const auto& device : core->engine_->devices()) {
          Napi::Object entry = Napi::Object::New(inner);
          entry.Set("device", device->choice().device);
          entry.Set("port", device->choice().port);
          entry.Set("address", device->choice().gid.address);
          devices.Set(devices.Length(), entry);
        }
        wrapped.Set("devices", devices);
        wrapped.Set("verbsProblem", core->engine_->verbsProblem());
        wrapped.Set("recoveryNote", recovery.note);
        wrapped.Set("recoveryDiscardedBytes", static_cast<double>(recovery.discardedBytes));
        wrapped.Set("hugePages", core->engine_->arena().hugePages());
        wrapped.Set("arenaSlots", core->engine_->arena().slots());
        wrapped.Set("appendBytesMax", static_cast<double>(core->engine_->pump().appender().appendBytesMax()));
        return wrapped;
      },
      info[0].As<Napi::Object>());
}

bool NativeEngine::usable(Napi::Env env) {
  if (!core_->down_.load()) return true;
  throwJs(env, makeError("WALSHIP_ERR_CLOSED", "the engine is closed"));
  return false;
}

Napi::Value NativeEngine::append(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (!usable(env)) return env.Undefined();
  void* data = nullptr;
  size_t bytes = 0;
  napi_typedarray_type type;
  if (napi_get_typedarray_info(env, info[0], &type, &bytes, &data, nullptr, nullptr) != napi_ok || type != napi_uint8_array) {
    return throwJs(env, makeError("WALSHIP_ERR_ARGUMENT", "append() takes a Buffer or a Uint8Array"));
  }
  auto end = core_->engine_->append({static_cast<const std::byte*>(data), bytes});
  if (!end) return throwJs(env, end.error());
  return toJs(env, end.value());
}

Napi::Value NativeEngine::tryRead(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (!usable(env)) return env.Undefined();
  auto chunk = core_->engine_->read(toU64(info[0]), toU64(info[1]), false);
  if (!chunk) return chunk.error().is("WALSHIP_ERR_NOT_CACHED") ? env.Null() : throwJs(env, chunk.error());
  return chunk.value() ? Napi::Value(toJs(env, *chunk.value())) : env.Undefined();
}

Napi::Value NativeEngine::read(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (!usable(env)) return env.Undefined();
  using Chunk = std::optional<ReadChunk>;
  return Task<Chunk>::run(
      env,
      core_->guarded<Chunk>([from = toU64(info[0]), limit = toU64(info[1])](Engine& engine) {
        return engine.read(from, limit, true);
      }),
      [](Napi::Env inner, Chunk& chunk) -> Napi::Value {
        return chunk ? Napi::Value(toJs(inner, *chunk)) : inner.Undefined();
      },
      Value());
}

Napi::Value NativeEngine::lsnTask(Napi::Env env, std::function<Result<uint64_t>(Engine&)> work) {
  return Task<uint64_t>::run(
      env, core_->guarded<uint64_t>(std::move(work)),
      [](Napi::Env inner, uint64_t& value) -> Napi::Value { return toJs(inner, value); }, Value());
}

Napi::Value NativeEngine::promote(const Napi::CallbackInfo& info) {
  // The lease at once, and not when a thread of the pool comes to it: the clocks are read now.
  const uint64_t lease =
      info[1].IsBigInt() && !core_->down_.load() ? core_->engine_->leaseDeadline(toU64(info[1])) : kNoLease;
  return lsnTask(info.Env(), [epoch = toU64(info[0]), lease](Engine& engine) { return engine.promote(epoch, lease); });
}

Napi::Value NativeEngine::promise(const Napi::CallbackInfo& info) {
  return Task<Promised>::run(
      info.Env(), core_->guarded<Promised>([epoch = toU64(info[0])](Engine& engine) { return engine.promise(epoch); }),
      [](Napi::Env env, Promised& promised) -> Napi::Value {
        Napi::Object out = Napi::Object::New(env);
        out.Set("lsn", toJs(env, promised.lsn));
        out.Set("logEpoch", toJs(env, promised.logEpoch));
        return out;
      },
      Value());
}

void NativeEngine::setLease(const Napi::CallbackInfo& info) {
  if (!usable(info.Env())) return;
  core_->engine_->setLease(info[0].IsBigInt() ? std::optional(toU64(info[0])) : std::nullopt);
}

Napi::Value NativeEngine::hold(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (!usable(env)) return env.Undefined();
  auto end = core_->engine_->hold(info[0].ToBoolean());
  if (!end) return throwJs(env, end.error());
  return toJs(env, end.value());
}

Napi::Value NativeEngine::follow(const Napi::CallbackInfo& info) {
  const bool discard = info[0].IsObject() && info[0].As<Napi::Object>().Get("discardCommitted").ToBoolean();
  return lsnTask(info.Env(), [target = targetFrom(info[0]), discard](Engine& engine) {
    return engine.follow(target, discard);
  });
}

Napi::Value NativeEngine::rails(const Napi::CallbackInfo& info) {
  if (!usable(info.Env())) return info.Env().Undefined();
  return railsOf(info.Env(), core_->engine_->pump().snapshot());
}

Napi::Value NativeEngine::setRails(const Napi::CallbackInfo& info) {
  std::vector<RailTarget> rails;
  const auto list = info[0].As<Napi::Array>();
  for (uint32_t i = 0; i < list.Length(); ++i) {
    const Napi::Value entry = list.Get(i);
    rails.push_back({entry.As<Napi::Object>().Get("name").ToString().Utf8Value(), *targetFrom(entry)});
  }
  return Task<bool>::run(
      info.Env(),
      core_->guarded<bool>([rails, upstream = info[1].ToString().Utf8Value()](Engine& engine) {
        return engine.setRails(rails, upstream);
      }),
      [](Napi::Env inner, bool& taken) -> Napi::Value { return Napi::Boolean::New(inner, taken); }, Value());
}

void NativeEngine::steer(const Napi::CallbackInfo& info) {
  if (usable(info.Env())) core_->engine_->steer(textsFrom(info[0]), textsFrom(info[1]), info[2].ToString().Utf8Value());
}

Napi::Value NativeEngine::forgetReader(const Napi::CallbackInfo& info) {
  return Task<bool>::run(
      info.Env(),
      core_->guarded<bool>([node = info[0].ToString().Utf8Value()](Engine& engine) -> Result<bool> {
        if (auto removed = engine.forgetReader(node); !removed) return removed.error();
        return true;
      }),
      [](Napi::Env inner, bool&) -> Napi::Value { return inner.Undefined(); }, Value());
}

Napi::Value NativeEngine::close(const Napi::CallbackInfo& info) {
  core_->down_.store(true);
  return Task<bool>::run(
      info.Env(),
      [core = core_]() -> Result<bool> {
        if (auto closed = core->shutDown(); !closed) return closed.error();
        return true;
      },
      [](Napi::Env inner, bool&) -> Napi::Value { return inner.Undefined(); }, Value());
}

void NativeEngine::setApplied(const Napi::CallbackInfo& info) {
  if (usable(info.Env())) core_->engine_->pump().setApplied(toU64(info[0]));
}

void NativeEngine::setCommitRule(const Napi::CallbackInfo& info) {
  if (!usable(info.Env())) return;
  Pump& pump = core_->engine_->pump();
  pump.post([&pump, rule = commitRuleFrom(info[0].As<Napi::Object>())] { pump.setCommitRule(rule); });
}

Napi::Value NativeEngine::status(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (!usable(env)) return env.Undefined();
  Engine& engine = *core_->engine_;
  Napi::Object out = toJs(env, engine.pump().snapshot());
  Napi::Object log = Napi::Object::New(env);
  log.Set("firstLsn", toJs(env, engine.log().firstLsn()));
  log.Set("bytesOnDisk", static_cast<double>(engine.log().bytesOnDisk()));
  log.Set("segments", static_cast<double>(engine.log().segments().size()));
  Napi::Array readers = Napi::Array::New(env);
  for (const RegisteredReader& reader : engine.readers().list()) readers.Set(readers.Length(), toJs(env, reader));
  log.Set("readers", readers);
  out.Set("log", log);
  Napi::Object arena = Napi::Object::New(env);
  const ArenaCounters counters = engine.arena().counters();
  arena.Set("slots", engine.arena().slots());
  arena.Set("used", engine.arena().used());
  arena.Set("hugePages", engine.arena().hugePages());
  arena.Set("loads", static_cast<double>(counters.loads));
  arena.Set("evictionsFromList", static_cast<double>(counters.evictionsFromList));
  arena.Set("evictionsUnlisted", static_cast<double>(counters.evictionsUnlisted));
  arena.Set("starvations", static_cast<double>(counters.starvations));
  out.Set("arena", arena);
  Napi::Object latency = Napi::Object::New(env);
  latency.Set("commit", summaryOf(env, engine.histograms().commitNs));
  latency.Set("flush", summaryOf(env, engine.histograms().flushNs));
  latency.Set("sync", summaryOf(env, engine.histograms().syncNs));
  out.Set("latency", latency);
  return out;
}

Napi::Value NativeEngine::drainEvents(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Napi::Array out = Napi::Array::New(env);
  if (core_->down_.load()) return out;
  for (const EngineEvent& event : core_->engine_->pump().drainEvents()) out.Set(out.Length(), toJs(env, event));
  return out;
}

// Views of the engine's own memory. The core lives until the last of them is collected.
Napi::Value NativeEngine::counters(const Napi::CallbackInfo& info) {
  Counters& counters = core_->engine_->counters();
  static_assert(sizeof(Counters) == kCounters * sizeof(uint64_t));
  auto buffer = Napi::ArrayBuffer::New(info.Env(), counters.data(), sizeof counters,
                                       [core = core_](Napi::Env, void*) mutable { core.reset(); });
  return Napi::BigUint64Array::New(info.Env(), kCounters, buffer, 0);
}

Napi::Value NativeEngine::referenceBits(const Napi::CallbackInfo& info) {
  if (!usable(info.Env())) return info.Env().Undefined();
  Arena& arena = core_->engine_->arena();
  auto buffer = Napi::ArrayBuffer::New(info.Env(), arena.referenceBits().get(), arena.slots(),
                                       [bits = arena.referenceBits()](Napi::Env, void*) mutable { bits.reset(); });
  return Napi::Uint8Array::New(info.Env(), arena.slots(), buffer, 0);
}

Napi::Value NativeEngine::drainArenaEvents(const Napi::CallbackInfo& info) {
  if (core_->down_.load()) return Napi::Number::New(info.Env(), 0);
  auto into = info[0].As<Napi::Float64Array>();
  std::vector<ArenaEvent> events(into.ElementLength() / 3);
  const size_t count = core_->engine_->arena().drainEvents(events.data(), events.size());
  for (size_t i = 0; i < count; ++i) {
    into[3 * i] = events[i].kind;
    into[3 * i + 1] = events[i].slot;
    into[3 * i + 2] = static_cast<double>(events[i].page);
  }
  return Napi::Number::New(info.Env(), static_cast<double>(count));
}

void NativeEngine::slotPages(const Napi::CallbackInfo& info) {
  if (!usable(info.Env())) return;
  auto into = info[0].As<Napi::Float64Array>();
  std::vector<int64_t> pages(core_->engine_->arena().slots());
  core_->engine_->arena().slotPages(pages.data());
  for (size_t i = 0; i < pages.size(); ++i) into[i] = static_cast<double>(pages[i]);
}

void NativeEngine::offerVictims(const Napi::CallbackInfo& info) {
  if (core_->down_.load()) return;
  core_->engine_->arena().offerVictims(info[0].As<Napi::Uint32Array>().Data(), info[1].As<Napi::Float64Array>().Data(),
                                       info[2].ToNumber().Uint32Value());
}

void NativeEngine::traceAccesses(const Napi::CallbackInfo& info) {
  if (usable(info.Env())) core_->engine_->arena().traceAccesses(info[0].ToBoolean());
}

Napi::Value NativeEngine::drainTrace(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (!usable(env)) return env.Undefined();
  const auto trace = core_->engine_->arena().drainTrace();
  Napi::Array out = Napi::Array::New(env, trace.size());
  for (uint32_t i = 0; i < trace.size(); ++i) {
    Napi::Object entry = Napi::Object::New(env);
    entry.Set("atMs", static_cast<double>(trace[i].atNs) / 1e6);
    entry.Set("page", static_cast<double>(trace[i].page));
    entry.Set("kind", std::string(1, trace[i].kind));
    out.Set(i, entry);
  }
  return out;
}

Napi::Value NativeEngine::drive(const Napi::CallbackInfo& info) {
  const auto from = info[0].As<Napi::Object>();
  const auto number = [&](const char* key) { return from.Get(key).ToNumber().Uint32Value(); };
  DriveSettings settings;
  settings.appendBytes = number("appendBytes");
  settings.inFlight = number("inFlight");
  settings.seconds = number("seconds");
  settings.warmupAppends = number("warmupAppends");
  settings.spin = from.Get("spin").ToBoolean();
  if (from.Get("appendsMax").IsNumber()) settings.appendsMax = number("appendsMax");
  using Outcome = std::unique_ptr<DriveResult>;
  return Task<Outcome>::run(
      info.Env(), core_->guarded<Outcome>([settings](Engine& engine) { return walship::drive(engine, settings); }),
      [](Napi::Env env, Outcome& result) -> Napi::Value {
        Napi::Object out = Napi::Object::New(env);
        out.Set("appends", static_cast<double>(result->appends));
        out.Set("bytes", static_cast<double>(result->bytes));
        out.Set("seconds", static_cast<double>(result->elapsedNs) / 1e9);
        out.Set("backPressures", static_cast<double>(result->backPressures));
        out.Set("endLsn", toJs(env, result->endLsn));
        out.Set("commit", summaryOf(env, result->commitNs));
        return out;
      },
      Value());
}

}  // namespace walship::addon

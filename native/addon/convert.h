// Between JavaScript values and the engine's. Arguments have been validated in TypeScript; here they are only read.
#pragma once

#include <napi.h>

#include "engine/engine.h"

namespace walship::addon {

// An Error with `code`, and `file` and `offset` where the error has them. src/engine/native.ts turns it into a
// WalshipError.
Napi::Error toJs(Napi::Env env, const Error& error);
Napi::Value throwJs(Napi::Env env, const Error& error);

EngineSettings settingsFrom(const Napi::Object& from);
CommitRule commitRuleFrom(const Napi::Object& from);
std::optional<ConnectTarget> targetFrom(const Napi::Value& from);

std::vector<std::string> textsFrom(const Napi::Value& from);  // of an array

inline Napi::BigInt toJs(Napi::Env env, uint64_t value) { return Napi::BigInt::New(env, value); }
inline uint64_t toU64(const Napi::Value& value) {
  bool lossless = false;
  return value.As<Napi::BigInt>().Uint64Value(&lossless);
}

Napi::Object toJs(Napi::Env env, const StatusSnapshot& snapshot);
Napi::Object railsOf(Napi::Env env, const StatusSnapshot& snapshot);  // the part of it that is asked for all the time
Napi::Array toJs(Napi::Env env, const std::vector<RailEnd>& ends);
Napi::Object toJs(Napi::Env env, const EngineEvent& event);
Napi::Object toJs(Napi::Env env, const ReadChunk& chunk);
Napi::Object toJs(Napi::Env env, const RegisteredReader& reader);
Napi::Object toJs(Napi::Env env, const VerbsCapabilities& capabilities);
Napi::Object summaryOf(Napi::Env env, const Histogram& histogram);

// Runs `work` on a thread of libuv's pool and settles a promise with what `finish` makes of it.
template <class T>
class Task final : public Napi::AsyncWorker {
 public:
  static Napi::Promise run(Napi::Env env, std::function<Result<T>()> work,
                           std::function<Napi::Value(Napi::Env, T&)> finish, Napi::Object keepAlive) {
    auto* task = new Task(env, std::move(work), std::move(finish), keepAlive);  // AsyncWorker deletes itself
    const auto promise = task->deferred_.Promise();
    task->Queue();
    return promise;
  }

 private:
  Task(Napi::Env env, std::function<Result<T>()> work, std::function<Napi::Value(Napi::Env, T&)> finish,
       Napi::Object keepAlive)
      : Napi::AsyncWorker(env),
        deferred_(Napi::Promise::Deferred::New(env)),
        work_(std::move(work)),
        finish_(std::move(finish)),
        keepAlive_(Napi::Persistent(keepAlive)) {}
  void Execute() override { outcome_.emplace(work_()); }
  void OnOK() override {
    const Napi::HandleScope scope(Env());
    if (outcome_->ok()) {
      deferred_.Resolve(finish_(Env(), outcome_->value()));
    } else {
      deferred_.Reject(toJs(Env(), outcome_->error()).Value());
    }
  }

  Napi::Promise::Deferred deferred_;
  std::function<Result<T>()> work_;
  std::function<Napi::Value(Napi::Env, T&)> finish_;
  Napi::ObjectReference keepAlive_;
  std::optional<Result<T>> outcome_;
};

}  // namespace walship::addon

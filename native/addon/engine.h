// The engine as JavaScript sees it. src/engine/native.ts declares this surface in TypeScript.
#pragma once

#include <napi.h>

#include <shared_mutex>

#include "engine/engine.h"

namespace walship::addon {

// What a NativeEngine object, the memory views handed to JavaScript and running tasks share. Its life does not hang on
// garbage collection: close() or the environment's end shuts the engine down.
struct Core : std::enable_shared_from_this<Core> {
  void notify();
  Result<void> shutDown();  // idempotent; waits for the tasks that still use the engine

  // Called by a guarded task: what uses the engine ends before it does.
  void beforeClose(std::function<void()> action) {
    const std::lock_guard lock(actionsMutex_);
    beforeClose_.push_back(std::move(action));
  }

  // A task that runs on a pool thread, with the engine kept open meanwhile.
  template <class T>
  std::function<Result<T>()> guarded(std::function<Result<T>(Engine&)> work) {
    return [this, work = std::move(work)]() -> Result<T> {
      const std::shared_lock lock(closing_);
      if (shut_) return makeError("WALSHIP_ERR_CLOSED", "the engine is closed");
      return work(*engine_);
    };
  }

  std::unique_ptr<Engine> engine_;
  Napi::ThreadSafeFunction callback_;
  std::atomic<bool> called_{false};
  std::atomic<bool> down_{false};  // set on the JavaScript thread before anything is closed: no call is let in any more
  std::shared_mutex closing_;
  bool shut_ = false;  // guarded by closing_
  std::mutex actionsMutex_;
  std::vector<std::function<void()>> beforeClose_;
};

Napi::Value openEngine(const Napi::CallbackInfo& info);

class NativeEngine final : public Napi::ObjectWrap<NativeEngine> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit NativeEngine(const Napi::CallbackInfo& info);
  ~NativeEngine() override;
  const std::shared_ptr<Core>& core() const { return core_; }

 private:
  bool usable(Napi::Env env);
  Napi::Value lsnTask(Napi::Env env, std::function<Result<uint64_t>(Engine&)> work);

  Napi::Value append(const Napi::CallbackInfo& info);
  Napi::Value tryRead(const Napi::CallbackInfo& info);
  Napi::Value read(const Napi::CallbackInfo& info);
  Napi::Value promote(const Napi::CallbackInfo& info);
  Napi::Value promise(const Napi::CallbackInfo& info);
  void setLease(const Napi::CallbackInfo& info);
  Napi::Value hold(const Napi::CallbackInfo& info);
  Napi::Value follow(const Napi::CallbackInfo& info);
  Napi::Value rails(const Napi::CallbackInfo& info);
  Napi::Value setRails(const Napi::CallbackInfo& info);
  void steer(const Napi::CallbackInfo& info);
  Napi::Value forgetReader(const Napi::CallbackInfo& info);
  Napi::Value close(const Napi::CallbackInfo& info);
  void setApplied(const Napi::CallbackInfo& info);
  void setCommitRule(const Napi::CallbackInfo& info);
  Napi::Value status(const Napi::CallbackInfo& info);
  Napi::Value drainEvents(const Napi::CallbackInfo& info);
  Napi::Value counters(const Napi::CallbackInfo& info);
  Napi::Value referenceBits(const Napi::CallbackInfo& info);
  Napi::Value drainArenaEvents(const Napi::CallbackInfo& info);
  void slotPages(const Napi::CallbackInfo& info);
  void offerVictims(const Napi::CallbackInfo& info);
  void traceAccesses(const Napi::CallbackInfo& info);
  Napi::Value drainTrace(const Napi::CallbackInfo& info);
  Napi::Value drive(const Napi::CallbackInfo& info);

  std::shared_ptr<Core> core_;
};

}  // namespace walship::addon

#include "databases/sqlite/replica.h"

#include "base/clock.h"

namespace walship {

namespace {
constexpr uint32_t kDrainMs = 60'000;
constexpr auto kUndoPause = std::chrono::milliseconds(2);
}  // namespace

Result<std::unique_ptr<Replica>> Replica::open(Engine& engine, ReplicaSettings settings, Capture::EventSink events) {
  auto hook = hookOf(settings.path);
  if (!hook) return hook.error();
  std::unique_ptr<Replica> replica(new Replica(engine, std::move(settings), std::move(events)));
  replica->hook_ = hook.take();
  replica->wait_.store(replica->settings_.capture.wait);
  return replica;
}

Replica::~Replica() { static_cast<void>(stop()); }

// With changing_.
Result<void> Replica::stopRole(WalHook::Mode then) {
  std::shared_ptr<Capture> capture;
  std::shared_ptr<Applier> applier;
  {
    const std::lock_guard lock(roleMutex_);
    capture = capture_;
    applier = applier_;
  }
  Result<void> outcome;
  if (capture) outcome = capture->stop(then);
  if (applier) applier->stop();
  hook_->setMode(then);
  const std::lock_guard lock(roleMutex_);
  capture_.reset();
  applier_.reset();
  return outcome;
}

Result<void> Replica::stop() {
  const std::lock_guard lock(changing_);
  return stopRole(WalHook::Mode::ignore);
}

// A standby becomes primary with everything applied that its log holds.
Result<void> Replica::finishStandby() {
  std::shared_ptr<Applier> applier;
  {
    const std::lock_guard lock(roleMutex_);
    applier = applier_;
  }
  if (!applier) {
    auto sidecar = Sidecar::open(settings_.path);
    if (!sidecar) return sidecar.error();
    const SidecarState state = sidecar.value()->state();
    if (state.role != SidecarRole::standby || state.closedCleanly) return {};
    auto opened = Applier::open(engine_, settings_.path, settings_.applier);
    if (!opened) return opened.error();
    applier = opened.take();
    applier->start();
  }
  const bool drained = applier->drain(kDrainMs);
  const ApplierStatus status = applier->status();
  applier->stop();
  if (drained && !status.snapshotNeeded) return {};
  if (status.problem) return *status.problem;
  return makeError("WALSHIP_ERR_TIMEOUT", "the log was not applied to the database in time; try again");
}

Result<uint64_t> Replica::startPrimary() {
  const std::lock_guard lock(changing_);
  if (auto finished = finishStandby(); !finished) return finished.error();
  if (auto stopped = stopRole(WalHook::Mode::refuse); !stopped) return stopped.error();
  CaptureSettings settings = settings_.capture;
  settings.wait = wait_.load();
  auto started = Capture::start(engine_, settings_.path, settings, events_);
  if (!started) return started.error();
  std::shared_ptr<Capture> capture = started.take();
  {
    const std::lock_guard look(roleMutex_);
    capture_ = capture;
    // It may have been changed meanwhile.
    capture_->setWait(wait_.load());
  }
  return capture->captureNow();
}

Result<void> Replica::startStandby() {
  const std::lock_guard lock(changing_);
  if (auto stopped = stopRole(WalHook::Mode::refuse); !stopped) return stopped;
  auto opened = Applier::open(engine_, settings_.path, settings_.applier);
  if (!opened) return opened.error();
  std::shared_ptr<Applier> applier = opened.take();
  applier->start();
  const std::lock_guard look(roleMutex_);
  applier_ = applier;
  return {};
}

Result<std::shared_ptr<Capture>> Replica::capture() {
  const std::lock_guard lock(roleMutex_);
  if (capture_) return capture_;
  return makeError("WALSHIP_ERR_NOT_PRIMARY", "this node is not the primary of the database");
}

Result<uint64_t> Replica::captureNow() {
  auto now = capture();
  return now ? now.value()->captureNow() : now.error();
}

Result<uint64_t> Replica::snapshotNow() {
  auto now = capture();
  return now ? now.value()->snapshotNow() : now.error();
}

void Replica::setWait(bool wait) {
  wait_.store(wait);
  const std::lock_guard lock(roleMutex_);
  if (capture_) capture_->setWait(wait);
}

Result<void> Replica::undo(uint64_t lsn, uint32_t timeoutMs) {
  const uint64_t deadlineNs = monotonicNs() + uint64_t{timeoutMs} * 1'000'000;
  for (;;) {
    {
      const std::lock_guard lock(roleMutex_);
      if (!applier_) return makeError("WALSHIP_ERR_NOT_STANDBY", "start the database as a standby first");
      const ApplierStatus status = applier_->status();
      if (status.snapshotNeeded) {
        return makeError("WALSHIP_ERR_SQLITE_SNAPSHOT_NEEDED",
                         "the log no longer holds the pages as they were before; the database needs a snapshot");
      }
      if (applier_->appliedLsn() >= lsn && engine_.store().flushedLsn() >= lsn) return {};
      if (monotonicNs() > deadlineNs) {
        if (status.problem) return *status.problem;
        return makeError("WALSHIP_ERR_TIMEOUT", "the database was not taken back in time; it is still under way");
      }
    }
    std::this_thread::sleep_for(kUndoPause);
  }
}

ReplicaStatus Replica::status() {
  ReplicaStatus status;
  const std::lock_guard lock(roleMutex_);
  if (capture_) {
    status.role = ReplicaRole::primary;
    status.capture = capture_->status();
  } else if (applier_) {
    status.role = ReplicaRole::standby;
    status.applier = applier_->status();
  }
  return status;
}

}  // namespace walship

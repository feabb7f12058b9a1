#include "engine/driver.h"

#include "base/clock.h"

namespace walship {

namespace {

constexpr uint32_t kPatienceMs = 10'000;

// As a native thread commits: it ships what it appends if nobody else is about to.
Result<uint64_t> appendOne(Engine& engine, Bytes bytes) {
  auto end = engine.append(bytes, false, Ship::byCaller);
  if (end) engine.pump().takeTurn();
  return end;
}

bool awaitCommit(Engine& engine, uint64_t lsn, bool spin) {
  if (!spin) return engine.pump().waitCommitted(lsn, kPatienceMs);
  const auto& committed = engine.counters()[kCommittedLsn];
  const uint64_t deadline = monotonicNs() + uint64_t{kPatienceMs} * 1'000'000;
  while (committed.load(std::memory_order_acquire) < lsn) {
    for (int i = 0; i < 64; ++i) __builtin_ia32_pause();
    if (monotonicNs() > deadline) return false;
  }
  return true;
}

}  // namespace

Result<std::unique_ptr<DriveResult>> drive(Engine& engine, const DriveSettings& settings) {
  std::vector<std::byte> bytes(settings.appendBytes);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 131 + 7);
  auto result = std::make_unique<DriveResult>();
  const Error late = makeError("WALSHIP_ERR_TIMEOUT", "an append was not committed within ten seconds");

  for (uint32_t i = 0; i < settings.warmupAppends; ++i) {
    auto end = appendOne(engine, bytes);
    if (!end) return end.error();
    if (!awaitCommit(engine, end.value(), settings.spin)) return late;
  }

  const uint64_t start = monotonicNs();
  const uint64_t until = start + uint64_t{settings.seconds} * 1'000'000'000;
  while (result->appends < settings.appendsMax) {
    const uint64_t before = monotonicNs();
    if (before >= until) break;
    // The clock is read once per sixteen appends when nothing is waited for.
    const uint32_t burst = settings.inFlight == 0 ? 16 : 1;
    for (uint32_t i = 0; i < burst; ++i) {
      auto end = settings.inFlight == 1 ? appendOne(engine, bytes) : engine.append(bytes);
      if (!end) {
        if (!end.error().is("WALSHIP_ERR_BACKPRESSURE")) return end.error();
        ++result->backPressures;
        std::this_thread::sleep_for(std::chrono::microseconds(50));
        break;
      }
      result->endLsn = end.value();
      ++result->appends;
    }
    const uint64_t window = uint64_t{settings.inFlight} * settings.appendBytes;
    if (settings.inFlight == 1) {
      if (!awaitCommit(engine, result->endLsn, settings.spin)) return late;
      result->commitNs.record(monotonicNs() - before);
    } else if (settings.inFlight > 1 && result->endLsn > window) {
      if (!awaitCommit(engine, result->endLsn - window, settings.spin)) return late;
    }
  }
  if (!awaitCommit(engine, result->endLsn, settings.spin)) return late;
  result->elapsedNs = monotonicNs() - start;
  result->bytes = result->appends * settings.appendBytes;
  return result;
}

}  // namespace walship

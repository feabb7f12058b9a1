#include "sqlite_shipping.h"

using namespace walship;
using namespace walship::test;

namespace {

std::unique_ptr<Applier> openApplier(Engine& engine, const std::string& path) {
  setUpSqlite();
  ApplierSettings settings;
  settings.checkpointMs = 10;
  auto applier = Applier::open(engine, path, settings);
  if (!applier) FAIL(applier.error().message);
  applier.value()->start();
  return applier.take();
}

void follow(Engine& standby, const Engine& upstream) {
  REQUIRE(standby.follow(ConnectTarget{{"127.0.0.1", upstream.listenPort()}, "", "", 0, ""}));
}

void checkApplied(Applier& applier, uint64_t lsn) {
  const bool there = within(60'000, [&] { return applier.appliedLsn() == lsn; });
  const auto status = applier.status();
  INFO((status.problem ? status.problem->message : std::string("no problem")));
  REQUIRE(there);
}

void work(Shipper& shipper, uint32_t seed, int transactions) {
  std::mt19937 random(seed);
  for (int i = 0; i < transactions; ++i) {
    randomTransaction(shipper.connection(), random);
    shipper.ship();
  }
}

// What capture does when it takes a database over.
void becomePrimary(const std::string& path) {
  auto sidecar = Sidecar::open(path);
  REQUIRE(sidecar);
  REQUIRE(sidecar.value()->update([](SidecarState& state) {
    state.role = SidecarRole::primary;
    return true;
  }));
}

}  // namespace

TEST_CASE("sqlite undo: an old primary and its standby come back to the new primary's history") {
  for (uint32_t seed = 1; seed <= 6; ++seed) {
    INFO(seed);
    const Directory directory;
    const std::string aPath = directory / "a.db";
    const std::string oldPath = directory / "old.db";
    const std::string bPath = directory / "b.db";
    const std::string cPath = directory / "c.db";
    auto b = openEngine(directory, "b");
    auto c = openEngine(directory, "c");
    uint64_t common = 0;
    uint64_t lost = 0;
    std::unique_ptr<Applier> appliedC;
    {
      auto a = openEngine(directory, "a");
      REQUIRE(a->promote(0));
      becomePrimary(aPath);
      Shipper shipper(*a, aPath);
      makeSchema(shipper.connection());
      shipper.snapshot();
      follow(*b, *a);
      follow(*c, *a);
      auto appliedB = openApplier(*b, bPath);
      appliedC = openApplier(*c, cPath);
      work(shipper, seed, 60);
      common = shipper.endLsn();
      checkApplied(*appliedB, common);
      appliedB->stop();
      // b hears nothing of what follows; c does, and applies it.
      REQUIRE(b->follow(std::nullopt));
      work(shipper, seed + 100, 40);
      if (seed % 2 == 0) {
        run(shipper.connection(), "DELETE FROM blobs; UPDATE accounts SET note = NULL; VACUUM");
        shipper.ship();
      }
      lost = shipper.endLsn();
      REQUIRE(within(10'000, [&] { return a->store().flushedLsn() >= lost; }));
      checkApplied(*appliedC, lost);
      // Commits that never came into any log.
      run(shipper.connection(), "UPDATE accounts SET note = 'never shipped'; INSERT INTO blobs(data) VALUES(zeroblob(50000))");
      // As a crash leaves them: closing the connections would fold the WAL in.
      for (const char* suffix : {"", "-wal", "-walship"}) fs::copy_file(aPath + suffix, oldPath + suffix);
      REQUIRE(a->close());
    }
    becomePrimary(bPath);
    REQUIRE(b->promote(0));
    uint64_t end = 0;
    {
      Shipper shipper(*b, bPath);
      work(shipper, seed + 200, 3);
      follow(*c, *b);
      auto a = openEngine(directory, "a");
      follow(*a, *b);
      REQUIRE(within(30'000, [&] { return a->store().flushedLsn() >= shipper.endLsn() && a->pump().cuts() > 0; }));
      auto appliedA = openApplier(*a, oldPath);
      work(shipper, seed + 300, 20);
      end = shipper.endLsn();
      for (Applier* applier : {appliedA.get(), appliedC.get()}) {
        checkApplied(*applier, end);
        CHECK(within(1000, [&] { return !applier->status().problem; }));
        CHECK_FALSE(applier->status().snapshotNeeded);
        CHECK(applier->status().appliedLsn == end);
      }
      appliedA->stop();
      appliedC->stop();
      CHECK(appliedA->sidecar().state().undone.size() == 1);
      bool keptAside = false;
      for (const auto& entry : fs::directory_iterator(directory.path)) {
        keptAside |= entry.path().filename().string().starts_with("old.db-lost-");
      }
      CHECK(keptAside);
      REQUIRE(a->close());
    }
    checkIdentical(bPath, oldPath);
    checkIdentical(bPath, cPath);
  }
}

TEST_CASE("sqlite undo: pages whose older image the log no longer holds need a snapshot, which then does") {
  const Directory directory;
  const std::string primaryPath = directory / "primary.db";
  const std::string standbyPath = directory / "standby.db";
  auto engine = openEngine(directory, "a");
  REQUIRE(engine->promote(0));
  {
    makeSchema(connect(primaryPath).get());
    Shipper shipper(*engine, primaryPath);
    work(shipper, 1, 5);
    REQUIRE(within(10'000, [&] { return engine->store().flushedLsn() >= shipper.endLsn(); }));
    // A standby that has never had a snapshot applies nothing.
    auto applier = openApplier(*engine, standbyPath);
    CHECK(applier->drain(10'000));
    CHECK(applier->status().snapshotNeeded);
    CHECK(applier->appliedLsn() == 0);

    auto never = restorePages(*engine, {1'000'000}, shipper.endLsn(), [](uint32_t, Bytes) -> Result<void> { return {}; });
    REQUIRE_FALSE(never);
    CHECK(never.error().is("WALSHIP_ERR_SQLITE_SNAPSHOT_NEEDED"));

    shipper.snapshot();
    work(shipper, 2, 5);
    checkApplied(*applier, shipper.endLsn());
    CHECK_FALSE(applier->status().snapshotNeeded);
    applier->stop();
  }
  checkIdentical(primaryPath, standbyPath);
}

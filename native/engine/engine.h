// One node's engine: log, arena, pump, flusher, loader, and the threads that set links up. The only class the addon
// talks to; no JavaScript here.
#pragma once

#include <memory>

#include "engine/flusher.h"
#include "engine/inspector.h"
#include "engine/loader.h"
#include "engine/pump.h"
#include "engine/settings.h"
#include "log/readers.h"

namespace walship {

struct ReadChunk {
  uint64_t lsn = 0;            // of the first byte
  std::vector<std::byte> bytes;
  bool continues = false;      // the last append in it goes on in the next chunk
};

struct RailTarget {
  std::string name;  // as Established::rail
  ConnectTarget target;
};

class Engine {
 public:
  // Recovers the log, starts every thread, listens. `notify` is called from the pump whenever there is news.
  static Result<std::unique_ptr<Engine>> open(EngineSettings settings, std::function<void()> notify);
  ~Engine();  // close()

  const EngineSettings& settings() const { return settings_; }
  const RecoveryReport& recovery() const { return recovery_; }
  uint16_t listenPort() const { return listeners_.empty() ? uint16_t{0} : listeners_.front()->port(); }
  const std::vector<std::shared_ptr<Device>>& devices() const { return devices_; }
  const std::string& verbsProblem() const { return verbsProblem_; }  // why verbs is not used although it was asked for
  Arena& arena() { return *arena_; }
  Store& store() { return *store_; }
  Log& log() { return *log_; }
  Pump& pump() { return *pump_; }
  Counters& counters() { return counters_; }
  Histograms& histograms() { return histograms_; }

  Result<uint64_t> append(Bytes bytes, bool continues = false, Ship ship = Ship::byPump);  // Appender::append()
  // Payload from `lsn` on, at most to `limitLsn`, at most one page. none: nothing there yet.
  // `wait`: reads the page from disk if need be (blocks); else WALSHIP_ERR_NOT_CACHED.
  Result<std::optional<ReadChunk>> read(uint64_t lsn, uint64_t limitLsn, bool wait);

  // These block for the pump, one at a time.
  Result<uint64_t> promote(uint64_t epoch, uint64_t leaseUntilNs = kNoLease);
  Result<Promised> promise(uint64_t epoch);
  // none: stay alone as a standby. The target followed already: its link is kept, or tried again at once.
  // `discardCommitted`: if the logs have diverged, this node's is cut even below what was committed synchronously.
  Result<uint64_t> follow(std::optional<ConnectTarget> target, bool discardCommitted = false);

  // Keeps a spare link to the upstream followed over each of these rails, and over no others; none: as before any were
  // given. false: `upstream` is not the node whose log comes in (any more).
  Result<bool> setRails(const std::vector<RailTarget>& rails, const std::string& upstream);
  // See Pump::steer().
  void steer(std::vector<std::string> order, std::vector<std::string> carry, std::string why);

  // Any thread, at once.
  uint64_t leaseDeadline(uint64_t monotonicUntilNs) { return leaseClock_.deadline(monotonicUntilNs); }  // for promote()
  void setLease(std::optional<uint64_t> monotonicUntilNs);  // none: no lease is asked for
  Result<uint64_t> hold(bool on);  // Appender::hold()
  // A standby that is gone for good: nothing is kept for it any more.
  Result<void> forgetReader(const std::string& node);
  ReaderRegistry& readers() { return *readers_; }
  Inspector& inspector() { return *inspector_; }

  // What the node at the other end of a link has on disk of some pages, at most kCopiesPerReplyMax; and one of its pages
  // whole. These block. WALSHIP_ERR_NODE, WALSHIP_ERR_BUSY, WALSHIP_ERR_LINK_CLOSED; WALSHIP_ERR_TIMEOUT;
  // WALSHIP_ERR_LOG_POSITION: it does not have that page.
  Result<std::vector<PageCopy>> copiesAt(const std::string& node, uint64_t first, uint32_t count);
  Result<Buffer> pageAt(const std::string& node, uint64_t page);
  Result<void> close();

 private:
  using RailConnectors = std::map<std::string, std::unique_ptr<Connector>>;

  Engine(EngineSettings settings) : settings_(std::move(settings)) {}
  void retain();
  SetupSettings setup() const;
  Result<void> listen();
  void reconnect(const std::string& rail, bool soon);
  RailConnectors takeRailConnectors();
  Result<PageReply> ask(const std::string& node, const PageQuery& query);
  bool noteReader(const std::string& node, uint64_t lsn);
  void storageProblem(const Error& error);

  EngineSettings settings_;
  RecoveryReport recovery_;
  std::string verbsProblem_;
  Counters counters_{};
  Histograms histograms_;
  LeaseClock leaseClock_;
  std::mutex roleMutex_;  // held through a change of role or upstream
  std::unique_ptr<Arena> arena_;
  std::vector<std::shared_ptr<Device>> devices_;
  std::unique_ptr<Log> log_;
  std::unique_ptr<ReaderRegistry> readers_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<Pump> pump_;
  std::unique_ptr<Loader> loader_;
  std::unique_ptr<Inspector> inspector_;
  std::unique_ptr<Flusher> flusher_;
  std::unique_ptr<Connector> connector_;
  std::mutex railMutex_;  // never held while a connector is destroyed: the pump takes it
  RailConnectors railConnectors_;
  std::vector<std::unique_ptr<Listener>> listeners_;
  bool closed_ = false;
};

}  // namespace walship

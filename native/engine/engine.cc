#include "engine/engine.h"

#include <future>

namespace walship {

Result<std::unique_ptr<Engine>> Engine::open(EngineSettings settings, std::function<void()> notify) {
  std::unique_ptr<Engine> engine(new Engine(std::move(settings)));
  EngineSettings& set = engine->settings_;

  auto arena = Arena::create(set.arenaSlots, set.log.geometry.pageBytes, set.hugePages);
  if (!arena) return arena.error();
  engine->arena_ = arena.take();

  if ((set.transports & kTransportVerbs) != 0) {
    auto devices = Device::openAll(set.verbs);
    Result<void> registered;
    for (size_t i = 0; devices && registered && i < devices.value().size(); ++i) {
      registered = devices.value()[i]->registerArena(engine->arena_->memory());
    }
    if (devices && registered) {
      engine->devices_ = devices.take();
    } else {
      const Error& why = devices ? registered.error() : devices.error();
      if ((set.transports & kTransportTcp) == 0) return why;
      engine->verbsProblem_ = why.message;
      set.transports = kTransportTcp;
    }
  }

  auto log = Log::open(set.log, &engine->recovery_);
  if (!log) return log.error();
  engine->log_ = log.take();
  engine->readers_ = std::make_unique<ReaderRegistry>(set.log.dir);
  if (auto loaded = engine->readers_->load(); !loaded) return loaded.error();
  auto store = Store::open(*engine->arena_, *engine->log_, engine->recovery_.tail, set.sync);
  if (!store) return store.error();
  engine->store_ = store.take();
  auto pump = Pump::create(set, *engine->store_, engine->counters_, engine->histograms_);
  if (!pump) return pump.error();
  engine->pump_ = pump.take();

  Pump& pumpRef = *engine->pump_;
  Engine& self = *engine;
  engine->loader_ = std::make_unique<Loader>(*engine->store_, [&pumpRef](uint64_t page, const Error* error) {
    pumpRef.post([&pumpRef, page, failed = error != nullptr, copy = error != nullptr ? *error : Error{}] {
      pumpRef.pageLoaded(page, failed ? &copy : nullptr);
    });
  });
  engine->inspector_ = std::make_unique<Inspector>(*engine->store_);
  engine->flusher_ = std::make_unique<Flusher>(
      *engine->store_, set.sync, engine->counters_, engine->histograms_,
      Flusher::Hooks{[&pumpRef] { pumpRef.wake(); }, [&pumpRef](const Error* error) { pumpRef.storageProblem(error); },
                     [&pumpRef](const Error& error) { pumpRef.post([&pumpRef, error] { pumpRef.fail(error); }); },
                     [&self] { self.retain(); }});
  engine->connector_ = std::make_unique<Connector>(
      engine->setup(),
      [&pumpRef](Established established) {
        pumpRef.postLink(&Pump::adoptUpstream, std::move(established));
      },
      [&pumpRef](const Error& error) {
        pumpRef.newEvent({"upstream-unreachable", "", error.code, error.message, 0});
      });
  pumpRef.start({std::move(notify), [&self](uint64_t page) { self.loader_->request(page); },
                 [&self](const std::string& rail, bool soon) { self.reconnect(rail, soon); },
                 [&self](const std::string& node, uint64_t flushedLsn) { self.noteReader(node, flushedLsn); },
                 [&self](const PageQuery& query, std::function<void(PageReply)> done) {
                   self.inspector_->answer(query, std::move(done));
                 }});
  if (auto listening = engine->listen(); !listening) return listening.error();
  return engine;
}

SetupSettings Engine::setup() const {
  return {{settings_.cluster, settings_.nodeId, settings_.secret, settings_.transports},
          devices_,
          settings_.setupTimeoutMs,
          settings_.reconnectMsMin,
          settings_.reconnectMsMax};
}

Result<void> Engine::listen() {
  Pump& pump = *pump_;
  for (size_t i = 0; i < settings_.listen.size(); ++i) {
    auto listener = Listener::start(
        settings_.listen[i], setup(),
        [&pump](Established established) {
          pump.postLink(&Pump::adoptDownstream, std::move(established));
        },
        [&pump](const std::string& from, const Error& error) {
          pump.newEvent({"connection-refused", from, error.code, error.message, 0});
        });
    if (!listener) return listener.error();
    listeners_.push_back(listener.take());
  }
  // Ports that the system chose are known only now.
  std::vector<RailEnd> ends = settings_.railEnds;
  for (size_t i = 0; i < ends.size(); ++i) {
    if (ends[i].port == 0) ends[i].port = listeners_[i < listeners_.size() ? i : 0]->port();
  }
  pump_->post([&pump, ends = std::move(ends)] { pump.setRailEnds(ends); });
  return {};
}

Engine::~Engine() { static_cast<void>(close()); }

Result<void> Engine::close() {
  if (closed_) return {};
  closed_ = true;
  // The pump first, it calls the others: the sessions end; then nothing new arrives, what was received is flushed, and
  // the log is closed.
  if (pump_) pump_->stop();
  listeners_.clear();
  connector_.reset();
  takeRailConnectors().clear();
  loader_.reset();
  inspector_.reset();
  flusher_.reset();
  Result<void> outcome;
  if (store_) {
    NodeRecord record = store_->record();
    record.protectedLsn = std::max(record.protectedLsn, pump_->protectedLsn());
    outcome = store_->storeRecord(std::move(record));
    const LogPosition flushed = store_->lastFlushedFrame();
    pump_.reset();
    store_.reset();
    if (outcome) outcome = log_->close(flushed);
  } else {
    pump_.reset();
  }
  readers_.reset();
  log_.reset();
  devices_.clear();
  arena_.reset();
  return outcome;
}

void Engine::storageProblem(const Error& error) {
  pump_->newEvent({"storage-problem", settings_.nodeId, error.code, error.message, 0});
}

bool Engine::noteReader(const std::string& node, uint64_t lsn) {
  auto noted = readers_->set(node, lsn);
  if (!noted) storageProblem(noted.error());
  return noted.ok();
}

// On the flusher. A trim that fails is tried again a second later; nothing is lost meanwhile.
void Engine::retain() {
  for (const auto& [node, lsn] : pump_->readers()) {
    if (!noteReader(node, lsn)) return;
  }
  const auto slowest = readers_->slowest();
  const uint64_t keepFrom =
      retentionLsn(store_->flushedLsn(), settings_.log, slowest ? slowest->lsn : kNoReader);
  if (keepFrom <= log_->firstLsn()) return;
  if (auto stored = readers_->store(); !stored) return storageProblem(stored.error());
  if (auto trimmed = store_->trimBelow(keepFrom); !trimmed) storageProblem(trimmed.error());
}

Result<void> Engine::forgetReader(const std::string& node) { return readers_->remove(node); }

Result<PageReply> Engine::ask(const std::string& node, const PageQuery& query) {
  // The answer may come, or the link end, when nobody waits any more.
  auto promise = std::make_shared<std::promise<Result<PageReply>>>();
  auto answer = promise->get_future();
  pump_->post([this, node, query, promise] {
    pump_->askPages(node, query, [promise](Result<PageReply> reply) { promise->set_value(std::move(reply)); });
  });
  // A node that gives way to its log takes its time; one that is gone the link's own time-out finds.
  const std::chrono::milliseconds patience(2 * settings_.session.linkTimeoutMs + 2000);
  if (answer.wait_for(patience) != std::future_status::ready) {
    return makeError("WALSHIP_ERR_TIMEOUT", "'" + node + "' has not answered within " + std::to_string(patience.count()) + " ms");
  }
  return answer.get();
}

Result<std::vector<PageCopy>> Engine::copiesAt(const std::string& node, uint64_t first, uint32_t count) {
  auto reply = ask(node, {0, PageQuestion::copies, first, 0, count});
  if (!reply) return reply.error();
  return std::move(reply.value().copies);
}

Result<Buffer> Engine::pageAt(const std::string& node, uint64_t page) {
  Buffer bytes;
  const uint32_t pageBytes = store_->geometry().pageBytes;
  while (bytes.size() < pageBytes) {
    const auto offset = static_cast<uint32_t>(bytes.size());
    const auto count = static_cast<uint32_t>(std::min<size_t>(kPageChunkBytesMax, pageBytes - offset));
    const auto reply = ask(node, {0, PageQuestion::bytes, page, offset, count});
    if (!reply) return reply.error();
    if (reply.value().bytes.empty()) {
      return makeError("WALSHIP_ERR_LOG_POSITION", "'" + node + "' does not have page " + std::to_string(page));
    }
    put(bytes, reply.value().bytes);
  }
  return bytes;
}

Result<uint64_t> Engine::append(Bytes bytes, bool continues, Ship ship) {
  auto end = pump_->appender().append(bytes, continues, ship);
  if (!end) {
    if (end.error().is("WALSHIP_ERR_BACKPRESSURE")) counters_[kStarved].store(1, std::memory_order_release);
  } else {
    counters_[kAppends].fetch_add(1, std::memory_order_relaxed);
    counters_[kEndLsn].store(end.value(), std::memory_order_relaxed);
  }
  return end;
}

Result<std::optional<ReadChunk>> Engine::read(uint64_t lsn, uint64_t limitLsn, bool wait) {
  const uint64_t received = store_->receivedLsn();
  limitLsn = std::min(limitLsn, received);
  if (lsn >= limitLsn) return std::optional<ReadChunk>{};
  auto page = store_->pageOf(lsn);
  if (!page) return page.error();
  Pin pin = arena_->find(page.value(), Access::tailRead);
  if (!pin) {
    if (!wait) return makeError("WALSHIP_ERR_NOT_CACHED", "the page is on disk");
    auto fetched = store_->fetch(page.value(), Access::tailRead);
    if (!fetched) return fetched.error();
    pin = fetched.take();
  }
  ReadChunk chunk;
  chunk.lsn = lsn;
  forEachFrame(pin.bytes(), 0, pin.filled(), [&](const FrameHeader& header, Bytes payload) {
    if (header.lsn + header.length <= lsn) return true;
    if (header.lsn >= limitLsn) return false;
    const size_t from = header.lsn < lsn ? lsn - header.lsn : 0;
    const size_t to = std::min<uint64_t>(header.length, limitLsn - header.lsn);
    put(chunk.bytes, payload.subspan(from, to - from));
    chunk.continues = to < header.length || (header.flags & kFrameContinues) != 0;
    return true;
  });
  if (chunk.bytes.empty()) return std::optional<ReadChunk>{};
  return std::optional<ReadChunk>(std::move(chunk));
}

Result<uint64_t> Engine::promote(uint64_t epoch, uint64_t leaseUntilNs) {
  const std::lock_guard lock(roleMutex_);
  auto promoted = pump_->call([this, epoch, leaseUntilNs] { return pump_->promote(epoch, leaseUntilNs); });
  if (promoted) {  // a link that still comes is not taken by a primary
    connector_->follow(std::nullopt);
    takeRailConnectors().clear();
  }
  return promoted;
}

Result<Promised> Engine::promise(uint64_t epoch) {
  const std::lock_guard lock(roleMutex_);
  // A set-up under way may be one with a node that must not be followed any more.
  connector_->restart();
  {
    const std::lock_guard rails(railMutex_);
    for (auto& [name, connector] : railConnectors_) connector->restart();
  }
  Promised promised;
  auto done = pump_->call([&]() -> Result<uint64_t> {
    auto outcome = pump_->promise(epoch);
    if (!outcome) return outcome.error();
    promised = outcome.value();
    return promised.lsn;
  });
  if (!done) return done.error();
  return promised;
}

void Engine::setLease(std::optional<uint64_t> monotonicUntilNs) {
  const uint64_t until = monotonicUntilNs ? leaseClock_.deadline(*monotonicUntilNs) : kNoLease;
  pump_->post([this, until] { pump_->setLease(until); });
}

Result<uint64_t> Engine::hold(bool on) {
  auto end = pump_->appender().hold(on);
  if (!end) return end;
  if (on) {
    counters_[kStarved].store(1, std::memory_order_release);
  } else {
    pump_->post([this] { pump_->releaseWriters(); });
  }
  return end;
}

Result<uint64_t> Engine::follow(std::optional<ConnectTarget> target, bool discardCommitted) {
  const std::lock_guard lock(roleMutex_);
  if (target && !discardCommitted && connector_->retryIfFollowing(*target)) {
    return pump_->call([this]() -> Result<uint64_t> { return store_->epoch(); });
  }
  // The connector first: a link to the old upstream must not arrive after the pump has dropped it.
  connector_->follow(std::nullopt);
  takeRailConnectors().clear();
  auto demoted = pump_->call([this, discardCommitted] {
    auto outcome = pump_->demote();
    pump_->dropUpstream(makeError("WALSHIP_ERR_LINK_CLOSED", "this node follows another upstream now"));
    pump_->setDiscardCommitted(discardCommitted);
    counters_[kUpstreamHeardNs].store(0, std::memory_order_relaxed);
    return outcome;
  });
  if (demoted) connector_->follow(std::move(target));
  return demoted;
}


// ---- rails ----

Engine::RailConnectors Engine::takeRailConnectors() {
  const std::lock_guard lock(railMutex_);
  return std::exchange(railConnectors_, {});
}

// On the pump.
void Engine::reconnect(const std::string& rail, bool soon) {
  if (rail.empty()) return connector_->reconnect(soon);
  const std::lock_guard lock(railMutex_);
  if (const auto found = railConnectors_.find(rail); found != railConnectors_.end()) found->second->reconnect(soon);
}

Result<bool> Engine::setRails(const std::vector<RailTarget>& rails, const std::string& upstream) {
  const std::lock_guard lock(roleMutex_);
  // Whoever decided on these may not know yet that another upstream is followed.
  const auto current = pump_->snapshot();
  if (current.railsNode != upstream) return false;
  RailConnectors gone;
  std::vector<const RailTarget*> added;
  {
    const std::lock_guard rails_(railMutex_);
    for (auto entry = railConnectors_.begin(); entry != railConnectors_.end();) {
      const bool stays = std::any_of(rails.begin(), rails.end(), [&](const RailTarget& rail) { return rail.name == entry->first; });
      const auto next = std::next(entry);
      if (!stays) gone.insert(railConnectors_.extract(entry));
      entry = next;
    }
    for (const RailTarget& rail : rails) {
      if (!railConnectors_.contains(rail.name)) added.push_back(&rail);
    }
  }
  for (auto& [name, connector] : gone) {
    connector.reset();
    pump_->post([this, rail = name] { pump_->forgetRail(rail); });
  }
  Pump& pump = *pump_;
  for (const RailTarget* rail : added) {
    auto connector = std::make_unique<Connector>(
        setup(),
        [&pump](Established established) {
          pump.postLink(&Pump::adoptUpstream, std::move(established));
        },
        [&pump, name = rail->name](const Error& error) {
          pump.post([&pump, name, error] { pump.railProblem(name, error); });
        });
    connector->follow(rail->target);
    const std::lock_guard rails_(railMutex_);
    railConnectors_[rail->name] = std::move(connector);
  }
  return true;
}

void Engine::steer(std::vector<std::string> order, std::vector<std::string> carry, std::string why) {
  pump_->post([this, order = std::move(order), carry = std::move(carry), why = std::move(why)] {
    pump_->steer(order, carry, why);
  });
}

}  // namespace walship

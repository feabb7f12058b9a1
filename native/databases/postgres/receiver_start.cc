// Where a receiver's stream begins: the server and its slot, and how its history goes on from the end of the log.
#include <bit>

#include "base/clock.h"
#include "databases/postgres/answers.h"
#include "databases/postgres/receiver.h"

namespace walship::postgres {

namespace {

constexpr uint64_t kMs = 1'000'000;

// "16MB"
std::optional<uint64_t> bytesIn(const std::string& text) {
  uint64_t value = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
  const std::string_view unit(parsed.ptr, static_cast<size_t>(text.data() + text.size() - parsed.ptr));
  if (parsed.ec != std::errc{}) return std::nullopt;
  if (unit == "MB") return value << 20;
  if (unit == "GB") return value << 30;
  return std::nullopt;
}

}  // namespace

uint64_t Receiver::answerDeadline() const { return monotonicNs() + settings_.connectTimeoutMs * kMs; }

Result<Receiver::Server> Receiver::connect() {
  auto connection = Connection::open(settings_.conninfo, settings_.applicationName, answerDeadline(), cancel_);
  if (!connection) return connection.error();
  auto row = connection.value().query("IDENTIFY_SYSTEM", answerDeadline());
  if (!row) return row.error();
  if (!row.value() || row.value()->size() < 3) return unexpected("IDENTIFY_SYSTEM");
  const auto systemId = numberIn<uint64_t>(row.value()->at(0));
  const auto timeline = numberIn<uint32_t>(row.value()->at(1));
  const auto endLsn = lsnIn(*row.value(), 2);
  if (!systemId || !timeline || !endLsn) return unexpected("IDENTIFY_SYSTEM");
  auto identity = identityOf(engine_);
  if (!identity) return identity.error();
  if (identity.value() && identity.value()->systemId != *systemId) {
    return makeError("WALSHIP_ERR_POSTGRES_FOREIGN",
                     "the server is of another database cluster: its system identifier is " + std::to_string(*systemId) +
                         ", that of the WAL in this log is " + std::to_string(identity.value()->systemId) +
                         "; point postgres.primary at the right server, or use a new log directory");
  }
  {
    const std::lock_guard lock(statusMutex_);
    status_.systemId = *systemId;
    status_.timeline = *timeline;
    status_.serverVersion = connection.value().serverVersion();
    status_.serverEndLsn = *endLsn;
  }
  auto shown = connection.value().query("SHOW wal_segment_size", answerDeadline());
  if (!shown) return shown.error();
  const auto segmentBytes = shown.value() && !shown.value()->empty() && shown.value()->at(0)
                                ? bytesIn(*shown.value()->at(0))
                                : std::nullopt;
  if (!segmentBytes || !std::has_single_bit(*segmentBytes)) return unexpected("SHOW wal_segment_size");
  return Server{connection.take(), *systemId, *timeline, *endLsn, static_cast<uint32_t>(*segmentBytes)};
}

// Makes the slot if need be. From where on the server keeps its WAL for it.
Result<uint64_t> Receiver::slotStart(Server& server) {
  const std::string slot = quoted(settings_.slot);
  for (const bool made : {false, true}) {
    auto row = server.connection.query("READ_REPLICATION_SLOT " + slot, answerDeadline());
    if (!row) return row.error();
    if (!row.value() || row.value()->size() < 2) return unexpected("READ_REPLICATION_SLOT");
    if (row.value()->at(0)) {
      const auto restart = lsnIn(*row.value(), 1);
      return restart.value_or(server.endLsn);
    }
    if (made) break;
    auto create = server.connection.query("CREATE_REPLICATION_SLOT " + slot + " PHYSICAL RESERVE_WAL", answerDeadline());
    if (!create) return create.error();
  }
  return makeError("WALSHIP_ERR_POSTGRES_SERVER", "the replication slot " + slot + " was dropped just after it was made");
}

Result<uint64_t> Receiver::prepare() {
  if (!thread_.joinable()) cancel_.clear();
  auto connected = connect();
  if (!connected) return connected.error();
  Server& server = connected.value();
  auto kept = slotStart(server);
  if (!kept) return kept.error();
  const uint64_t wanted = settings_.startLsn.value_or(kept.value());
  const uint64_t start = wanted / server.segmentBytes * server.segmentBytes;
  return engine_.pump().call([&]() -> Result<uint64_t> {
    Store& store = engine_.store();
    const LogPosition at = store.received();
    if (!store.empty() || at.lsn == start) return at.lsn;
    if (engine_.pump().isPrimary()) {
      return makeError("WALSHIP_ERR_IS_PRIMARY", "the log must begin at " + formatLsn(start) +
                                                     " before this node becomes the primary");
    }
    engine_.pump().dropDownstreams("the log here begins at LSN " + std::to_string(start));
    if (auto begun = store.startAt({start, 0, 0, at.page, 0}); !begun) return begun.error();
    return start;
  });
}

Result<std::string> Receiver::history(Server& server, uint32_t timeline) {
  const std::string& dir = engine_.settings().log.dir;
  auto known = loadHistory(dir, timeline);
  if (!known) return known.error();
  if (known.value()) return *known.value();
  const std::string command = "TIMELINE_HISTORY " + std::to_string(timeline);
  auto row = server.connection.query(command, answerDeadline());
  if (!row) return row.error();
  if (!row.value() || row.value()->size() < 2 || !row.value()->at(1)) return unexpected(command);
  const std::string text = *row.value()->at(1);
  if (auto parsed = parseHistory(text); !parsed) return parsed.error();
  if (auto stored = storeHistory(dir, timeline, text); !stored) return stored.error();
  return text;
}

// The server cannot go on where the log ends.
Error Receiver::withRemedy(Error error) const {
  if (error.message.starts_with("58P01")) {
    error.message += "; the log ends at " + formatLsn(endLsn_) +
                     ", and the server has no longer what follows: put the segment back into its pg_wal, or begin a new "
                     "log (move " + engine_.settings().log.dir + " aside) and clone the standby servers again";
  }
  return error;
}

Result<Receiver::Start> Receiver::whereToStart(Server& server) {
  const uint64_t tail = engine_.pump().appender().endLsn();
  auto known = timelinesOf(engine_, tail);
  if (!known) return known.error();
  std::vector<TimelineEnd> ends;
  if (server.timeline > 1) {
    auto text = history(server, server.timeline);
    if (!text) return text.error();
    ends = parseHistory(text.value()).take();
  }
  const uint32_t timeline = known.value().newest();
  if (timeline > server.timeline) {
    return makeError("WALSHIP_ERR_POSTGRES_TIMELINE",
                     "the server is on timeline " + std::to_string(server.timeline) + ", the log already on " +
                         std::to_string(timeline) + ": it is not the newest primary; rewind it and make it a standby");
  }
  if (timeline == server.timeline) return Start{tail, timeline};
  // The log ends on an older timeline, or has nothing yet: it goes on along the server's history.
  for (const TimelineEnd& end : ends) {
    if (tail < end.switchLsn) return Start{tail, end.timeline};
    if (end.timeline != timeline || tail == end.switchLsn) continue;
    // So little of the new timeline that its first record is not whole.
    if (known.value().undecidedLsn == end.switchLsn) continue;
    return makeError("WALSHIP_ERR_POSTGRES_DIVERGED",
                     "the log holds WAL of timeline " + std::to_string(timeline) + " up to " + formatLsn(tail) +
                         ", but the server left that timeline at " + formatLsn(end.switchLsn) +
                         ": what is behind it was never part of the server's history");
  }
  return Start{tail, server.timeline};
}

}  // namespace walship::postgres

// What a session answers to commands.
#include <poll.h>

#include "base/clock.h"
#include "databases/postgres/session.h"

namespace walship::postgres {

namespace {

constexpr uint64_t kMs = 1'000'000;
constexpr int kLookMs = 10;

std::string readerName(const std::string& slot) { return "postgres:" + slot; }

}  // namespace

Session::Outcome Session::run(const std::string& text) {
  auto command = parseCommand(text);
  if (!command) {
    refuse(command.error().is("WALSHIP_ERR_POSTGRES_SLOT_NAME") ? "42602" : "42601", command.error().message);
    return {};
  }
  return std::visit([this](const auto& each) { return run(each); }, command.value());
}

Session::Outcome Session::run(const Nothing&) {
  putEmptyQuery(out_);
  return {};
}

Session::Outcome Session::run(const ForServer& command) {
  refuse("0A000", "cannot execute \"" + command.word.substr(0, 60) + "\": walship serves physical replication only", {},
         "Connect to the PostgreSQL server itself.");
  return {};
}

uint64_t Session::sendable() const {
  return settings_.sendAt == SendAt::flushed ? engine_.store().flushedLsn() : engine_.store().receivedLsn();
}

Result<WalIdentity> Session::identity() {
  if (!identity_) {
    auto found = identityOf(engine_);
    if (!found) return found.error();
    if (!found.value()) {
      return makeError("WALSHIP_ERR_POSTGRES_EMPTY", "the walship node has not received any WAL yet");
    }
    identity_ = *found.value();
  }
  return *identity_;
}

Session::Outcome Session::run(const IdentifySystem&) {
  auto known = identity();
  if (!known) return known.error();
  const uint64_t end = sendable();
  auto timelines = timelinesOf(engine_, end);
  if (!timelines) return timelines.error();
  putRow(out_,
         {{"systemid", kTextType, -1}, {"timeline", kInt8Type, 8}, {"xlogpos", kTextType, -1}, {"dbname", kTextType, -1}},
         {std::to_string(known.value().systemId), std::to_string(timelines.value().newest()), formatLsn(end), std::nullopt});
  putComplete(out_, "IDENTIFY_SYSTEM");
  return {};
}

Session::Outcome Session::run(const Show& command) {
  auto known = identity();
  if (!known) return known.error();
  std::string value;
  if (command.name == "wal_segment_size") {
    const uint32_t mib = known.value().segmentBytes >> 20;
    value = mib >= 1024 ? std::to_string(mib >> 10) + "GB" : std::to_string(mib) + "MB";
  } else if (command.name == "data_directory_mode") {
    value = "0700";
  } else if (command.name == "server_version_num") {
    value = std::to_string(known.value().majorVersion() * 10'000);
  } else {
    refuse("42704", "unrecognized configuration parameter \"" + command.name + "\"");
    return {};
  }
  putRow(out_, {{command.name.c_str(), kTextType, -1}}, {value});
  putComplete(out_, "SHOW");
  return {};
}

Session::Outcome Session::run(const TimelineHistory& command) {
  auto timelines = timelinesOf(engine_, sendable());
  if (!timelines) return timelines.error();
  auto text = historyText(engine_, timelines.value(), command.timeline);
  if (!text) return text.error();
  std::string trouble;
  if (!text.value() && !settings_.server.empty()) {
    // Older than the log. All that it holds itself follows from the history of its oldest one.
    const auto& starts = timelines.value().starts;
    for (const uint32_t wanted : {starts.empty() ? 0 : starts.front().timeline, command.timeline}) {
      if (text.value() || wanted <= 1 || wanted > timelines.value().newest()) continue;
      if (auto fetched = fetchHistory(wanted); !fetched) trouble = fetched.error().message;
      text = historyText(engine_, timelines.value(), command.timeline);
      if (!text) return text.error();
    }
  }
  if (!text.value()) {
    refuse("58P01", "could not open file \"pg_wal/" + historyFileName(command.timeline) + "\": No such file or directory",
           trouble);
    return {};
  }
  putRow(out_, {{"filename", kTextType, -1}, {"content", kTextType, -1}},
         {historyFileName(command.timeline), *text.value()});
  putComplete(out_, "TIMELINE_HISTORY");
  return {};
}

std::optional<uint64_t> Session::slotLsn(const std::string& slot) const {
  if (temporarySlots_.contains(slot)) return engine_.log().firstLsn();
  for (const RegisteredReader& reader : engine_.readers().list()) {
    if (reader.name == readerName(slot)) return reader.lsn;
  }
  return std::nullopt;
}

Session::Outcome Session::run(const CreateSlot& command) {
  if (slotLsn(command.slot)) {
    refuse("42710", "replication slot \"" + command.slot + "\" already exists");
    return {};
  }
  // Temporary ones hold nothing: a session's own cursor is never overtaken by more than what the log retains anyway.
  if (command.temporary) {
    temporarySlots_.insert(command.slot);
  } else {
    if (auto noted = engine_.readers().set(readerName(command.slot), engine_.log().firstLsn()); !noted) {
      refuse("53400", noted.error().message);
      return {};
    }
  }
  putRow(out_,
         {{"slot_name", kTextType, -1},
          {"consistent_point", kTextType, -1},
          {"snapshot_name", kTextType, -1},
          {"output_plugin", kTextType, -1}},
         {command.slot, "0/0", std::nullopt, std::nullopt});
  putComplete(out_, "CREATE_REPLICATION_SLOT");
  return {};
}

Session::Outcome Session::run(const ReadSlot& command) {
  const auto lsn = slotLsn(command.slot);
  std::optional<std::string> type;
  std::optional<std::string> restart;
  std::optional<std::string> timeline;
  if (lsn) {
    auto timelines = timelinesOf(engine_, sendable());
    if (!timelines) return timelines.error();
    uint32_t at = timelines.value().newest();
    for (const TimelineStart& start : timelines.value().starts) {
      if (start.lsn <= *lsn) at = start.timeline;
    }
    type = "physical";
    restart = formatLsn(*lsn);
    timeline = std::to_string(at);
  }
  putRow(out_, {{"slot_type", kTextType, -1}, {"restart_lsn", kTextType, -1}, {"restart_tli", kInt8Type, 8}},
         {type, restart, timeline});
  putComplete(out_, "READ_REPLICATION_SLOT");
  return {};
}

Session::Outcome Session::run(const DropSlot& command) {
  if (!slotLsn(command.slot)) {
    refuse("42704", "replication slot \"" + command.slot + "\" does not exist");
    return {};
  }
  if (temporarySlots_.erase(command.slot) == 0) {
    if (auto removed = engine_.readers().remove(readerName(command.slot)); !removed) return removed;
  }
  putComplete(out_, "DROP_REPLICATION_SLOT");
  return {};
}

// A base backup begins where the server is now, which may be a moment ahead of the log: what it needs is about to come.
Result<uint64_t> Session::sendableAt(uint64_t lsn) {
  const uint64_t deadlineNs = monotonicNs() + settings_.connectTimeoutMs * kMs;
  while (sendable() < lsn && shared_.backups.load() > 0 && monotonicNs() < deadlineNs) {
    pollfd waited{cancel_.fd(), POLLIN, 0};
    if (::poll(&waited, 1, kLookMs) > 0) return makeError("WALSHIP_ERR_CLOSED", "the walsender is stopping");
  }
  return sendable();
}

Session::Outcome Session::run(const StartReplication& command) {
  auto known = identity();
  if (!known) return known.error();
  if (command.slot && !slotLsn(*command.slot)) {
    refuse("42704", "replication slot \"" + *command.slot + "\" does not exist");
    return {};
  }
  auto sendableNow = sendableAt(command.lsn);
  if (!sendableNow) return sendableNow.error();
  const uint64_t end = sendableNow.value();
  if (command.lsn > end) {
    refuse("XX000", "requested starting point " + formatLsn(command.lsn) +
                        " is ahead of the WAL flush position of this server " + formatLsn(end));
    return {};
  }
  auto timelines = timelinesOf(engine_, end);
  if (!timelines) return timelines.error();
  const std::vector<TimelineStart>& starts = timelines.value().starts;
  timeline_ = command.timeline == 0 ? timelines.value().newest() : command.timeline;
  epochMax_ = timelines.value().decidedEpoch;
  following_.reset();
  const auto found = std::find_if(starts.begin(), starts.end(), [&](const auto& each) { return each.timeline == timeline_; });
  if (found == starts.end()) {
    refuse("XX000", "requested timeline " + std::to_string(timeline_) + " is not in this server's history");
    return {};
  }
  if (std::next(found) != starts.end()) following_ = *std::next(found);
  if (following_ && command.lsn > following_->lsn) {
    refuse("XX000", "requested starting point " + formatLsn(command.lsn) + " on timeline " + std::to_string(timeline_) +
                        " is not in this server's history",
           "This server's history forked from timeline " + std::to_string(timeline_) + " at " + formatLsn(following_->lsn) +
               ".");
    return {};
  }
  if (command.lsn < engine_.log().firstLsn()) {
    refuse("58P01", "requested WAL segment " + walFileName(timeline_, command.lsn, known.value().segmentBytes) +
                        " has already been removed");
    return {};
  }
  const std::string slot = command.slot.value_or("");
  slot_ = temporarySlots_.contains(slot) ? "" : slot;
  {
    const std::lock_guard lock(statusMutex_);
    status_.streaming = true;
    status_.slot = slot;
    status_.timeline = timeline_;
    status_.sent = command.lsn;
  }
  const bool atEnd = following_ && command.lsn == following_->lsn;
  const Outcome streamed = atEnd ? Outcome() : stream(command.lsn);
  {
    const std::lock_guard lock(statusMutex_);
    status_.streaming = false;
  }
  if (!streamed) return streamed;
  if (following_ && (atEnd || next_ == following_->lsn)) {
    putRow(out_, {{"next_tli", kInt8Type, 8}, {"next_tli_startpos", kTextType, -1}},
           {std::to_string(following_->timeline), formatLsn(following_->lsn)});
  }
  putComplete(out_, "START_STREAMING");
  putComplete(out_, "START_REPLICATION");
  return {};
}

}  // namespace walship::postgres

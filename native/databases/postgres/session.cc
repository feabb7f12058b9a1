#include "databases/postgres/session.h"

#include <poll.h>
#include <pwd.h>
#include <sys/socket.h>

#include "base/clock.h"

namespace walship::postgres {

namespace {

constexpr uint64_t kMs = 1'000'000;
constexpr uint64_t kStartupNs = 60'000 * kMs;  // PostgreSQL's authentication_timeout
constexpr size_t kReadBytes = 64u << 10;
constexpr uint32_t kIdleMs = 1000;

Error gone(const std::string& why) { return makeError("WALSHIP_ERR_LINK_CLOSED", why); }

std::string userName(uid_t uid) {
  passwd entry{};
  passwd* found = nullptr;
  char memory[4096];
  if (::getpwuid_r(uid, &entry, memory, sizeof memory, &found) != 0 || found == nullptr) return {};
  return found->pw_name;
}

std::string readerName(const std::string& slot) { return "postgres:" + slot; }

}  // namespace

Session::~Session() {
  const std::lock_guard lock(shared_.appliedMutex);
  shared_.applied.erase(this);
}

void Session::stop() {
  stopping_.store(true);
  wake_.raise();
}

void Session::positionsMoved() {
  if (sleeping_.exchange(false, std::memory_order_seq_cst)) wake_.raise();
}

SessionStatus Session::status() {
  const std::lock_guard lock(statusMutex_);
  return status_;
}

void Session::run() {
  cuts_ = engine_.pump().cuts();
  static_cast<void>(serve());
  cursor_.release();
  socket_.reset();
  {
    const std::lock_guard lock(shared_.appliedMutex);
    shared_.applied.erase(this);
  }
  ended_.store(true, std::memory_order_release);
}

// ---- bytes in and out ----

Session::Outcome Session::sleep(uint32_t timeoutMs) {
  const bool unsent = outSent_ < out_.size();
  pollfd waited[2] = {{socket_.get(), static_cast<short>(unsent ? POLLIN | POLLOUT : POLLIN), 0},
                      {wake_.fd(), POLLIN, 0}};
  ::poll(waited, 2, static_cast<int>(timeoutMs));
  if (waited[1].revents != 0) wake_.clear();
  if (stopping_.load()) return makeError("WALSHIP_ERR_CLOSED", "the walsender is stopping");
  return {};
}

Session::Outcome Session::fill(bool wait) {
  if (inTaken_ > 0) {
    in_.erase(in_.begin(), in_.begin() + static_cast<ptrdiff_t>(inTaken_));
    inTaken_ = 0;
  }
  for (;;) {
    const size_t had = in_.size();
    in_.resize(had + kReadBytes);
    const ssize_t got = ::recv(socket_.get(), in_.data() + had, kReadBytes, 0);
    in_.resize(had + static_cast<size_t>(std::max<ssize_t>(got, 0)));
    if (got > 0) {
      heardNs_ = monotonicNs();
      return {};
    }
    if (got == 0) return gone("the client closed the connection");
    if (errno == EINTR) continue;
    if (errno != EAGAIN && errno != EWOULDBLOCK) return gone("the connection to the client is broken");
    if (!wait) return {};
    if (auto slept = sleep(kIdleMs); !slept) return slept;
    if (elapsedNs(heardNs_, monotonicNs()) > kStartupNs && !status_.streaming && status_.user.empty()) {
      return gone("the client did not start up in time");
    }
  }
}

// Sends all of what is left; blocks.
Session::Outcome Session::flush() {
  while (outSent_ < out_.size()) {
    const ssize_t sent = ::send(socket_.get(), out_.data() + outSent_, out_.size() - outSent_, MSG_NOSIGNAL);
    if (sent >= 0) {
      outSent_ += static_cast<size_t>(sent);
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      pollfd waited[2] = {{socket_.get(), POLLOUT, 0}, {wake_.fd(), POLLIN, 0}};
      ::poll(waited, 2, static_cast<int>(kIdleMs));
      if (waited[1].revents != 0) wake_.clear();
      if (stopping_.load()) return makeError("WALSHIP_ERR_CLOSED", "the walsender is stopping");
    } else if (errno != EINTR) {
      return gone("the connection to the client is broken");
    }
  }
  out_.clear();
  outSent_ = 0;
  return {};
}

Result<std::optional<Session::Message>> Session::tryMessage() {
  const Bytes rest = Bytes(in_).subspan(inTaken_);
  if (rest.size() < kMessageHeaderBytes) return std::optional<Message>{};
  auto header = parseMessageHeader(rest.first(kMessageHeaderBytes));
  if (!header) return header.error();
  const size_t whole = kMessageHeaderBytes + header.value().bodyBytes;
  if (rest.size() < whole) return std::optional<Message>{};
  const Bytes body = rest.subspan(kMessageHeaderBytes, header.value().bodyBytes);
  inTaken_ += whole;
  return std::optional(Message{header.value().type, {body.begin(), body.end()}});
}

Result<Session::Message> Session::readMessage() {
  for (;;) {
    auto message = tryMessage();
    if (!message) return message.error();
    if (message.value()) return std::move(*message.value());
    if (auto filled = fill(true); !filled) return filled.error();
  }
}

Session::Outcome Session::fatal(const char* sqlState, const std::string& message, const std::string& hint) {
  shared_.refused.fetch_add(1);
  putRefusal(out_, {"FATAL", sqlState, message, {}, hint});
  static_cast<void>(flush());
  return gone(message);
}

void Session::refuse(const char* sqlState, const std::string& message, const std::string& detail,
                     const std::string& hint) {
  putRefusal(out_, {"ERROR", sqlState, message, detail, hint});
}

// ---- the session's beginning ----

Result<std::string> Session::peerUser() {
  ucred peer{};
  socklen_t bytes = sizeof peer;
  if (::getsockopt(socket_.get(), SOL_SOCKET, SO_PEERCRED, &peer, &bytes) != 0) {
    return systemError("WALSHIP_ERR_INTERNAL", "cannot ask who connects", errno);
  }
  const std::string name = userName(peer.uid);
  const bool own = peer.uid == ::geteuid();
  if (own || std::find(settings_.users.begin(), settings_.users.end(), name) != settings_.users.end()) return name;
  return makeError("WALSHIP_ERR_AUTHENTICATION", "operating system user \"" + name + "\" may not connect");
}

// false: the client wanted something that ends with an answer of its own.
Result<bool> Session::startUp() {
  heardNs_ = monotonicNs();
  for (;;) {
    while (in_.size() - inTaken_ < 4) {
      if (auto filled = fill(true); !filled) return filled.error();
    }
    auto length = startupLength(Bytes(in_).subspan(inTaken_, 4));
    if (!length) return length.error();
    while (in_.size() - inTaken_ < length.value()) {
      if (auto filled = fill(true); !filled) return filled.error();
    }
    auto startup = parseStartup(Bytes(in_).subspan(inTaken_ + 4, length.value() - 4));
    inTaken_ += length.value();
    if (!startup) {
      static_cast<void>(fatal("0A000", startup.error().message));
      return startup.error();
    }
    if (startup.value().kind == StartupKind::cancel) return false;
    if (startup.value().kind != StartupKind::session) {
      // On this socket there is nothing to encrypt.
      out_.push_back(std::byte{'N'});
      if (auto sent = flush(); !sent) return sent.error();
      continue;
    }
    if (startup.value().minorVersion > 0) putVersionNegotiation(out_);
    const std::string user = startup.value().parameter("user");
    if (user.empty()) return fatal("28000", "no PostgreSQL user name specified in startup packet").error();
    if (auto peer = peerUser(); !peer) {
      return fatal("28000", "Peer authentication failed for user \"" + user + "\"",
                   peer.error().message + " to walship: name it in the walsender's users")
          .error();
    }
    {
      const std::lock_guard lock(statusMutex_);
      status_.user = user;
      status_.applicationName = startup.value().parameter("application_name");
    }
    if (!startup.value().physicalReplication()) {
      return fatal("0A000", "walship serves physical replication only; connect to the server itself for all else").error();
    }
    auto known = identity();
    if (!known) {
      if (known.error().is("WALSHIP_ERR_POSTGRES_EMPTY")) return fatal("57P03", known.error().message).error();
      return fatal("XX001", known.error().message).error();
    }
    const uint32_t major = known.value().majorVersion();
    putAuthenticationOk(out_);
    putParameter(out_, "server_version", std::to_string(major == 0 ? 15 : major) + ".0");
    putParameter(out_, "server_encoding", "UTF8");
    putParameter(out_, "client_encoding", "UTF8");
    putParameter(out_, "application_name", status_.applicationName);
    putParameter(out_, "integer_datetimes", "on");
    putParameter(out_, "standard_conforming_strings", "on");
    putParameter(out_, "DateStyle", "ISO, MDY");
    putParameter(out_, "TimeZone", "UTC");
    putParameter(out_, "in_hot_standby", "on");
    putBackendKey(out_, static_cast<uint32_t>(::getpid()), static_cast<uint32_t>(heardNs_));
    putReady(out_);
    if (auto sent = flush(); !sent) return sent.error();
    return true;
  }
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

Session::Outcome Session::serve() {
  auto started = startUp();
  if (!started) return started.error();
  if (!started.value()) return {};
  for (;;) {
    auto message = readMessage();
    if (!message) return message.error();
    switch (message.value().type) {
      case 'Q': {
        BigReader reader(message.value().body);
        std::string text;
        if (!reader.takeString(text) || !reader.done()) return fatal("08P01", "invalid message format");
        if (auto done = run(text); !done) {
          const Error& why = done.error();
          if (why.is("WALSHIP_ERR_LINK_CLOSED") || why.is("WALSHIP_ERR_CLOSED") || why.is("WALSHIP_ERR_TIMEOUT")) return done;
          // The log's own trouble, which is not the client's fault and may pass.
          refuse("XX000", why.message);
        }
        putReady(out_);
        if (auto sent = flush(); !sent) return sent;
        break;
      }
      case 'X': return {};
      case 'c':
      case 'd':
      case 'f': break;  // what was under way when a stream ended
      default:
        return fatal("08P01", "invalid frontend message type " +
                                  std::to_string(static_cast<unsigned char>(message.value().type)));
    }
  }
}

// ---- commands ----

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
  if (!text.value()) {
    refuse("58P01", "could not open file \"pg_wal/" + historyFileName(command.timeline) + "\": No such file or directory");
    return {};
  }
  putRow(out_, {{"filename", kTextType, -1}, {"content", kTextType, -1}},
         {historyFileName(command.timeline), *text.value()});
  putComplete(out_, "TIMELINE_HISTORY");
  return {};
}

std::optional<uint64_t> Session::slotLsn(const std::string& slot) const {
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
  if (!command.temporary) {
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
  if (auto removed = engine_.readers().remove(readerName(command.slot)); !removed) return removed;
  putComplete(out_, "DROP_REPLICATION_SLOT");
  return {};
}

Session::Outcome Session::run(const StartReplication& command) {
  auto known = identity();
  if (!known) return known.error();
  if (command.slot && !slotLsn(*command.slot)) {
    refuse("42704", "replication slot \"" + *command.slot + "\" does not exist");
    return {};
  }
  const uint64_t end = sendable();
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
  slot_ = command.slot.value_or("");
  {
    const std::lock_guard lock(statusMutex_);
    status_.streaming = true;
    status_.slot = slot_;
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

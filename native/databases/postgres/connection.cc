#include "databases/postgres/connection.h"

#include <poll.h>
#include <sys/eventfd.h>

#include "base/clock.h"

namespace walship::postgres {

namespace {

std::string trimmed(const char* text) {
  std::string line = text != nullptr ? text : "";
  while (!line.empty() && (line.back() == '\n' || line.back() == ' ')) line.pop_back();
  return line;
}

}  // namespace

Result<Wakeup> Wakeup::create() {
  Wakeup wakeup;
  wakeup.fd_ = Fd(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  if (!wakeup.fd_.valid()) return systemError("WALSHIP_ERR_INTERNAL", "cannot make an eventfd", errno);
  return wakeup;
}

void Wakeup::raise() const {
  const uint64_t one = 1;
  static_cast<void>(!::write(fd_.get(), &one, sizeof one));  // full: raised already
}

void Wakeup::clear() const {
  uint64_t ignored = 0;
  while (::read(fd_.get(), &ignored, sizeof ignored) > 0) {
  }
}

Error Connection::lost() const {
  const std::string why = trimmed(libpq().errorMessage(handle_.get()));
  return makeError("WALSHIP_ERR_POSTGRES_CONNECT", why.empty() ? "the server closed the connection" : why);
}

Error Connection::refused(const PgResult* answer) const {
  const std::string state = trimmed(libpq().resultField(answer, kFieldSqlState));
  const std::string message = trimmed(libpq().resultField(answer, kFieldPrimaryMessage));
  if (state.empty()) return lost();
  return makeError("WALSHIP_ERR_POSTGRES_SERVER", state + ": " + message);
}

Result<void> Connection::waitFor(short events, uint64_t deadlineNs) const {
  for (;;) {
    const uint64_t nowNs = monotonicNs();
    if (nowNs >= deadlineNs) return makeError("WALSHIP_ERR_TIMEOUT", "the PostgreSQL server does not answer");
    pollfd waited[2] = {{socket(), events, 0}, {cancel_->fd(), POLLIN, 0}};
    const int ready = ::poll(waited, 2, static_cast<int>(std::min<uint64_t>((deadlineNs - nowNs) / 1'000'000 + 1, 60'000)));
    if (ready < 0 && errno != EINTR) return systemError("WALSHIP_ERR_INTERNAL", "poll", errno);
    if (ready <= 0) continue;
    if (waited[1].revents != 0) return makeError("WALSHIP_ERR_CLOSED", "the connection to PostgreSQL is no longer wanted");
    if (waited[0].revents != 0) return {};
  }
}

Result<Connection> Connection::open(const std::string& conninfo, const std::string& applicationName, uint64_t deadlineNs,
                                    const Wakeup& cancel, Kind kind) {
  if (!libpq().loaded()) return makeError("WALSHIP_ERR_POSTGRES_LIBPQ", libpq().problem);
  const char* const keywords[] = {"dbname", "replication", "application_name", nullptr};
  const char* const values[] = {conninfo.c_str(), kind == Kind::walsender ? "true" : "false", applicationName.c_str(), nullptr};
  Connection connection(libpq().connectStart(keywords, values, 1), cancel);
  PgConnection* handle = connection.handle_.get();
  if (handle == nullptr) return makeError("WALSHIP_ERR_POSTGRES_CONNECT", "libpq has no memory for a connection");
  if (libpq().status(handle) == kConnectionBad) return connection.lost();
  for (int step = 2; step != kPollingOk; step = libpq().connectPoll(handle)) {
    if (step == kPollingFailed) return connection.lost();
    // The socket may be another one after every step: libpq tries address after address.
    if (auto ready = connection.waitFor(step == kPollingReading ? POLLIN : POLLOUT, deadlineNs); !ready) return ready.error();
  }
  if (libpq().setNonBlocking(handle, 1) != 0) return connection.lost();
  return connection;
}

Result<void> Connection::send(const std::string& command, uint64_t deadlineNs) {
  if (libpq().sendQuery(handle_.get(), command.c_str()) != 1) return lost();
  for (;;) {
    const auto all = flush();
    if (!all) return lost();
    if (*all) return {};
    if (auto ready = waitFor(POLLIN | POLLOUT, deadlineNs); !ready) return ready;
    if (!readAvailable()) return lost();
  }
}

Result<Connection::Answer> Connection::nextAnswer(uint64_t deadlineNs) {
  while (libpq().isBusy(handle_.get()) != 0) {
    if (auto ready = waitFor(POLLIN, deadlineNs); !ready) return ready.error();
    if (!readAvailable()) return lost();
  }
  return Answer(libpq().getResult(handle_.get()));
}

Row Connection::rowOf(const PgResult* answer) {
  Row row;
  for (int column = 0; column < libpq().columns(answer); ++column) {
    if (libpq().isNull(answer, 0, column) != 0) {
      row.emplace_back();
    } else {
      row.emplace_back(std::string(libpq().value(answer, 0, column),
                                   static_cast<size_t>(libpq().valueBytes(answer, 0, column))));
    }
  }
  return row;
}

// Takes every answer up to the end of the command.
Result<std::optional<Row>> Connection::lastRow(Answer answer, uint64_t deadlineNs) {
  std::optional<Row> row;
  std::optional<Error> error;
  while (answer) {
    const int status = libpq().resultStatus(answer.get());
    if (status == kTuplesOk && libpq().rows(answer.get()) > 0 && !row) row = rowOf(answer.get());
    if (status == kFatalError && !error) error = refused(answer.get());
    if (status == kCopyBoth || status == kCopyIn || status == kCopyOut) {
      return makeError("WALSHIP_ERR_POSTGRES_PROTOCOL", "the server began a copy where none was asked for");
    }
    auto next = nextAnswer(deadlineNs);
    if (!next) return error ? *error : next.error();
    answer = next.take();
  }
  if (error) return *error;
  return row;
}

Result<std::optional<Row>> Connection::query(const std::string& command, uint64_t deadlineNs) {
  if (auto sent = send(command, deadlineNs); !sent) return sent.error();
  auto answer = nextAnswer(deadlineNs);
  if (!answer) return answer.error();
  return lastRow(answer.take(), deadlineNs);
}

Result<bool> Connection::startCopy(const std::string& command, uint64_t deadlineNs) {
  if (auto sent = send(command, deadlineNs); !sent) return sent.error();
  auto answer = nextAnswer(deadlineNs);
  if (!answer) return answer.error();
  if (answer.value() && libpq().resultStatus(answer.value().get()) == kCopyBoth) return true;
  auto row = lastRow(answer.take(), deadlineNs);
  if (!row) return row.error();
  return false;
}

bool Connection::readAvailable() { return libpq().consumeInput(handle_.get()) == 1; }

Result<Connection::Taken> Connection::takeMessage(Bytes& message) {
  char* memory = nullptr;
  const int bytes = libpq().getCopyData(handle_.get(), &memory, 1);
  message_.reset(memory);
  if (bytes == 0) return Taken::nothing;
  if (bytes == -1) return Taken::ended;
  if (bytes < 0) return lost();
  message = {reinterpret_cast<const std::byte*>(memory), static_cast<size_t>(bytes)};
  return Taken::message;
}

bool Connection::send(Bytes message) {
  return libpq().putCopyData(handle_.get(), reinterpret_cast<const char*>(message.data()),
                             static_cast<int>(message.size())) == 1;
}

std::optional<bool> Connection::flush() {
  const int left = libpq().flush(handle_.get());
  if (left < 0) return std::nullopt;
  return left == 0;
}

Result<std::optional<Row>> Connection::endCopy(uint64_t deadlineNs) {
  auto answer = nextAnswer(deadlineNs);
  if (!answer) return answer.error();
  if (answer.value() && libpq().resultStatus(answer.value().get()) == kCopyIn) {
    // The server has said all; it waits for us to say so, too.
    if (libpq().putCopyEnd(handle_.get(), nullptr) != 1) return lost();
    while (const auto all = flush()) {
      if (*all) break;
      if (auto ready = waitFor(POLLIN | POLLOUT, deadlineNs); !ready) return ready.error();
    }
    answer = nextAnswer(deadlineNs);
    if (!answer) return answer.error();
  }
  return lastRow(answer.take(), deadlineNs);
}

}  // namespace walship::postgres

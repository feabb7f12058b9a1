// One replication connection to a PostgreSQL server, by libpq. Every wait has a deadline, and cancel() ends it from
// another thread.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/fd.h"
#include "base/result.h"
#include "databases/postgres/libpq.h"

namespace walship::postgres {

// An eventfd: wakes whoever polls it.
class Wakeup {
 public:
  static Result<Wakeup> create();
  int fd() const { return fd_.get(); }
  void raise() const;
  void clear() const;

 private:
  Fd fd_;
};

using Row = std::vector<std::optional<std::string>>;

class Connection {
 public:
  // `conninfo`: libpq's connection string or URI. `cancel` is raised to end any wait, and stays so.
  // WALSHIP_ERR_POSTGRES_LIBPQ, WALSHIP_ERR_POSTGRES_CONNECT with libpq's words, WALSHIP_ERR_CLOSED.
  enum class Kind : uint8_t { walsender, sql };
  static Result<Connection> open(const std::string& conninfo, const std::string& applicationName, uint64_t deadlineNs,
                                 const Wakeup& cancel, Kind kind = Kind::walsender);
  Connection(Connection&&) noexcept = default;
  Connection& operator=(Connection&&) noexcept = default;

  int socket() const { return libpq().socket(handle_.get()); }
  bool encrypted() const { return libpq().sslInUse(handle_.get()) != 0 || libpq().gssInUse(handle_.get()) != 0; }
  int serverVersion() const { return libpq().serverVersion(handle_.get()); }

  // A command with at most one row as its answer; none: no row. WALSHIP_ERR_POSTGRES_SERVER with the server's words and,
  // in front of them, its SQLSTATE; WALSHIP_ERR_POSTGRES_CONNECT, WALSHIP_ERR_TIMEOUT, WALSHIP_ERR_CLOSED.
  Result<std::optional<Row>> query(const std::string& command, uint64_t deadlineNs);
  // Begins a stream. false: the server answered with a row instead: a timeline that ends where it was to begin.
  Result<bool> startCopy(const std::string& command, uint64_t deadlineNs);

  // ---- while streaming; the caller sees to it that one thread at a time is in here ----
  // Reads what the socket has. false: the connection is gone.
  bool readAvailable();
  enum class Taken : uint8_t { message, nothing, ended };
  // The next message, valid until the next call. `ended`: see endCopy().
  Result<Taken> takeMessage(Bytes& message);
  // Sends; false: the connection is gone. Never blocks; flush() may have to be called again when the socket is writable.
  bool send(Bytes message);
  // none: gone; true: all is sent.
  std::optional<bool> flush();
  // The stream has ended. A row: the next timeline and where it begins. none: the server is shutting down.
  Result<std::optional<Row>> endCopy(uint64_t deadlineNs);

 private:
  struct Finish {
    void operator()(PgConnection* connection) const { libpq().finish(connection); }
  };
  struct Clear {
    void operator()(PgResult* result) const { libpq().clear(result); }
  };
  struct Free {
    void operator()(char* memory) const { libpq().freeMemory(memory); }
  };
  using Answer = std::unique_ptr<PgResult, Clear>;

  Connection(PgConnection* handle, const Wakeup& cancel) : handle_(handle), cancel_(&cancel) {}
  Result<void> waitFor(short events, uint64_t deadlineNs) const;
  Result<Answer> nextAnswer(uint64_t deadlineNs);
  Result<void> send(const std::string& command, uint64_t deadlineNs);
  Result<std::optional<Row>> lastRow(Answer answer, uint64_t deadlineNs);
  Error lost() const;
  Error refused(const PgResult* answer) const;
  static Row rowOf(const PgResult* answer);

  std::unique_ptr<PgConnection, Finish> handle_;
  std::unique_ptr<char, Free> message_;
  const Wakeup* cancel_;
};

}  // namespace walship::postgres

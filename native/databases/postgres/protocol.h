// The server's side of PostgreSQL's protocol 3: what a client sends before and after it has started up, and what it is
// answered. Pure.
#pragma once

#include <map>

#include "base/result.h"
#include "databases/postgres/wire.h"

namespace walship::postgres {

constexpr size_t kStartupBytesMax = 10'000;     // as PostgreSQL's own
constexpr size_t kMessageBytesMax = 1u << 20;  // of a client's message: commands and replies are short
constexpr size_t kMessageHeaderBytes = 5;

// ---- from the client ----

enum class StartupKind : uint8_t { session, wantsTls, wantsGss, cancel };

struct Startup {
  StartupKind kind = StartupKind::session;
  uint16_t minorVersion = 0;
  std::map<std::string, std::string> parameters;

  std::string parameter(const std::string& name) const {
    const auto found = parameters.find(name);
    return found == parameters.end() ? std::string() : found->second;
  }
  // replication=true: a walsender, and nothing else.
  bool physicalReplication() const;
};

// The length that the first four bytes say, these included. WALSHIP_ERR_POSTGRES_PROTOCOL.
Result<size_t> startupLength(Bytes fourBytes);
// The packet behind its length. WALSHIP_ERR_POSTGRES_PROTOCOL.
Result<Startup> parseStartup(Bytes packet);

struct MessageHeader {
  char type = 0;
  size_t bodyBytes = 0;
};
// WALSHIP_ERR_POSTGRES_PROTOCOL.
Result<MessageHeader> parseMessageHeader(Bytes fiveBytes);

struct SaslInitial {
  std::string mechanism;
  std::string response;
};
// The body of the client's first message of an authentication. WALSHIP_ERR_POSTGRES_PROTOCOL.
Result<SaslInitial> parseSaslInitial(Bytes body);

// ---- to a server, and what comes from it ----

void putQuery(Buffer& out, std::string_view text);

// Follows the messages of an answer, however its bytes are cut.
class AnswerBounds {
 public:
  // How many of `bytes` belong to the answer: all, or those up to the end of its ReadyForQuery.
  // WALSHIP_ERR_POSTGRES_PROTOCOL.
  Result<size_t> take(Bytes bytes);
  bool complete() const { return complete_; }
  // Nothing of a message is missing.
  bool betweenMessages() const { return headerBytes_ == 0 && left_ == 0; }
  char lastType() const { return type_; }

 private:
  std::byte header_[kMessageHeaderBytes]{};
  size_t headerBytes_ = 0;  // of a header that is not whole
  size_t left_ = 0;         // of the message's body
  char type_ = 0;
  bool complete_ = false;
};

// ---- to the client ----

struct Column {
  const char* name;
  uint32_t type;  // its OID
  int16_t bytes;
};
constexpr uint32_t kTextType = 25;
constexpr uint32_t kInt8Type = 20;

struct Refusal {
  const char* severity = "ERROR";  // FATAL: the session ends
  std::string sqlState;
  std::string message;
  std::string detail = {};
  std::string hint = {};
};

void putAuthenticationOk(Buffer& out);
void putSaslMechanisms(Buffer& out, const std::vector<std::string>& mechanisms);
void putSaslContinue(Buffer& out, std::string_view message);
void putSaslFinal(Buffer& out, std::string_view message);
void putParameter(Buffer& out, std::string_view name, std::string_view value);
void putBackendKey(Buffer& out, uint32_t process, uint32_t secret);
void putVersionNegotiation(Buffer& out);
void putReady(Buffer& out);
void putRefusal(Buffer& out, const Refusal& refusal);
// One row; none is NULL.
void putRow(Buffer& out, const std::vector<Column>& columns, const std::vector<std::optional<std::string>>& values);
void putComplete(Buffer& out, std::string_view tag);
void putEmptyQuery(Buffer& out);
void putCopyBoth(Buffer& out);
void putCopyDone(Buffer& out);
// A CopyData message of `bytes`; what it says follows.
void putCopyHeader(Buffer& out, size_t bytes);

}  // namespace walship::postgres

// What the walsender is opened with, and what it tells of itself.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "databases/postgres/wal.h"
#include "fabric/socket.h"

namespace walship::postgres {

enum class SendAt : uint8_t { received, flushed };

// The server that ordinary connections are passed on to.
struct OrdinaryServer {
  std::string host;  // a directory: that of its unix-domain socket
  uint16_t port = 5432;
  uint32_t sessionsMax = 100;
};

struct SenderRole {
  std::string name;
  std::string verifier;  // see parseVerifier()
};

struct TlsFiles {
  std::string certFile;
  std::string keyFile;
  bool required = false;
};

struct SenderSettings {
  std::string directory;               // of the socket, ".s.PGSQL.<port>" in it
  uint16_t port = 5432;
  std::vector<std::string> users;      // of the operating system, who may connect; this process's own always may
  std::optional<Address> listen;       // TCP, too, for these roles
  std::vector<SenderRole> roles;
  std::optional<TlsFiles> tls;         // of TCP
  std::string server;                  // conninfo of the one beside the node: base backups; empty: none
  std::optional<OrdinaryServer> ordinary;
  SendAt sendAt = SendAt::flushed;     // what a standby is given: what is durable here, or what has arrived
  std::string standbyName;             // application_name whose replay position is `applied`; empty: any standby's
  uint32_t gatherMs = 10;              // between pieces of WAL, while no commit waits for what a server applies
  uint32_t silenceMs = 60'000;         // a client that says nothing for so long is given up
  uint32_t connectTimeoutMs = 10'000;  // for the server beside the node

  std::string socketPath() const { return directory + "/.s.PGSQL." + std::to_string(port); }
};

struct SessionStatus {
  std::string applicationName;
  std::string user;
  bool ordinary = false;  // passed on to the server
  bool streaming = false;
  std::string slot;
  uint32_t timeline = 0;
  uint64_t sent = 0;
  uint64_t written = 0;
  uint64_t flushed = 0;
  uint64_t applied = 0;  // 0: it applies nothing
};

struct SenderStatus {
  std::string socketPath;
  std::string listen;                   // host:port; empty: no TCP
  std::optional<WalIdentity> identity;  // none: the log is empty
  std::vector<SessionStatus> sessions;  // of the walsender
  uint32_t ordinary = 0;                // connections passed on to the server
  uint64_t refused = 0;
  std::optional<Error> problem;         // why the log cannot be served
};

}  // namespace walship::postgres

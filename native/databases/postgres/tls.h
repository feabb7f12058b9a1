// TLS for the clients of the walsender, the listening side. OpenSSL comes out of the node binary. It never sees a socket:
// it reads and writes memory, so nothing in here blocks or raises a signal.
#pragma once

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>

#include "base/result.h"
#include "base/wire.h"

struct ssl_ctx_st;
struct ssl_st;
struct bio_st;

namespace walship::postgres {

class TlsContext {
 public:
  // PEM files: the certificate with those between it and the authority; its key, without a passphrase.
  // WALSHIP_ERR_POSTGRES_TLS with OpenSSL's words.
  static Result<TlsContext> open(const std::string& certFile, const std::string& keyFile);
  ssl_ctx_st* get() const { return context_.get(); }

 private:
  struct Free {
    void operator()(ssl_ctx_st* context) const;
  };
  std::unique_ptr<ssl_ctx_st, Free> context_;
};

class TlsSession {
 public:
  explicit TlsSession(const TlsContext& context);

  // What came from the socket. The hand-shake happens in here and in read().
  void feed(Bytes cipher);
  // As recv(2) of a socket that does not block: -1 with EAGAIN if there is no whole record, with EPROTO if it is no TLS.
  ssize_t read(MutableBytes plain);
  // As send(2): all of it, or -1 with EAGAIN before the hand-shake is done.
  ssize_t write(Bytes plain);
  // Appends what is to go to the socket.
  void drain(Buffer& cipher);
  // What a client that binds its proof to this connection (tls-server-end-point, RFC 5929) has to name. none: the
  // certificate's signature has no hash of its own.
  std::optional<std::string> endPoint() const;

 private:
  struct Free {
    void operator()(ssl_st* session) const;
  };
  std::unique_ptr<ssl_st, Free> session_;  // owns both ends of memory
  bio_st* in_;
  bio_st* out_;
};

}  // namespace walship::postgres

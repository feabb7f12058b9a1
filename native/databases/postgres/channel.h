// A client's connection, encrypted or not. Nothing in here blocks.
#pragma once

#include <sys/uio.h>

#include <optional>
#include <vector>

#include "base/fd.h"
#include "databases/postgres/tls.h"

namespace walship::postgres {

class Channel {
 public:
  static constexpr size_t kReceiveBytes = 64u << 10;  // what receive() wants to have room for

  explicit Channel(Fd socket) : socket_(std::move(socket)) {}

  int fd() const { return socket_.get(); }
  // From here on; the client's next bytes are its hand-shake.
  void encrypt(const TlsContext& context) { tls_.emplace(context); }
  bool encrypted() const { return tls_.has_value(); }
  std::optional<std::string> endPoint() const { return tls_ ? tls_->endPoint() : std::nullopt; }

  // As recv(2). Gives out all that one look at the socket brought: nothing stays where poll(2) does not see it.
  ssize_t receive(MutableBytes into);
  // As send(2) and sendmsg(2).
  ssize_t send(Bytes bytes);
  ssize_t send(std::vector<iovec>& parts);
  // What was taken and is not with the socket yet: send() sends it first.
  bool unsent() const { return !cipher_.empty(); }
  void close() { socket_.reset(); }

 private:
  bool push();

  Fd socket_;
  std::optional<TlsSession> tls_;
  Buffer cipher_;
  size_t cipherSent_ = 0;
};

}  // namespace walship::postgres

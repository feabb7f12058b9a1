#include "databases/postgres/channel.h"

#include <limits.h>
#include <sys/socket.h>

namespace walship::postgres {

namespace {

constexpr size_t kCipherBytes = 16u << 10;
constexpr size_t kRecordBytesMax = 16u << 10;
// One look at the socket ends at most one record that began before it.
static_assert(Channel::kReceiveBytes >= kCipherBytes + kRecordBytesMax);

}  // namespace

ssize_t Channel::receive(MutableBytes into) {
  if (!tls_) return ::recv(socket_.get(), into.data(), into.size(), 0);
  WALSHIP_ASSERT(into.size() >= kReceiveBytes);
  std::byte cipher[kCipherBytes];
  const ssize_t got = ::recv(socket_.get(), cipher, sizeof cipher, 0);
  if (got <= 0) return got;
  tls_->feed(Bytes(cipher).first(static_cast<size_t>(got)));
  size_t filled = 0;
  ssize_t read = 0;
  while ((read = tls_->read(into.subspan(filled))) > 0) filled += static_cast<size_t>(read);
  const int why = errno;
  // A part of the hand-shake, an alert.
  const bool open = push() || errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
  if (filled > 0) return static_cast<ssize_t>(filled);
  errno = why;
  return open || read == 0 ? read : -1;
}

// false: with errno.
bool Channel::push() {
  tls_->drain(cipher_);
  while (cipherSent_ < cipher_.size()) {
    const ssize_t sent = ::send(socket_.get(), cipher_.data() + cipherSent_, cipher_.size() - cipherSent_, MSG_NOSIGNAL);
    if (sent < 0) return false;
    cipherSent_ += static_cast<size_t>(sent);
  }
  cipher_.clear();
  cipherSent_ = 0;
  return true;
}

ssize_t Channel::send(Bytes bytes) {
  if (!tls_) return ::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
  if (!push()) return -1;
  if (bytes.empty()) return 0;
  const ssize_t taken = tls_->write(bytes.first(std::min(bytes.size(), kReceiveBytes)));
  if (taken > 0 && !push() && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) return -1;
  return taken;
}

ssize_t Channel::send(std::vector<iovec>& parts) {
  if (tls_) return 0;  // it has to be copied anyway: send(Bytes)
  msghdr message{};
  message.msg_iov = parts.data();
  message.msg_iovlen = std::min<size_t>(parts.size(), IOV_MAX);
  return ::sendmsg(socket_.get(), &message, MSG_NOSIGNAL);
}

}  // namespace walship::postgres

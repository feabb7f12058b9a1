#include "fabric/tcp/tcp_link.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>

#include "fabric/socket.h"

namespace walship {

namespace {
constexpr uint8_t kRange = 1;
constexpr uint8_t kMessage = 2;
constexpr size_t kRangesQueuedMax = 64;
constexpr size_t kItemsQueuedMax = 512;
constexpr size_t kStagingBytes = 4 * (sizeof(TcpWireHeader) + kMessageBytesMax);
constexpr size_t kLongRangeBytes = 4096;
constexpr size_t kReceiveBudgetBytes = 1u << 20;  // per poll(), so that one fast peer does not starve the others
constexpr size_t kVectorsMax = 64;
}  // namespace

TcpLink::TcpLink(Fd fd) : fd_(std::move(fd)), staging_(kStagingBytes) {
  rail_ = {"tcp", "", localName(fd_.get()), peerName(fd_.get()), 0};
  const int on = 1;
  ::setsockopt(fd_.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  ::fcntl(fd_.get(), F_SETFL, ::fcntl(fd_.get(), F_GETFL) | O_NONBLOCK);
}

uint64_t TcpLink::retransmits() const {
  tcp_info info{};
  socklen_t bytes = sizeof info;
  return ::getsockopt(fd_.get(), IPPROTO_TCP, TCP_INFO, &info, &bytes) == 0 ? info.tcpi_total_retrans : 0;
}

RemotePage TcpLink::expect(uint32_t grantId, std::byte* page, uint32_t offset, uint32_t pageBytes) {
  expected_.push_back({grantId, page, offset, pageBytes});
  return {};
}

void TcpLink::forget(uint32_t grantId) {
  WALSHIP_ASSERT(rangeLeft_ == 0 || rangeGrant_ != grantId);
  std::erase_if(expected_, [&](const Expected& entry) { return entry.grantId == grantId; });
}

bool TcpLink::ship(Bytes range, uint32_t grantId, const RemotePage&, uint32_t offset) {
  if (rangesQueued_ >= kRangesQueuedMax || out_.size() >= kItemsQueuedMax) return false;
  Outgoing item;
  item.header = {kRange, {}, static_cast<uint32_t>(range.size()), grantId, offset};
  item.range = range;
  out_.push_back(std::move(item));
  ++rangesQueued_;
  ++counters_.shippedRanges;
  counters_.shippedBytes += range.size();
  return true;
}

bool TcpLink::send(Bytes message) {
  WALSHIP_ASSERT(message.size() <= kMessageBytesMax);
  if (out_.size() >= kItemsQueuedMax) return false;
  Outgoing item;
  item.header = {kMessage, {}, static_cast<uint32_t>(message.size()), 0, 0};
  item.message.assign(message.begin(), message.end());
  out_.push_back(std::move(item));
  ++counters_.messagesSent;
  return true;
}

void TcpLink::flush() { pushOut(); }

bool TcpLink::pushOut() {
  bool moved = false;
  while (!out_.empty() && !blocked_ && !down_) {
    iovec vectors[kVectorsMax];
    size_t count = 0;
    for (const Outgoing& item : out_) {
      if (count + 2 > kVectorsMax) break;
      const Bytes body = item.range.empty() ? Bytes(item.message) : item.range;
      const Bytes header = bytesOf(item.header);
      if (item.sent < header.size()) {
        const Bytes rest = header.subspan(item.sent);
        vectors[count++] = {const_cast<std::byte*>(rest.data()), rest.size()};
      }
      const Bytes rest = body.subspan(item.sent < header.size() ? 0 : item.sent - header.size());
      if (!rest.empty()) vectors[count++] = {const_cast<std::byte*>(rest.data()), rest.size()};
    }
    msghdr message{};
    message.msg_iov = vectors;
    message.msg_iovlen = count;
    const ssize_t put = ::sendmsg(fd_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (put < 0) {
      if (errno == EINTR) continue;
      if (errno == EAGAIN) {
        blocked_ = true;
        break;
      }
      fail(errno == EPIPE || errno == ECONNRESET ? "WALSHIP_ERR_LINK_CLOSED" : "WALSHIP_ERR_LINK_BROKEN",
           std::string("sending failed: ") + std::strerror(errno));
      break;
    }
    moved = true;
    ++counters_.doorbells;
    counters_.wireBytesSent += static_cast<uint64_t>(put);
    auto left = static_cast<size_t>(put);
    while (left > 0) {
      Outgoing& item = out_.front();
      const size_t whole = sizeof(TcpWireHeader) + item.header.length;
      const size_t step = std::min(left, whole - item.sent);
      item.sent += step;
      left -= step;
      if (item.sent < whole) break;
      if (item.header.type == kRange) {
        --rangesQueued_;
        ++rangesSent_;
      }
      out_.pop_front();
    }
  }
  return moved;
}

bool TcpLink::poll() {
  bool any = false;
  blocked_ = false;  // an event, or a try that costs one call
  any |= pushOut();
  any |= takeIn();
  if (rangesReported_ < rangesSent_) {
    rangesReported_ = rangesSent_;
    handler_->onShipped(rangesReported_);
    any = true;
  }
  if (down_ && !reported_) {
    reported_ = true;
    handler_->onDown(error_);
    any = true;
  }
  return any;
}

bool TcpLink::arm() { return !(down_ && !reported_) && rangesReported_ == rangesSent_ && (out_.empty() || blocked_); }

bool TcpLink::takeIn() {
  size_t received = 0;
  while (!down_ && received < kReceiveBudgetBytes) {
    // While a range is coming in the staging buffer is empty: the range's bytes land in the page, what follows in it.
    iovec vectors[2];
    size_t count = 0;
    if (rangeLeft_ > 0) vectors[count++] = {rangeTarget_, rangeLeft_};
    // Behind a long range only the next wire header is taken along, so that the next range's bytes are not copied twice.
    const size_t room = staging_.size() - stagingEnd_;
    const size_t wanted = rangeLeft_ >= kLongRangeBytes ? sizeof(TcpWireHeader) : sizeof(TcpWireHeader) + kMessageBytesMax;
    vectors[count++] = {staging_.data() + stagingEnd_, std::min(room, wanted)};
    const size_t direct = rangeLeft_;
    const ssize_t got = ::readv(fd_.get(), vectors, static_cast<int>(count));
    if (got < 0) {
      if (errno == EINTR) continue;
      if (errno != EAGAIN) {
        fail(errno == ECONNRESET ? "WALSHIP_ERR_LINK_CLOSED" : "WALSHIP_ERR_LINK_BROKEN",
             std::string("receiving failed: ") + std::strerror(errno));
      }
      break;
    }
    if (got == 0) {
      fail("WALSHIP_ERR_LINK_CLOSED", "the peer closed the connection");
      break;
    }
    received += static_cast<size_t>(got);
    const size_t intoPage = std::min(direct, static_cast<size_t>(got));
    stagingEnd_ += static_cast<size_t>(got) - intoPage;
    if (intoPage > 0) landed(intoPage);
    if (!down_) parse();
  }
  return received > 0;
}

bool TcpLink::parse() {
  while (!down_) {
    const size_t staged = stagingEnd_ - stagingBegin_;
    if (rangeLeft_ > 0) {
      const size_t step = std::min(staged, rangeLeft_);
      if (step == 0) break;
      std::memcpy(rangeTarget_, staging_.data() + stagingBegin_, step);
      stagingBegin_ += step;
      landed(step);
      continue;
    }
    if (staged < sizeof(TcpWireHeader)) break;
    const auto header = loadAt<TcpWireHeader>(staging_, stagingBegin_);
    if (header.type == kRange) {
      if (!beginRange(header)) return false;
      stagingBegin_ += sizeof header;
    } else if (header.type == kMessage && header.length <= kMessageBytesMax) {
      if (staged < sizeof header + header.length) break;
      const Bytes message = Bytes(staging_).subspan(stagingBegin_ + sizeof header, header.length);
      stagingBegin_ += sizeof header + header.length;
      ++counters_.messagesReceived;
      handler_->onMessage(message);
    } else {
      fail("WALSHIP_ERR_LINK_PROTOCOL", "a wire header of type " + std::to_string(header.type) + " and length " +
                                            std::to_string(header.length));
      return false;
    }
  }
  // Keep what is incomplete at the front, so that there is always room for a whole message.
  if (stagingBegin_ > 0) {
    std::memmove(staging_.data(), staging_.data() + stagingBegin_, stagingEnd_ - stagingBegin_);
    stagingEnd_ -= stagingBegin_;
    stagingBegin_ = 0;
  }
  return true;
}

bool TcpLink::beginRange(const TcpWireHeader& header) {
  const auto entry = std::find_if(expected_.begin(), expected_.end(),
                                  [&](const Expected& each) { return each.grantId == header.grantId; });
  if (entry == expected_.end() || header.offset != entry->offset || header.length == 0 ||
      header.length > entry->pageBytes - entry->offset) {
    fail("WALSHIP_ERR_LINK_PROTOCOL", "a range that no grant allows (grant " + std::to_string(header.grantId) +
                                          ", offset " + std::to_string(header.offset) + ", length " +
                                          std::to_string(header.length) + ")");
    return false;
  }
  rangeGrant_ = header.grantId;
  rangeLength_ = header.length;
  rangeTarget_ = entry->page + entry->offset;
  rangeLeft_ = header.length;
  entry->offset += header.length;
  return true;
}

void TcpLink::landed(size_t bytes) {
  rangeTarget_ += bytes;
  rangeLeft_ -= bytes;
  counters_.landedBytes += bytes;
  if (rangeLeft_ == 0) handler_->onLanded(rangeGrant_, rangeLength_);
}

void TcpLink::fail(const char* code, const std::string& what) {
  if (down_) return;
  down_ = true;
  error_ = makeError(code, what + " (tcp " + rail_.local + " – " + rail_.remote + ")");
}

}  // namespace walship

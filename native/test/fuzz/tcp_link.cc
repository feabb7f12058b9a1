// A hostile peer on an authenticated TCP connection: any bytes, in any pieces. The link may go down; it never writes
// outside of the granted pages.
#include <sys/socket.h>

#include "fabric/tcp/tcp_link.h"

using namespace walship;

namespace {

struct Handler final : LinkHandler {
  bool down = false;
  uint64_t landed = 0;
  void onLanded(uint32_t grantId, uint32_t length) override {
    WALSHIP_ASSERT(grantId >= 1 && grantId <= 2);
    landed += length;
  }
  void onMessage(Bytes message) override { WALSHIP_ASSERT(message.size() <= kMessageBytesMax); }
  void onShipped(uint64_t) override {}
  void onDown(const Error&) override {
    WALSHIP_ASSERT(!down);
    down = true;
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr uint32_t kPage = 256;
  int fds[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds) != 0) return 0;
  Fd peer(fds[1]);
  std::vector<std::byte> pages(3 * kPage);  // the third is nobody's
  Handler handler;
  {
    TcpLink link(Fd{fds[0]});
    link.setHandler(&handler);
    link.expect(1, pages.data(), 64, kPage);
    link.expect(2, pages.data() + kPage, 0, kPage);
    // The first byte of each piece is its length.
    size_t at = 0;
    while (at < size && !handler.down) {
      const size_t length = std::min<size_t>(data[at] + 1u, size - at);
      if (::send(peer.get(), data + at, length, MSG_NOSIGNAL) < 0) break;
      at += length;
      link.poll();
    }
  }
  for (size_t i = 0; i < 64; ++i) WALSHIP_ASSERT(pages[i] == std::byte{0});
  for (size_t i = 2 * kPage; i < pages.size(); ++i) WALSHIP_ASSERT(pages[i] == std::byte{0});
  WALSHIP_ASSERT(handler.landed <= 2 * kPage - 64);
  return 0;
}

#include "fabric/verbs/settings.h"

#include <arpa/inet.h>

#include <algorithm>

namespace walship {
namespace {

constexpr std::array<uint8_t, 12> kMappedPrefix = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

}  // namespace

Result<void> validate(const VerbsSettings& settings) {
  const auto within = [](const char* name, int64_t value, int64_t low, int64_t high) -> Result<void> {
    if (value >= low && value <= high) return {};
    return makeError("WALSHIP_ERR_SETTING_INVALID", std::string("verbs.") + name + " is " +
                                                        std::to_string(value) + ": choose " +
                                                        std::to_string(low) + " to " + std::to_string(high));
  };
  const Result<void> checks[] = {
      within("port", settings.port, 0, 255),
      within("gidIndex", settings.gidIndex, -1, kGidIndexMax),
      within("retryCount", settings.retryCount, 1, 6),
      within("ackTimeoutExponent", settings.ackTimeoutExponent, 8, 20),
      within("rnrRetry", settings.rnrRetry, 0, 6),
      within("queueDepth", settings.queueDepth, 16, 16384),
      within("inlineBytes", settings.inlineBytes, 0, 1024),
      within("serviceLevel", settings.serviceLevel, 0, 7),
      within("trafficClass", settings.trafficClass, 0, 255),
  };
  for (const auto& check : checks) {
    if (!check.ok()) return check;
  }
  if (settings.queueDepth % 4 != 0) {
    return makeError(
        "WALSHIP_ERR_SETTING_INVALID",
        "verbs.queueDepth is " + std::to_string(settings.queueDepth) + ": choose a multiple of 4");
  }
  const uint32_t mtu = settings.pathMtuBytes;
  if (mtu != 0 && (mtu < 256 || mtu > 4096 || !std::has_single_bit(mtu))) {
    return makeError("WALSHIP_ERR_SETTING_INVALID",
                     "verbs.pathMtuBytes is " + std::to_string(mtu) +
                         ": choose 256, 512, 1024, 2048, 4096, or 0 for the port's own");
  }
  for (const std::string& address : settings.addresses) {
    if (gidOfAddress(address)) continue;
    return makeError("WALSHIP_ERR_SETTING_INVALID",
                     "verbs.address \"" + address + "\" is neither an IPv4 nor an IPv6 address");
  }
  return {};
}

std::optional<Gid> gidOfAddress(const std::string& address) {
  Gid gid{};
  if (::inet_pton(AF_INET6, address.c_str(), gid.data()) == 1) return gid;
  std::memcpy(gid.data(), kMappedPrefix.data(), kMappedPrefix.size());
  if (::inet_pton(AF_INET, address.c_str(), gid.data() + kMappedPrefix.size()) == 1) return gid;
  return std::nullopt;
}

std::string textOf(const Gid& gid) {
  char text[INET6_ADDRSTRLEN] = {};
  if (std::memcmp(gid.data(), kMappedPrefix.data(), kMappedPrefix.size()) == 0) {
    ::inet_ntop(AF_INET, gid.data() + kMappedPrefix.size(), text, sizeof text);
  } else {
    ::inet_ntop(AF_INET6, gid.data(), text, sizeof text);
  }
  return text;
}

}  // namespace walship

// How the verbs side of the fabric is chosen and tuned.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace walship {

constexpr int kGidIndexMax = 255;  // the field of an address handle has eight bits

struct VerbsSettings {
  std::string device;   // "mlx5_0"; empty: the first that fits
  int port = 0;         // 0: the first active one
  int gidIndex = -1;    // 0 … 255; -1: found
  std::vector<std::string> addresses;  // IPv4 or IPv6, whose GIDs are wanted: a device for each; empty: every device
  uint32_t pathMtuBytes =
      0;               // 256 … 4096, a power of two; 0: what the port has. The smaller of both ends counts
  int retryCount = 6;  // 1 … 6; 7 means for ever on some devices
  int ackTimeoutExponent = 14;  // 8 … 20: a packet is sent again after 4.096 µs × 2^this
  int rnrRetry = 6;             // 0 … 6; never needed in normal operation, credits see to that
  uint32_t queueDepth = 512;  // 16 … 16384, a multiple of 4: ranges and messages in flight in one direction
  uint32_t inlineBytes = 256;  // 0 … 1024: messages up to this size travel in the work request itself
  int serviceLevel = 0;        // 0 … 7
  int trafficClass = 0;        // 0 … 255: DSCP and ECN bits of the packets
};

using Gid = std::array<std::byte, 16>;

// Every number within its bounds. Error: WALSHIP_ERR_SETTING_INVALID.
Result<void> validate(const VerbsSettings& settings);

// "10.0.0.1" becomes ::ffff:10.0.0.1, as RoCE v2 writes it.
std::optional<Gid> gidOfAddress(const std::string& address);
// The address that a RoCE v2 GID stands for; IPv4 where it is one.
std::string textOf(const Gid& gid);

}  // namespace walship

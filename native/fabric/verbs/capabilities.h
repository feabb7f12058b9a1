// What this host has of RDMA, and the choice of one device, port and GID out of it.
#pragma once

#include <string>
#include <vector>

#include "fabric/verbs/settings.h"

namespace walship {

enum class VerbsState {
  kBuiltWithout,         // the headers were absent when the addon was built
  kLibraryAbsent,        // no libibverbs.so.1
  kSymbolMissing,        // it is too old
  kKernelSupportAbsent,  // the kernel has no user verbs (ib_uverbs)
  kNoDevice,             // no device, or none that can be opened
  kReady,
};

// "built-without", "library-absent", …: as TypeScript knows them.
const char* nameOf(VerbsState state);

struct VerbsGid {
  int index = 0;
  Gid gid{};
  std::string address;  // textOf(gid)
  std::string type;     // "RoCE v2", "IB/RoCE v1"
  std::string netdev;   // empty: none behind it
};

struct VerbsPort {
  int port = 0;
  std::string state;      // "ACTIVE", "DOWN", …
  std::string linkLayer;  // "Ethernet", "InfiniBand"
  std::string speed;      // "100 Gb/sec (4X EDR)"
  uint32_t activeMtuBytes = 0;
  uint32_t maxMtuBytes = 0;
  std::vector<VerbsGid> gids;
};

struct VerbsDevice {
  std::string name;
  std::string problem;  // why it cannot be opened; empty if it can
  std::vector<VerbsPort> ports;
};

struct VerbsCapabilities {
  VerbsState state = VerbsState::kBuiltWithout;
  std::string detail;  // what is missing and what to do about it; empty when ready
  std::vector<VerbsDevice> devices;
};

// Looks at the host anew. Never fails. `library` and `sysfs` differ from the defaults in tests only.
VerbsCapabilities verbsCapabilities(const char* library = nullptr, const std::string& sysfs = "/sys");

// The GIDs of a port that are set.
std::vector<VerbsGid> listGids(const std::string& sysfs, const std::string& device, int port);

struct VerbsChoice {
  std::string device;
  int port = 0;
  VerbsGid gid;
  uint32_t mtuBytes = 0;
};

// Every active port with a RoCE v2 GID on a network device that fits the settings, at least one; with `addresses` one for
// each of them. Of several GIDs of a port: the first IPv4 one, else the first that is not link-local, else the first.
// Error: WALSHIP_ERR_RDMA_UNAVAILABLE, which says what spoke against each device.
Result<std::vector<VerbsChoice>> chooseRails(const VerbsCapabilities& capabilities, const VerbsSettings& settings);

}  // namespace walship

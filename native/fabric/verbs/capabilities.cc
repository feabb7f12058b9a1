#include "fabric/verbs/capabilities.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>

#include <algorithm>
#include <cstdlib>
#include <memory>

#include "base/fd.h"
#include "fabric/verbs/library.h"
#include "fabric/verbs/objects.h"

namespace walship {
namespace {

constexpr const char* kRoceV2 = "RoCE v2";

// The first line of a small file; empty if it cannot be read, as unset entries of the GID tables cannot.
std::string readLine(const std::string& path) {
  const Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  char text[256];
  const ssize_t length = file.valid() ? ::read(file.get(), text, sizeof text) : -1;
  if (length <= 0) return {};
  const std::string line(text, static_cast<size_t>(length));
  return line.substr(0, line.find('\n'));
}

std::vector<std::string> listDirectory(const std::string& path) {
  struct Close {
    void operator()(DIR* directory) const { ::closedir(directory); }
  };
  std::vector<std::string> names;
  const std::unique_ptr<DIR, Close> directory(::opendir(path.c_str()));
  while (directory) {
    const dirent* entry = ::readdir(directory.get());
    if (entry == nullptr) break;
    if (entry->d_name[0] != '.') names.emplace_back(entry->d_name);
  }
  return names;
}

// "4: ACTIVE" → "ACTIVE"
std::string afterColon(const std::string& line) {
  const size_t colon = line.find(": ");
  return colon == std::string::npos ? line : line.substr(colon + 2);
}

bool hasDevice(const std::string& sysfs) {
  const auto names = listDirectory(sysfs + "/class/infiniband_verbs");
  return std::any_of(names.begin(), names.end(),
                     [](const std::string& name) { return name.starts_with("uverbs"); });
}

#if WALSHIP_HAVE_VERBS
VerbsDevice describe(const std::string& sysfs, ibv_device* device) {
  VerbsDevice described;
  described.name = verbs().getDeviceName(device);
  const ContextPtr context(verbs().openDevice(device));
  ibv_device_attr attributes{};
  if (!context || verbs().queryDevice(context.get(), &attributes) != 0) {
    described.problem = std::string("cannot open it: ") + std::strerror(errno);
    return described;
  }
  for (int port = 1; port <= attributes.phys_port_cnt; ++port) {
    VerbsPort found;
    found.port = port;
    ibv_port_attr portAttributes{};
    if (queryPort(context.get(), port, &portAttributes) == 0) {
      found.activeMtuBytes = 128u << portAttributes.active_mtu;
      found.maxMtuBytes = 128u << portAttributes.max_mtu;
    }
    const std::string folder =
        sysfs + "/class/infiniband/" + described.name + "/ports/" + std::to_string(port);
    found.state = afterColon(readLine(folder + "/state"));
    found.linkLayer = readLine(folder + "/link_layer");
    found.speed = readLine(folder + "/rate");
    found.gids = listGids(sysfs, described.name, port);
    described.ports.push_back(std::move(found));
  }
  return described;
}
#endif

int rankOf(const VerbsGid& gid) {
  if (gid.address.find(':') == std::string::npos) return 0;
  return gid.address.starts_with("fe80") ? 2 : 1;
}

}  // namespace

const char* nameOf(VerbsState state) {
  switch (state) {
    case VerbsState::kBuiltWithout: return "built-without";
    case VerbsState::kLibraryAbsent: return "library-absent";
    case VerbsState::kSymbolMissing: return "symbol-missing";
    case VerbsState::kKernelSupportAbsent: return "kernel-support-absent";
    case VerbsState::kNoDevice: return "no-device";
    case VerbsState::kReady: return "ready";
  }
  return "unknown";
}

std::vector<VerbsGid> listGids(const std::string& sysfs, const std::string& device, int port) {
  const std::string folder = sysfs + "/class/infiniband/" + device + "/ports/" + std::to_string(port);
  std::vector<VerbsGid> gids;
  for (const std::string& name : listDirectory(folder + "/gids")) {
    VerbsGid gid;
    gid.index = std::atoi(name.c_str());
    // All eight groups are written out: fe80:0000:0000:0000:0202:c9ff:fe00:0001.
    const std::string text = readLine(folder + "/gids/" + name);
    if (::inet_pton(AF_INET6, text.c_str(), gid.gid.data()) != 1 || gid.gid == Gid{}) continue;
    gid.address = textOf(gid.gid);
    gid.type = readLine(folder + "/gid_attrs/types/" + name);
    gid.netdev = readLine(folder + "/gid_attrs/ndevs/" + name);
    gids.push_back(std::move(gid));
  }
  std::sort(gids.begin(), gids.end(), [](const VerbsGid& a, const VerbsGid& b) { return a.index < b.index; });
  return gids;
}

VerbsCapabilities verbsCapabilities(const char* library, const std::string& sysfs) {
  VerbsCapabilities found;
  const Library other = library != nullptr ? loadLibrary(library) : Library{};
  const Library& used = library != nullptr ? other : verbs();
  switch (used.state) {
    case LibraryState::kBuiltWithout: found.state = VerbsState::kBuiltWithout; break;
    case LibraryState::kAbsent: found.state = VerbsState::kLibraryAbsent; break;
    case LibraryState::kSymbolMissing: found.state = VerbsState::kSymbolMissing; break;
    case LibraryState::kLoaded: found.state = VerbsState::kReady; break;
  }
  found.detail = used.detail;
  if (found.state != VerbsState::kReady) return found;

  // Looked at before libibverbs is: it complains on stderr where it finds nothing.
  if (readLine(sysfs + "/class/infiniband_verbs/abi_version").empty()) {
    found.state = VerbsState::kKernelSupportAbsent;
    found.detail =
        "the kernel has no " + sysfs + "/class/infiniband_verbs: load ib_uverbs (modprobe ib_uverbs)";
    return found;
  }
  found.state = VerbsState::kNoDevice;
  found.detail =
      "the kernel knows no RDMA device: add one (Soft-RoCE: rdma link add rxe0 type rxe netdev eth0)";
  if (!hasDevice(sysfs)) return found;

#if WALSHIP_HAVE_VERBS
  struct FreeList {
    void operator()(ibv_device** list) const { verbs().freeDeviceList(list); }
  };
  int count = 0;
  const std::unique_ptr<ibv_device*, FreeList> list(verbs().getDeviceList(&count));
  if (!list || count == 0) {
    found.detail =
        "libibverbs has no driver for the RDMA devices here: install them (Debian: ibverbs-providers)";
    return found;
  }
  for (int i = 0; i < count; ++i) found.devices.push_back(describe(sysfs, list.get()[i]));
  std::sort(found.devices.begin(), found.devices.end(),
            [](const VerbsDevice& a, const VerbsDevice& b) { return a.name < b.name; });
  found.detail.clear();
  for (const auto& device : found.devices) {
    if (device.problem.empty()) {
      found.state = VerbsState::kReady;
    } else {
      found.detail += (found.detail.empty() ? "" : "; ") + device.name + ": " + device.problem;
    }
  }
#endif
  return found;
}

Result<std::vector<VerbsChoice>> chooseRails(const VerbsCapabilities& capabilities, const VerbsSettings& settings) {
  const auto unavailable = [](const std::string& reason) {
    return makeError("WALSHIP_ERR_RDMA_UNAVAILABLE", "no RDMA device can be used: " + reason);
  };
  if (auto valid = validate(settings); !valid.ok()) return valid.error();
  if (capabilities.state != VerbsState::kReady) return unavailable(capabilities.detail);
  std::vector<std::optional<Gid>> wanted;
  for (const std::string& address : settings.addresses) wanted.push_back(gidOfAddress(address));
  if (wanted.empty()) wanted.push_back(std::nullopt);
  std::vector<VerbsChoice> choices;
  std::string reasons;
  const auto against = [&](const std::string& where, const std::string& what) {
    reasons += (reasons.empty() ? "" : "; ") + where + " " + what;
  };
  for (size_t i = 0; i < wanted.size(); ++i) {
    const size_t before = choices.size();
    for (const VerbsDevice& device : capabilities.devices) {
      if (!settings.device.empty() && device.name != settings.device) continue;
      if (!device.problem.empty()) against(device.name + ":", device.problem);
      for (const VerbsPort& port : device.ports) {
        if (settings.port != 0 && port.port != settings.port) continue;
        const std::string where = device.name + " port " + std::to_string(port.port);
        if (port.state != "ACTIVE") {
          against(where, "is " + port.state);
          continue;
        }
        const VerbsGid* best = nullptr;
        for (const VerbsGid& gid : port.gids) {
          if (gid.type != kRoceV2 || gid.netdev.empty() || gid.index > kGidIndexMax) continue;
          if (settings.gidIndex >= 0 && gid.index != settings.gidIndex) continue;
          if (wanted[i] && gid.gid != *wanted[i]) continue;
          if (best == nullptr || rankOf(gid) < rankOf(*best)) best = &gid;
        }
        if (best != nullptr) {
          const uint32_t mtu = settings.pathMtuBytes;
          choices.push_back({device.name, port.port, *best,
                             mtu == 0 ? port.activeMtuBytes : std::min(mtu, port.activeMtuBytes)});
          continue;
        }
        against(where, std::string("has no RoCE v2 GID with a network device") +
                           (wanted[i] ? " for " + settings.addresses[i] : std::string()) +
                           (settings.gidIndex >= 0 ? " at index " + std::to_string(settings.gidIndex)
                                                   : std::string()));
      }
    }
    // Every address that is named must be there: a rail less is not to go unnoticed.
    if (wanted[i] && choices.size() == before) {
      choices.clear();
      break;
    }
  }
  if (!choices.empty()) return choices;
  if (reasons.empty()) {
    against(settings.device.empty() ? "this host" : settings.device,
            settings.port == 0 ? "is not there" : "has no port " + std::to_string(settings.port));
  }
  return unavailable(reasons);
}

}  // namespace walship

// One RDMA device, port and GID of this host, opened once and shared by all links over it. The arena is
// registered with it once and must outlive it.
#pragma once

#include <memory>
#include <string>

#include "fabric/verbs/capabilities.h"

namespace walship {

class Device {
 public:
  struct Parts;  // the verbs objects; fabric/verbs/parts.h

  // Chooses and opens, at least one. Error: WALSHIP_ERR_RDMA_UNAVAILABLE, WALSHIP_ERR_SETTING_INVALID.
  static Result<std::vector<std::shared_ptr<Device>>> openAll(const VerbsSettings& settings);
  Device(std::unique_ptr<Parts> parts, VerbsChoice choice, VerbsSettings settings);
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  ~Device();

  // Once, before the first link: local ranges are sent from the arena, granted pages lie in it.
  Result<void> registerArena(MutableBytes arena);

  const VerbsChoice& choice() const { return choice_; }
  const VerbsSettings& settings() const { return settings_; }
  std::string name() const;  // "rxe0/1/1": device/port/GID index
  Parts& parts() { return *parts_; }

 private:
  static Result<std::shared_ptr<Device>> open(VerbsChoice choice, const VerbsSettings& settings);

  std::unique_ptr<Parts> parts_;
  VerbsChoice choice_;
  VerbsSettings settings_;
};

}  // namespace walship

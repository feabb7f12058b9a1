#include "log/readers.h"

#include <algorithm>

#include "base/clock.h"
#include "log/files.h"

namespace walship {

namespace {

StateFile fileIn(const std::string& dir) {
  return {dir, "readers", 0x31525357 /* "WSR1" */, 8 + kReadersMax * (24 + kReaderNameBytesMax),
          "remove it, readers register anew when they connect"};
}

}  // namespace

Result<void> ReaderRegistry::load() {
  const StateFile file = fileIn(dir_);
  auto loaded = file.load();
  if (!loaded) return loaded.error();
  std::vector<RegisteredReader> readers;
  if (loaded.value()) {
    FieldReader fields(*loaded.value());
    const auto count = fields.take<uint64_t>();
    if (count > kReadersMax) return file.damaged("it claims " + std::to_string(count) + " readers");
    for (uint64_t index = 0; index < count && !fields.failed(); ++index) {
      RegisteredReader reader;
      reader.lsn = fields.take<uint64_t>();
      reader.lastSeenWallUs = fields.take<uint64_t>();
      const auto length = fields.take<uint64_t>();
      if (length == 0 || length > kReaderNameBytesMax) {
        return file.damaged("a name has " + std::to_string(length) + " bytes");
      }
      const Bytes name = fields.takeBytes(length);
      reader.name.assign(reinterpret_cast<const char*>(name.data()), name.size());
      if (!readers.empty() && reader.name <= readers.back().name) {
        return file.damaged("its names are out of order");
      }
      readers.push_back(std::move(reader));
    }
    if (!fields.complete()) return file.damaged("its length does not match");
  }
  const std::lock_guard lock(mutex_);
  readers_ = std::move(readers);
  return {};
}

Result<void> ReaderRegistry::set(const std::string& name, uint64_t lsn) {
  if (name.empty() || name.size() > kReaderNameBytesMax) {
    return makeError("WALSHIP_ERR_READER_INVALID", "a reader's name has from 1 to " +
                                                       std::to_string(kReaderNameBytesMax) + " bytes, not " +
                                                       std::to_string(name.size()));
  }
  const std::lock_guard lock(mutex_);
  const auto place = std::ranges::lower_bound(readers_, name, {}, &RegisteredReader::name);
  if (place != readers_.end() && place->name == name) {
    place->lsn = lsn;
    place->lastSeenWallUs = wallUs();
    return {};
  }
  if (readers_.size() == kReadersMax) {
    return makeError("WALSHIP_ERR_READER_INVALID",
                     "there are " + std::to_string(kReadersMax) +
                         " registered readers already; remove those that are gone");
  }
  const auto added = readers_.insert(place, {name, lsn, wallUs()});
  auto stored = storeLocked();
  if (!stored) readers_.erase(added);
  return stored;
}

Result<void> ReaderRegistry::remove(const std::string& name) {
  const std::lock_guard lock(mutex_);
  if (std::erase_if(readers_, [&](const RegisteredReader& reader) { return reader.name == name; }) == 0) {
    return {};
  }
  return storeLocked();
}

Result<void> ReaderRegistry::store() const {
  const std::lock_guard lock(mutex_);
  return storeLocked();
}

Result<void> ReaderRegistry::storeLocked() const {
  std::vector<std::byte> payload;
  appendField(payload, uint64_t{readers_.size()});
  for (const RegisteredReader& reader : readers_) {
    appendField(payload, reader.lsn);
    appendField(payload, reader.lastSeenWallUs);
    appendField(payload, uint64_t{reader.name.size()});
    const Bytes name = std::as_bytes(std::span(reader.name));
    payload.insert(payload.end(), name.begin(), name.end());
  }
  return fileIn(dir_).store(payload);
}

std::optional<RegisteredReader> ReaderRegistry::slowest() const {
  const std::lock_guard lock(mutex_);
  const auto slowest = std::ranges::min_element(readers_, {}, &RegisteredReader::lsn);
  if (slowest == readers_.end()) return std::nullopt;
  return *slowest;
}

std::vector<RegisteredReader> ReaderRegistry::list() const {
  const std::lock_guard lock(mutex_);
  return readers_;
}

uint64_t retentionLsn(uint64_t tailLsn, const LogSettings& settings, uint64_t slowestReaderLsn) {
  const auto behindTail = [&](uint64_t bytes) { return tailLsn > bytes ? tailLsn - bytes : 0; };
  const uint64_t needed = std::min(behindTail(settings.retainBytes), slowestReaderLsn);
  return settings.retainBytesMax == 0 ? needed : std::max(needed, behindTail(settings.retainBytesMax));
}

}  // namespace walship

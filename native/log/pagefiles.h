// The pages of a log directory, or of a diverged-… file, for reading offline: files as they are found, gaps
// and all.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "log/mark.h"
#include "log/segment.h"

namespace walship {

class PageFiles {
 public:
  struct File {
    std::string path;
    uint64_t firstPage = 0;
    uint64_t pages = 0;  // whole ones
    uint64_t bytes = 0;
  };

  // Finds the geometry: in the mark, or else in the first page header that can be read.
  static Result<PageFiles> open(const std::string& path);

  bool directory() const { return directory_; }
  const Geometry& geometry() const { return geometry_; }
  const std::optional<Mark>& mark() const { return mark_; }
  bool markDamaged() const { return markDamaged_; }
  const DirectoryListing& listing() const { return listing_; }
  const std::vector<File>& files() const {
    return files_;
  }  // by firstPage; none that an unfinished trim left over
  // The file that holds `page`, or null.
  const File* find(uint64_t page) const;
  uint64_t offsetOf(const File& file, uint64_t page) const {
    return (page - file.firstPage) * geometry_.pageBytes;
  }

  // Errors carry file and offset.
  Result<PageHeader> header(const File& file, uint64_t page);
  Result<PageWalk> walk(const File& file, uint64_t page);
  Bytes bytes() const { return page_; }  // of the page walked last

 private:
  Result<void> findGeometry();
  Result<void> read(const File& file, uint64_t page, MutableBytes into);

  std::string path_;
  bool directory_ = false;
  Geometry geometry_;
  std::optional<Mark> mark_;
  bool markDamaged_ = false;
  DirectoryListing listing_;
  std::vector<File> files_;
  std::vector<std::byte> page_;
  Fd open_;
  std::string openPath_;
};

}  // namespace walship

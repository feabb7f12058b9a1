// Names and places: what stands in a log directory, and which segment file holds a page.
#pragma once

#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.h"
#include "log/log.h"

namespace walship {

// A segment file by its name alone.
struct SegmentFile {
  uint64_t firstPage = 0;
  std::string file;
};

std::string segmentPath(const std::string& dir, uint64_t firstPage);
std::string divergedPath(const std::string& dir, uint64_t epoch,
                         uint64_t lsn);  // one that does not exist yet
std::string sparePath(const std::string& dir, uint64_t number);

struct DirectoryListing {
  std::vector<SegmentFile> segments;  // by firstPage
  std::vector<std::string> diverged;
  std::vector<std::string> strays;  // names nobody knows
  std::vector<std::string> spares;
  std::vector<std::string> unfinished;  // of writes that a crash interrupted: of no use
  uint64_t nextSpare = 0;               // above every spare's number
};

// A directory that does not exist is WALSHIP_ERR_LOG_IO.
Result<DirectoryListing> listDirectory(const std::string& dir);

// Reads and checks the header of `pageNumber`, which begins at `offset` of the open file. Errors carry file
// and offset.
Result<PageHeader> readPageHeader(int fd, const std::string& file, uint64_t offset, const Geometry& geometry,
                                  uint64_t pageNumber);

// Error of a page turned into one of a file: what is wrong, in which file, at which offset there, and what to
// do.
Error corruptAt(const std::string& file, uint64_t pageOffset, const Error& problem);

// The log's segments, in order and without gaps. Changed by the writing thread, read by any.
class SegmentTable {
 public:
  SegmentTable(std::string dir, const Geometry& geometry) : dir_(std::move(dir)), geometry_(geometry) {}

  uint64_t firstPageOf(uint64_t page) const { return page - page % geometry_.segmentPages; }
  std::string pathOf(uint64_t page) const { return segmentPath(dir_, firstPageOf(page)); }
  uint64_t offsetOf(uint64_t page) const { return page % geometry_.segmentPages * geometry_.pageBytes; }

  void add(const SegmentInfo& segment);
  SegmentInfo removeFirst();
  SegmentInfo removeLast();

  std::vector<SegmentInfo> list() const;
  size_t size() const;
  // The last segment whose first LSN is at or below `lsn`; the first one if there is none; nothing in an
  // empty log.
  std::optional<SegmentInfo> holding(uint64_t lsn) const;

 private:
  const std::string dir_;
  const Geometry geometry_;
  mutable std::mutex mutex_;
  std::vector<SegmentInfo> segments_;
};

}  // namespace walship

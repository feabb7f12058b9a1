// Recovery from what a crash can leave: the files as they were at the last sync, plus any part of what was
// written since.
#include <doctest/doctest.h>

#include "log/segment.h"
#include "test/log/support.h"
#include "test/sanitized.h"

namespace walship::test {
namespace {

constexpr size_t kSectorBytes = 512;
constexpr size_t kBlockBytes = 4096;

// Segments and mark of a log directory, as bytes.
struct Image {
  std::map<std::string, std::vector<std::byte>> files;

  static Image of(const std::string& dir) {
    Image image;
    const DirectoryListing listing = listDirectory(dir).take();
    for (const SegmentFile& segment : listing.segments) image.add(segment.file);
    image.add(dir + "/mark");
    return image;
  }
  void put(const std::string& dir) const {
    auto listing = listDirectory(dir).value();
    for (const SegmentFile& segment : listing.segments) {
      if (!files.contains(segment.file)) WALSHIP_ASSERT(removeFile(segment.file).ok());
    }
    for (const std::string& file : listing.spares) WALSHIP_ASSERT(removeFile(file).ok());
    for (const auto& [file, bytes] : files) {
      auto fd = openFile(file, O_WRONLY | O_CREAT);
      WALSHIP_ASSERT(writeAt(fd.value().get(), bytes, 0, file).ok());
    }
  }

 private:
  void add(const std::string& file) { files[file] = readFile(file); }
};

// A writer that was cut off: what was on disk at its last sync, what it had written by then, and all its
// boundaries.
struct Crash {
  Image synced;
  Image written;
  LogPosition flushed;                  // reported
  std::vector<LogPosition> boundaries;  // from the first frame kept on
  uint64_t firstLsn = 0;
};

// `recycle`: the segments are trimmed files, full of old frames.
Crash crash(const std::string& dir, uint32_t seed, bool recycle, uint64_t unsyncedBytes, uint64_t frameMax) {
  std::mt19937 random(seed);
  RecoveryReport report;
  auto log = Log::open(smallSettings(dir, recycle ? 1 : 0), &report);
  REQUIRE(log.ok());
  Writer writer(*log.value(), report.tail);
  Crash crash;
  const auto append = [&] {
    REQUIRE(writer.append(1 + random() % frameMax).ok());
    crash.boundaries.push_back(writer.tail());
  };
  const uint64_t begin = (recycle ? 1'200'000 : 0) + random() % 300'000;
  while (writer.tail().lsn < begin) {
    append();
    if (random() % 4 == 0) {
      REQUIRE(writer.commit().ok());
      if (recycle) REQUIRE(log.value()->trimBelow(writer.tail().lsn).ok());
    }
  }
  REQUIRE(writer.commit().ok());
  // Only the last segment: the images stay small.
  REQUIRE(log.value()->trimBelow(writer.tail().lsn).ok());
  crash.flushed = writer.tail();
  crash.synced = Image::of(dir);
  crash.firstLsn = log.value()->firstLsn();
  const uint64_t end = writer.tail().lsn + unsyncedBytes;
  while (writer.tail().lsn < end) {
    append();
    if (random() % 2 == 0) REQUIRE(writer.flush().ok());
  }
  REQUIRE(writer.flush().ok());
  crash.written = Image::of(dir);
  // A segment that came since was a file of zeros or of old frames before; what matters is that it is not the
  // new content.
  for (const auto& [file, bytes] : crash.written.files) {
    if (crash.synced.files.contains(file)) continue;
    auto& before = crash.synced.files[file] = bytes;
    for (std::byte& byte : before) byte = recycle ? ~byte : std::byte{0};
  }
  return crash;
}

bool isBoundary(const Crash& crash, const LogPosition& tail) {
  return std::ranges::any_of(crash.boundaries, [&](const LogPosition& each) {
    return each.lsn == tail.lsn && each.headerChecksum == tail.headerChecksum;
  });
}

// The log opens, holds all that was reported flushed and nothing that was not appended; then it goes on: new
// frames overwrite the lost ones, and after another crash exactly they are there. Gives back the recovered
// tail.
LogPosition recoverAndCheck(const std::string& dir, const Crash& crash, bool goOn) {
  RecoveryReport report;
  auto log = Log::open(smallSettings(dir), &report);
  INFO((log.ok() ? std::string() : log.error().message));
  REQUIRE(log.ok());
  CHECK(report.tail.lsn >= crash.flushed.lsn);
  // An append that was split over pages may be there in part: then its boundary is a page's end.
  CHECK((isBoundary(crash, report.tail) || report.tail.offset > kPageBytesMin - 80));
  CHECK(log.value()->firstLsn() == crash.firstLsn);
  if (!goOn) return report.tail;
  const LogPosition tail = report.tail;
  CHECK(holdsOnlyWhatWasAppended(*log.value(), tail));
  Writer writer(*log.value(), tail, 2);
  REQUIRE(writer.append(20).ok());
  REQUIRE(writer.commit().ok());
  log.value().reset();
  log = Log::open(smallSettings(dir), &report);
  REQUIRE(log.ok());
  CHECK(report.tail == writer.tail());
  CHECK(report.discardedBytes == 0);
  CHECK(holdsOnlyWhatWasAppended(*log.value(), report.tail));
  return tail;
}

TEST_CASE(
    "the files cut at every byte behind the last sync: exactly the whole frames before the cut are "
    "recovered") {
  int cases = 0;
  for (const bool recycle : {false, true}) {
    const ScratchDirectory dir;
    const Crash crashed = crash(dir.path(), recycle ? 11 : 12, recycle, 700, 150);
    const std::string file = segmentPath(dir.path(), crashed.flushed.page / 4 * 4);
    REQUIRE(crashed.written.files.size() == 2);
    const uint64_t pageStart = crashed.flushed.page % 4 * kPageBytesMin;
    const LogPosition last = crashed.boundaries.back();
    const uint64_t end = last.page % 4 * kPageBytesMin + last.offset;
    for (const int behind : {0, 1, 2}) {
      std::mt19937 random(5);
      for (uint64_t cut = pageStart + crashed.flushed.offset; cut <= end; cut += kEveryNthCase) {
        Image image = crashed.written;
        auto& bytes = image.files[file];
        const auto& before = crashed.synced.files.at(file);
        for (uint64_t at = cut; at < end; ++at) {
          bytes[at] = behind == 0   ? before[at]
                      : behind == 1 ? std::byte{0}
                                    : static_cast<std::byte>(random());
        }
        image.put(dir.path());
        const LogPosition tail = recoverAndCheck(dir.path(), crashed, cut % 8 == 0);
        LogPosition expected = crashed.flushed;
        for (const LogPosition& boundary : crashed.boundaries) {
          if (boundary.lsn > crashed.flushed.lsn &&
              boundary.page % 4 * kPageBytesMin + boundary.offset <= cut) {
            expected = boundary;
          }
        }
        // Padding is zero, and so may what stands behind the cut be: then the frame is whole all the same.
        CHECK(tail.lsn >= expected.lsn);
        if (tail.lsn > expected.lsn) {
          CHECK(tail.page % 4 * kPageBytesMin + tail.offset - cut < kFrameAlignment);
        }
        ++cases;
      }
    }
  }
  MESSAGE(cases << " cuts");
  CHECK(cases > 4'000 / kEveryNthCase);
}

TEST_CASE("the files cut at every byte of the last flushed frames: an error that names file and offset") {
  const ScratchDirectory dir;
  const Crash crashed = crash(dir.path(), 21, false, 300, 150);
  const std::string file = segmentPath(dir.path(), crashed.flushed.page / 4 * 4);
  const uint64_t end = crashed.flushed.page % 4 * kPageBytesMin + crashed.flushed.offset;
  int cases = 0;
  int refused = 0;
  for (uint64_t cut = end - 700; cut < end; ++cut, ++cases) {
    Image image = crashed.written;
    auto& bytes = image.files[file];
    std::fill(bytes.begin() + static_cast<std::ptrdiff_t>(cut), bytes.end(), std::byte{0});
    image.put(dir.path());
    RecoveryReport report;
    auto log = Log::open(smallSettings(dir.path()), &report);
    if (log) {
      // Only zeros of padding were cut.
      CHECK(report.tail.lsn == crashed.flushed.lsn);
      CHECK(end - cut < kFrameAlignment);
      continue;
    }
    ++refused;
    CHECK(log.error().is("WALSHIP_ERR_LOG_CORRUPT"));
    CHECK(log.error().file == file);
    CHECK(log.error().offset < static_cast<int64_t>(cut + kFrameAlignment));
    CHECK(log.error().offset > static_cast<int64_t>(cut) - 300);
    CHECK(log.error().message.find("walship log verify") != std::string::npos);
  }
  CHECK(refused >= cases - static_cast<int>(kFrameAlignment));
}

TEST_CASE("any part of what was written since the last sync may be lost, in any order") {
  int cases = 0;
  int ended[3] = {0, 0, 0};  // at what was flushed; in between; with all that was written
  for (uint32_t seed = 1; seed <= 66; seed += kEveryNthCase) {
    const bool recycle = seed % 2 == 0;
    const ScratchDirectory dir;
    // A third of them with many small frames, a third over some pages, a third over the end of a segment.
    const uint64_t unsynced = seed % 3 == 0 ? 3'000 : seed % 3 == 1 ? 100'000 : 400'000;
    const Crash crashed = crash(dir.path(), seed, recycle, unsynced, seed % 3 == 0 ? 300 : 30'000);
    std::mt19937 random(seed);
    for (int count = 0; count < 100; ++count, ++cases) {
      Image image = crashed.written;
      const int way = count % 5;
      for (auto& [file, bytes] : image.files) {
        const auto& before = crashed.synced.files.at(file);
        const size_t unit = way == 1 ? kBlockBytes : kSectorBytes;
        std::vector<size_t> differing;
        for (size_t at = 0; at < bytes.size(); at += unit) {
          const size_t size = std::min(unit, bytes.size() - at);
          if (std::memcmp(bytes.data() + at, before.data() + at, size) != 0) differing.push_back(at);
        }
        if (differing.empty()) continue;
        const size_t chosen = differing[random() % differing.size()];
        for (const size_t at : differing) {
          const size_t size = std::min(unit, bytes.size() - at);
          bool lost = false;
          switch (way) {
            case 0:  // any sector
            case 1:  // any block
              lost = random() % 2 == 0;
              break;
            case 2:  // all behind one sector, and that one torn
              lost = at >= chosen;
              break;
            case 3:  // one sector
              lost = at == chosen;
              break;
            default:  // all but one sector
              lost = at != chosen;
          }
          if (!lost) continue;
          const size_t kept = way == 2 && at == chosen ? random() % size : 0;
          std::memcpy(bytes.data() + at + kept, before.data() + at + kept, size - kept);
        }
      }
      image.put(dir.path());
      const LogPosition tail = recoverAndCheck(dir.path(), crashed, count % 10 == 0);
      ++ended[tail.lsn == crashed.flushed.lsn ? 0 : tail.lsn == crashed.boundaries.back().lsn ? 2 : 1];
    }
  }
  MESSAGE(cases << " crashes; " << ended[0] << " ended where the last sync did, " << ended[1]
                << " in between, " << ended[2] << " with everything");
  CHECK(cases >= 6'600 / kEveryNthCase);
  CHECK(ended[0] > 500 / kEveryNthCase);
  CHECK(ended[1] > 500 / kEveryNthCase);
}

TEST_CASE("what recovery discards is counted") {
  const ScratchDirectory dir;
  const Crash crashed = crash(dir.path(), 31, false, 5'000, 400);
  const std::string file = segmentPath(dir.path(), crashed.flushed.page / 4 * 4);
  const LogPosition last = crashed.boundaries.back();
  REQUIRE(last.page == crashed.flushed.page);
  Image image = crashed.written;
  // The first frame since the sync is torn, those behind it are whole.
  image.files[file][crashed.flushed.page % 4 * kPageBytesMin + crashed.flushed.offset + kFrameHeaderBytes] ^=
      std::byte{1};
  image.put(dir.path());
  RecoveryReport report;
  auto log = Log::open(smallSettings(dir.path()), &report);
  REQUIRE(log.ok());
  CHECK(report.tail == crashed.flushed);
  CHECK(report.discardedBytes == last.offset - crashed.flushed.offset);
  CHECK(report.note.find(std::to_string(report.discardedBytes)) != std::string::npos);
}

}  // namespace
}  // namespace walship::test

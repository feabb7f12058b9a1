#include <doctest/doctest.h>

#include <random>

#include "databases/sqlite/record.h"

namespace walship::test {
namespace {

std::vector<std::byte> imageOf(uint32_t pageBytes, uint32_t seed) {
  std::vector<std::byte> image(pageBytes);
  for (size_t i = 0; i < image.size(); ++i) image[i] = static_cast<std::byte>(seed * 31 + i * 7);
  return image;
}

std::vector<std::byte> copyOf(Bytes bytes) { return {bytes.begin(), bytes.end()}; }

const WalPlace kPlace{{11, 12}, 13, {14, 15}};

}  // namespace

TEST_CASE("a record gives back what was put in, for every page size") {
  for (uint32_t pageBytes = 512; pageBytes <= 65536; pageBytes *= 2) {
    PageRecordWriter writer;
    writer.begin(PageRecordType::transaction, pageBytes);
    writer.add(7, imageOf(pageBytes, 1));
    writer.add(3, imageOf(pageBytes, 2));
    writer.add(7, imageOf(pageBytes, 3));  // replaces
    const auto bytes = copyOf(writer.finish(true, 9, kPlace, 1234));
    auto record = parsePageRecord(bytes);
    REQUIRE(record);
    const PageRecordHeader& header = record.value().header();
    CHECK(header.first());
    CHECK(header.last());
    CHECK(header.type == PageRecordType::transaction);
    CHECK(header.pageBytes == pageBytes);
    CHECK(header.databasePages == 9);
    CHECK(header.commitUs == 1234);
    CHECK(header.place == kPlace);
    REQUIRE(header.pageCount == 2);
    CHECK(record.value().page(0) == 7);
    CHECK(record.value().page(1) == 3);
    CHECK(copyOf(record.value().image(0)) == imageOf(pageBytes, 3));
    CHECK(copyOf(record.value().image(1)) == imageOf(pageBytes, 2));
  }
}

TEST_CASE("a large transaction is records in a row, the last of which commits") {
  PageRecordWriter writer;
  writer.begin(PageRecordType::snapshot, 65536);
  std::vector<PageRecordHeader> headers;
  for (uint32_t page = 1; page <= 40; ++page) {
    writer.add(page, imageOf(65536, page));
    if (!writer.full() && page < 40) continue;
    auto record = parsePageRecord(copyOf(writer.finish(page == 40, 40, kPlace, 1)));
    REQUIRE(record);
    CHECK(record.value().header().recordBytes <= kPageRecordBytesAim);
    headers.push_back(record.value().header());
  }
  REQUIRE(headers.size() == 3);
  for (uint32_t part = 0; part < 3; ++part) {
    CHECK(headers[part].part == part);
    CHECK(headers[part].first() == (part == 0));
    CHECK(headers[part].last() == (part == 2));
    CHECK(headers[part].databasePages == 40);
  }
}

TEST_CASE("a record of a copy says how large the database is, changes nothing, and is made again if it is not appended") {
  PageRecordWriter writer;
  writer.begin(PageRecordType::copy, 512, true);
  for (uint32_t part = 0; part < 3; ++part) {
    const bool last = part == 2;
    if (!last) writer.add(part + 1, imageOf(512, part));
    static_cast<void>(writer.finish(last, 2, kPlace, 1));
    writer.takeBack();
    if (!last) writer.add(part + 1, imageOf(512, part));
    auto record = parsePageRecord(copyOf(writer.finish(last, 2, kPlace, 1)));
    REQUIRE(record);
    const PageRecordHeader& header = record.value().header();
    CHECK(header.copy());
    CHECK(header.noChange());
    CHECK(header.state());
    CHECK(header.part == part);
    CHECK(header.databasePages == 2);
    CHECK(header.last() == last);
    CHECK(header.pageCount == (last ? 0 : 1));
  }
}

TEST_CASE("a record with any bit changed, or cut short and filled up, is none") {
  PageRecordWriter writer;
  writer.begin(PageRecordType::transaction, 512);
  writer.add(2, imageOf(512, 5));
  const auto good = copyOf(writer.finish(true, 2, kPlace, 1));
  for (size_t bit = 0; bit < good.size() * 8; ++bit) {
    auto bad = good;
    bad[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
    auto record = parsePageRecord(bad);
    REQUIRE_FALSE(record);
    CHECK(record.error().is("WALSHIP_ERR_SQLITE_RECORD"));
  }
  for (size_t kept = 0; kept < good.size(); ++kept) {
    auto bad = good;
    std::fill(bad.begin() + static_cast<ptrdiff_t>(kept), bad.end(), std::byte{0});
    if (bad != good) CHECK_FALSE(parsePageRecord(bad));
    CHECK_FALSE(parsePageRecord(Bytes(good).first(kept)));
  }
}

}  // namespace walship::test

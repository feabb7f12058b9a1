// Whatever a client, a server or a WAL page says, taking it apart ends in a value or an error; what was taken apart and is
// put together again is the same. The first byte chooses the parser.
#include "databases/postgres/command.h"
#include "databases/postgres/history.h"
#include "databases/postgres/protocol.h"
#include "databases/postgres/scram.h"
#include "databases/postgres/stream.h"
#include "databases/postgres/wal_records.h"

using namespace walship;
using namespace walship::postgres;

namespace {

void sameAgain(const Buffer& again, Bytes bytes) {
  WALSHIP_ASSERT(again.size() == bytes.size() && std::memcmp(again.data(), bytes.data(), bytes.size()) == 0);
}

void stream(Bytes bytes) {
  if (const auto message = parseServerMessage(bytes)) {
    Buffer again;
    if (const auto* data = std::get_if<WalData>(&message.value())) {
      encodeHeader(again, *data);
      put(again, data->bytes);
      sameAgain(again, bytes);
    } else {
      encode(again, std::get<KeepAlive>(message.value()));
      WALSHIP_ASSERT(again.size() == bytes.size());
    }
  }
  if (const auto message = parseStandbyMessage(bytes)) {
    Buffer again;
    std::visit([&](const auto& each) { encode(again, each); }, message.value());
    WALSHIP_ASSERT(again.size() == bytes.size());
  }
}

// What a client says before it has proved anything. The first byte says how it is cut.
void scram(std::string_view text) {
  if (text.empty()) return;
  const size_t cut = std::min<size_t>(static_cast<unsigned char>(text[0]), text.size());
  if (const auto verifier = parseVerifier(text)) WALSHIP_ASSERT(verifier.value().iterations > 0);
  if (const auto bytes = base64Bytes(text)) WALSHIP_ASSERT(base64(*bytes) == text);
  for (const char* mechanism : {"SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"}) {
    ScramServer server(mockVerifier("user", {}), true, "nonce", "end point");
    if (server.begin(mechanism, text.substr(1, cut))) {
      // Nothing proves the mock verifier.
      WALSHIP_ASSERT(!server.finish(text.substr(cut)));
      WALSHIP_ASSERT(!server.finish("c=biws,r=" + std::string(text.substr(cut))));
    }
  }
}

// However an answer is cut, it ends at the same place.
void answer(Bytes bytes) {
  AnswerBounds whole;
  AnswerBounds parts;
  const auto taken = whole.take(bytes);
  size_t passed = 0;
  while (passed < bytes.size() && !parts.complete()) {
    const auto step = parts.take(bytes.subspan(passed, 1));
    WALSHIP_ASSERT(step.ok() || !taken.ok());
    if (!step) return;
    passed += step.value();
  }
  WALSHIP_ASSERT(taken.ok() && passed == taken.value());
  WALSHIP_ASSERT(whole.complete() == parts.complete() && whole.betweenMessages() == parts.betweenMessages());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const Bytes bytes(reinterpret_cast<const std::byte*>(data + 1), size - 1);
  const std::string_view text(reinterpret_cast<const char*>(data + 1), size - 1);
  switch (data[0] % 9) {
    case 0: stream(bytes); break;
    case 1: {
      const auto command = parseCommand(text);
      if (const auto* start = command ? std::get_if<StartReplication>(&command.value()) : nullptr) {
        WALSHIP_ASSERT(parseLsn(formatLsn(start->lsn)) == start->lsn);
      }
      break;
    }
    case 2:
      if (const auto startup = parseStartup(bytes)) static_cast<void>(startup.value().physicalReplication());
      break;
    case 3:
      static_cast<void>(startupLength(bytes));
      static_cast<void>(parseMessageHeader(bytes));
      static_cast<void>(parseSaslInitial(bytes));
      break;
    case 4:
      if (const auto ends = parseHistory(text); ends && ends.value().size() > 1) {
        WALSHIP_ASSERT(ends.value()[0].timeline < ends.value()[1].timeline);
      }
      break;
    case 5: {
      // Cut differently, the records end at the same places.
      WalRecords whole(0x1000000, 1u << 20);
      WalRecords parts(0x1000000, 1u << 20);
      for (Bytes rest = bytes; !rest.empty();) {
        const auto piece = whole.next(rest);
        WALSHIP_ASSERT(piece.bytes > 0 && piece.bytes <= rest.size());
        for (Bytes half : {rest.first(piece.bytes / 2), rest.subspan(piece.bytes / 2, piece.bytes - piece.bytes / 2)}) {
          while (!half.empty()) half = half.subspan(parts.next(half).bytes);
        }
        WALSHIP_ASSERT(whole.lsn() == parts.lsn());
        rest = rest.subspan(piece.bytes);
      }
      break;
    }
    case 6: scram(text); break;
    case 7: answer(bytes); break;
    default:
      static_cast<void>(parseSegmentStart(bytes, 0x1000000));
      static_cast<void>(parseWalPageHeader(bytes, 0x1000000));
      static_cast<void>(timelineInRecord(bytes));
  }
  return 0;
}

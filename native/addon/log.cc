#include "addon/log.h"

#include <poll.h>

#include <atomic>

#include "addon/convert.h"
#include "log/offline.h"

namespace walship::addon {

namespace {

double plain(uint64_t value) { return static_cast<double>(value); }

template <class T, class Convert>
Napi::Array arrayOf(Napi::Env env, const std::vector<T>& from, const Convert& convert) {
  Napi::Array out = Napi::Array::New(env, from.size());
  for (uint32_t i = 0; i < from.size(); ++i) out.Set(i, convert(from[i]));
  return out;
}

Napi::Array textsOf(Napi::Env env, const std::vector<std::string>& from) {
  return arrayOf(env, from, [env](const std::string& text) { return Napi::String::New(env, text); });
}

Napi::Array problemsOf(Napi::Env env, const std::vector<Error>& problems) {
  return arrayOf(env, problems, [env](const Error& problem) {
    Napi::Object out = Napi::Object::New(env);
    out.Set("code", problem.code);
    out.Set("message", problem.message);
    if (!problem.file.empty()) out.Set("file", problem.file);
    if (problem.offset >= 0) out.Set("offset", static_cast<double>(problem.offset));
    return out;
  });
}

Napi::Object positionOf(Napi::Env env, const LogPosition& position) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("lsn", toJs(env, position.lsn));
  out.Set("epoch", toJs(env, position.epoch));
  out.Set("page", plain(position.page));
  out.Set("offset", position.offset);
  return out;
}

void setGeometry(Napi::Env env, Napi::Object out, const Geometry& geometry) {
  out.Set("pageBytes", geometry.pageBytes);
  out.Set("segmentBytes", plain(geometry.segmentBytes()));
  out.Set("clusterTag", toJs(env, geometry.clusterTag));
}

Napi::Object summaryToJs(Napi::Env env, const LogSummary& summary) {
  Napi::Object out = Napi::Object::New(env);
  setGeometry(env, out, summary.geometry);
  out.Set("firstLsn", toJs(env, summary.firstLsn));
  out.Set("firstPage", plain(summary.firstPage));
  out.Set("tail", positionOf(env, summary.tail));
  if (summary.mark) out.Set("durable", positionOf(env, *summary.mark));
  out.Set("segments", arrayOf(env, summary.segments, [env](const SegmentInfo& segment) {
            Napi::Object entry = Napi::Object::New(env);
            entry.Set("file", segment.file);
            entry.Set("firstPage", plain(segment.firstPage));
            entry.Set("firstLsn", toJs(env, segment.firstLsn));
            return entry;
          }));
  out.Set("bytesOnDisk", plain(summary.bytesOnDisk));
  out.Set("discardableBytes", plain(summary.discardableBytes));
  out.Set("inUse", summary.inUse);
  out.Set("closedCleanly", summary.closedCleanly);
  out.Set("epochs", arrayOf(env, summary.record.history, [env](const EpochStart& start) {
            Napi::Object entry = Napi::Object::New(env);
            entry.Set("epoch", toJs(env, start.epoch));
            entry.Set("firstLsn", toJs(env, start.firstLsn));
            return entry;
          }));
  out.Set("promisedEpoch", toJs(env, summary.record.promisedEpoch));
  out.Set("protectedLsn", toJs(env, summary.record.protectedLsn));
  out.Set("readers", arrayOf(env, summary.readers,
                             [env](const RegisteredReader& reader) { return toJs(env, reader); }));
  out.Set("spares", textsOf(env, summary.spares));
  out.Set("diverged", textsOf(env, summary.diverged));
  out.Set("strays", textsOf(env, summary.strays));
  out.Set("note", summary.note);
  out.Set("problems", problemsOf(env, summary.problems));
  return out;
}

Napi::Object verificationToJs(Napi::Env env, const LogVerification& verification) {
  Napi::Object out = Napi::Object::New(env);
  setGeometry(env, out, verification.geometry);
  out.Set("pages", plain(verification.pages));
  out.Set("frames", plain(verification.frames));
  out.Set("payloadBytes", plain(verification.payloadBytes));
  out.Set("firstLsn", toJs(env, verification.firstLsn));
  out.Set("tail", positionOf(env, verification.tail));
  out.Set("problems", problemsOf(env, verification.problems));
  out.Set("problemsLeftOut", plain(verification.problemsLeftOut));
  out.Set("stopped", verification.stopped);
  return out;
}

// Gathers small payloads into large writes to a descriptor of the caller's, which may be a pipe that does not block.
class Output {
 public:
  explicit Output(int fd) : fd_(fd) { buffer_.reserve(kBufferBytes); }

  uint64_t written() const { return written_; }

  Result<void> add(Bytes payload) {
    if (buffer_.size() + payload.size() > kBufferBytes) {
      if (auto done = flush(); !done) return done;
    }
    if (payload.size() >= kBufferBytes) return write(payload);
    buffer_.insert(buffer_.end(), payload.begin(), payload.end());
    return {};
  }

  Result<void> flush() {
    auto done = write(buffer_);
    buffer_.clear();
    return done;
  }

 private:
  static constexpr size_t kBufferBytes = size_t{256} << 10;

  Result<void> write(Bytes bytes) {
    while (!bytes.empty()) {
      const ssize_t count = ::write(fd_, bytes.data(), bytes.size());
      if (count >= 0) {
        written_ += static_cast<uint64_t>(count);
        bytes = bytes.subspan(static_cast<size_t>(count));
      } else if (errno == EAGAIN) {
        pollfd ready{fd_, POLLOUT, 0};
        ::poll(&ready, 1, -1);
      } else if (errno != EINTR) {
        const int number = errno;
        return systemError(number == EPIPE ? "WALSHIP_ERR_OUTPUT_CLOSED" : "WALSHIP_ERR_OUTPUT",
                           "cannot write the export after " + std::to_string(written_) + " bytes", number);
      }
    }
    return {};
  }

  const int fd_;
  std::vector<std::byte> buffer_;
  uint64_t written_ = 0;
};

std::string pathFrom(const Napi::CallbackInfo& info) { return info[0].ToString().Utf8Value(); }

}  // namespace

Napi::Value inspectLog(const Napi::CallbackInfo& info) {
  return Task<LogSummary>::run(
      info.Env(), [path = pathFrom(info)] { return walship::inspectLog(path); },
      [](Napi::Env env, LogSummary& summary) -> Napi::Value { return summaryToJs(env, summary); },
      Napi::Object::New(info.Env()));
}

Napi::Value verifyLog(const Napi::CallbackInfo& info) {
  // The task keeps the array, and with it this memory, alive until it is done.
  auto progress = info[1].As<Napi::BigUint64Array>();
  uint64_t* const cells = progress.Data();
  return Task<LogVerification>::run(
      info.Env(),
      [path = pathFrom(info), cells] {
        return walship::verifyLog(path, [cells](uint64_t doneBytes, uint64_t totalBytes) {
          std::atomic_ref(cells[0]).store(doneBytes, std::memory_order_relaxed);
          std::atomic_ref(cells[1]).store(totalBytes, std::memory_order_relaxed);
          return std::atomic_ref(cells[2]).load(std::memory_order_relaxed) == 0;
        });
      },
      [](Napi::Env env, LogVerification& verification) -> Napi::Value { return verificationToJs(env, verification); }, progress);
}

Napi::Value exportLog(const Napi::CallbackInfo& info) {
  return Task<uint64_t>::run(
      info.Env(),
      [path = pathFrom(info), from = toU64(info[1]), to = toU64(info[2]),
       fd = info[3].ToNumber().Int32Value()]() -> Result<uint64_t> {
        Output output(fd);
        auto exported = walship::exportLog(path, from, to, [&output](Bytes payload) { return output.add(payload); });
        // What lies before a damaged place is given out too.
        auto flushed = output.flush();
        if (!exported) return exported.error();
        if (!flushed) return flushed.error();
        return output.written();
      },
      [](Napi::Env env, uint64_t& bytes) -> Napi::Value { return toJs(env, bytes); },
      Napi::Object::New(info.Env()));
}

}  // namespace walship::addon

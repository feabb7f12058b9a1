// Copies of pages, for src/consistency: everything here reads or writes whole pages on a thread of libuv's pool.
#include "addon/pages.h"

#include "addon/convert.h"
#include "base/checksum.h"
#include "replication/copies.h"

namespace walship::addon {

namespace {

const char* nameOf(CopyState state) {
  switch (state) {
    case CopyState::good: return "good";
    case CopyState::damaged: return "damaged";
    case CopyState::stale: return "stale";
    case CopyState::absent: break;
  }
  return "absent";
}

Napi::Object toJs(Napi::Env env, const PageCopy& copy) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("state", nameOf(copy.state));
  out.Set("sum", addon::toJs(env, copy.sum));
  out.Set("firstLsn", addon::toJs(env, copy.firstLsn));
  out.Set("parent", addon::toJs(env, copy.parent));
  out.Set("endLsn", addon::toJs(env, copy.endLsn));
  out.Set("endChecksum", addon::toJs(env, copy.endChecksum));
  return out;
}

Napi::Value toJs(Napi::Env env, const Buffer& bytes) {
  return Napi::Buffer<uint8_t>::Copy(env, reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
}

uint64_t pageFrom(const Napi::Value& value) { return static_cast<uint64_t>(value.ToNumber().Int64Value()); }

Buffer bytesFrom(const Napi::Value& value) {
  const auto from = value.As<Napi::Buffer<uint8_t>>();
  Buffer bytes;
  put(bytes, std::as_bytes(std::span(from.Data(), from.Length())));
  return bytes;
}

std::shared_ptr<Core> coreOf(const Napi::CallbackInfo& info) {
  return NativeEngine::Unwrap(info[0].As<Napi::Object>())->core();
}

// Runs `work` with the engine kept open, and gives what `finish` makes of its outcome.
template <class T, class Finish>
Napi::Value task(const Napi::CallbackInfo& info, std::function<Result<T>(Engine&)> work, Finish&& finish) {
  return Task<T>::run(info.Env(), coreOf(info)->guarded<T>(std::move(work)), std::forward<Finish>(finish),
                      info[0].As<Napi::Object>());
}

Napi::Value nothing(Napi::Env env, bool&) { return env.Undefined(); }
Napi::Value bytesToJs(Napi::Env env, Buffer& bytes) { return toJs(env, bytes); }

Napi::Value complete(const Napi::CallbackInfo& info) {
  struct Found {
    PageRange range;
    uint32_t pageBytes;
  };
  return task<Found>(
      info,
      [](Engine& engine) -> Result<Found> {
        return Found{completePages(engine.store()), engine.store().geometry().pageBytes};
      },
      [](Napi::Env env, Found& found) -> Napi::Value {
        const PageRange& range = found.range;
        Napi::Object out = Napi::Object::New(env);
        out.Set("pageBytes", found.pageBytes);
        out.Set("first", static_cast<double>(range.first));
        out.Set("end", static_cast<double>(range.end));
        return out;
      });
}

Napi::Value copies(const Napi::CallbackInfo& info) {
  using Copies = std::vector<PageCopies>;
  return task<Copies>(
      info,
      [first = pageFrom(info[1]), count = info[2].ToNumber().Uint32Value()](Engine& engine) {
        return engine.inspector().copies(first, count);
      },
      [](Napi::Env env, Copies& found) -> Napi::Value {
        Napi::Array out = Napi::Array::New(env, found.size());
        for (uint32_t i = 0; i < found.size(); ++i) {
          Napi::Object entry = Napi::Object::New(env);
          entry.Set("disk", toJs(env, found[i].disk));
          entry.Set("memory", toJs(env, found[i].memory));
          out.Set(i, entry);
        }
        return out;
      });
}

Napi::Value copiesAt(const Napi::CallbackInfo& info) {
  using Copies = std::vector<PageCopy>;
  return task<Copies>(
      info,
      [node = info[1].ToString().Utf8Value(), first = pageFrom(info[2]), count = info[3].ToNumber().Uint32Value()](
          Engine& engine) { return engine.copiesAt(node, first, count); },
      [](Napi::Env env, Copies& found) -> Napi::Value {
        Napi::Array out = Napi::Array::New(env, found.size());
        for (uint32_t i = 0; i < found.size(); ++i) out.Set(i, toJs(env, found[i]));
        return out;
      });
}

Napi::Value bytesAt(const Napi::CallbackInfo& info) {
  return task<Buffer>(
      info,
      [node = info[1].ToString().Utf8Value(), page = pageFrom(info[2])](Engine& engine) { return engine.pageAt(node, page); },
      bytesToJs);
}

Napi::Value bytesOnDisk(const Napi::CallbackInfo& info) {
  return task<Buffer>(
      info,
      [page = pageFrom(info[1])](Engine& engine) -> Result<Buffer> {
        Buffer bytes(engine.store().geometry().pageBytes);
        engine.log().readRaw(page, 0, bytes);
        return bytes;
      },
      bytesToJs);
}

Napi::Value bytesInMemory(const Napi::CallbackInfo& info) {
  return task<Buffer>(
      info, [page = pageFrom(info[1])](Engine& engine) -> Result<Buffer> { return pageInMemory(engine.store(), page); },
      bytesToJs);
}

Napi::Value sum(const Napi::CallbackInfo& info) {
  const auto bytes = info[0].As<Napi::Buffer<uint8_t>>();
  return addon::toJs(info.Env(), checksum(std::as_bytes(std::span(bytes.Data(), bytes.Length()))));
}

Napi::Value repair(const Napi::CallbackInfo& info) {
  return task<bool>(
      info,
      [page = pageFrom(info[1]), bytes = bytesFrom(info[2]), replaces = toU64(info[3])](Engine& engine) -> Result<bool> {
        if (auto repaired = engine.store().repairPage(page, bytes, replaces); !repaired) return repaired.error();
        return true;
      },
      nothing);
}

Napi::Value drop(const Napi::CallbackInfo& info) {
  return task<bool>(
      info, [page = pageFrom(info[1])](Engine& engine) -> Result<bool> { return engine.arena().drop(page); },
      [](Napi::Env env, bool& dropped) -> Napi::Value { return Napi::Boolean::New(env, dropped); });
}

Napi::Value shortSegments(const Napi::CallbackInfo& info) {
  using Segments = std::vector<ShortSegment>;
  return task<Segments>(
      info, [grow = info[1].ToBoolean().Value()](Engine& engine) { return engine.store().shortSegments(grow); },
      [](Napi::Env env, Segments& found) -> Napi::Value {
        Napi::Array out = Napi::Array::New(env, found.size());
        for (uint32_t i = 0; i < found.size(); ++i) {
          Napi::Object entry = Napi::Object::New(env);
          entry.Set("file", found[i].file);
          entry.Set("firstPage", static_cast<double>(found[i].firstPage));
          entry.Set("bytes", static_cast<double>(found[i].bytes));
          out.Set(i, entry);
        }
        return out;
      });
}

}  // namespace

Napi::Object pages(Napi::Env env) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("complete", Napi::Function::New(env, complete));
  out.Set("copies", Napi::Function::New(env, copies));
  out.Set("copiesAt", Napi::Function::New(env, copiesAt));
  out.Set("bytesAt", Napi::Function::New(env, bytesAt));
  out.Set("bytesOnDisk", Napi::Function::New(env, bytesOnDisk));
  out.Set("bytesInMemory", Napi::Function::New(env, bytesInMemory));
  out.Set("sum", Napi::Function::New(env, sum));
  out.Set("repair", Napi::Function::New(env, repair));
  out.Set("drop", Napi::Function::New(env, drop));
  out.Set("shortSegments", Napi::Function::New(env, shortSegments));
  return out;
}

}  // namespace walship::addon

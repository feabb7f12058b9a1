#include "addon/postgres.h"

#include "addon/convert.h"
#include "addon/engine.h"
#include "base/clock.h"
#include "databases/postgres/receiver.h"
#include "databases/postgres/sender.h"

namespace walship::addon {

namespace {

using postgres::Receiver;
using postgres::Sender;

// What the JavaScript object's functions share. The engine stops what is in it before it closes.
template <class T>
struct PostgresBox {
  explicit PostgresBox(std::shared_ptr<Core> engineCore) : core(std::move(engineCore)) {}
  const std::shared_ptr<Core> core;
  std::unique_ptr<T> end;
};
template <class T>
using Shared = std::shared_ptr<PostgresBox<T>>;

double plain(uint64_t value) { return static_cast<double>(value); }
std::string text(const Napi::Object& from, const char* key) { return from.Get(key).ToString().Utf8Value(); }
uint32_t number(const Napi::Object& from, const char* key) { return from.Get(key).ToNumber().Uint32Value(); }

template <class T>
void method(Napi::Object& out, const char* name, const Shared<T>& shared,
            std::function<Napi::Value(const Napi::CallbackInfo&, const Shared<T>&)> call) {
  out.Set(name, Napi::Function::New(
                    out.Env(), [shared, call = std::move(call)](const Napi::CallbackInfo& info) { return call(info, shared); },
                    name));
}

template <class T>
Napi::Value voidTask(const Napi::CallbackInfo& info, const Shared<T>& box, std::function<Result<void>(T&)> work) {
  return Task<bool>::run(
      info.Env(), box->core->template guarded<bool>([box, work = std::move(work)](Engine&) -> Result<bool> {
        if (auto done = work(*box->end); !done) return done.error();
        return true;
      }),
      [](Napi::Env env, bool&) -> Napi::Value { return env.Undefined(); }, Napi::Object::New(info.Env()));
}

template <class T>
Napi::Value open(const Napi::CallbackInfo& info, std::function<Result<std::unique_ptr<T>>(Engine&)> make,
                 std::function<Napi::Value(Napi::Env, const Shared<T>&)> wrap) {
  const auto core = Napi::ObjectWrap<NativeEngine>::Unwrap(info[0].As<Napi::Object>())->core();
  auto box = std::make_shared<PostgresBox<T>>(core);
  return Task<bool>::run(
      info.Env(), core->template guarded<bool>([box, make = std::move(make)](Engine& engine) -> Result<bool> {
        auto made = make(engine);
        if (!made) return made.error();
        box->end = made.take();
        box->core->beforeClose([weak = std::weak_ptr<PostgresBox<T>>(box)] {
          if (const auto live = weak.lock()) live->end->stop();
        });
        return true;
      }),
      [box, wrap = std::move(wrap)](Napi::Env env, bool&) -> Napi::Value { return wrap(env, box); },
      info[0].As<Napi::Object>());
}

void setProblem(Napi::Object& out, const std::optional<Error>& problem) {
  if (problem) out.Set("problem", toJs(out.Env(), *problem).Value());
}

Napi::Object statusOf(Napi::Env env, const postgres::ReceiverStatus& status) {
  Napi::Object out = Napi::Object::New(env);
  const char* states[] = {"stopped", "connecting", "streaming"};
  out.Set("state", states[static_cast<size_t>(status.state)]);
  out.Set("systemId", toJs(env, status.systemId));
  out.Set("timeline", status.timeline);
  out.Set("serverVersion", status.serverVersion);
  out.Set("receivedLsn", toJs(env, status.receivedLsn));
  out.Set("serverEndLsn", toJs(env, status.serverEndLsn));
  out.Set("written", toJs(env, status.written));
  out.Set("flushed", toJs(env, status.flushed));
  out.Set("applied", toJs(env, status.applied));
  out.Set("bytes", plain(status.bytes));
  out.Set("statusesSent", plain(status.statusesSent));
  out.Set("connects", plain(status.connects));
  setProblem(out, status.problem);
  return out;
}

Napi::Object statusOf(Napi::Env env, const postgres::SenderStatus& status) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("socketPath", status.socketPath);
  if (status.identity) {
    out.Set("systemId", toJs(env, status.identity->systemId));
    out.Set("majorVersion", status.identity->majorVersion());
    out.Set("segmentBytes", status.identity->segmentBytes);
  }
  if (!status.listen.empty()) out.Set("listen", status.listen);
  out.Set("ordinary", status.ordinary);
  out.Set("refused", plain(status.refused));
  Napi::Array sessions = Napi::Array::New(env);
  for (const postgres::SessionStatus& each : status.sessions) {
    Napi::Object session = Napi::Object::New(env);
    session.Set("applicationName", each.applicationName);
    session.Set("user", each.user);
    session.Set("streaming", each.streaming);
    session.Set("slot", each.slot);
    session.Set("timeline", each.timeline);
    session.Set("sent", toJs(env, each.sent));
    session.Set("written", toJs(env, each.written));
    session.Set("flushed", toJs(env, each.flushed));
    session.Set("applied", toJs(env, each.applied));
    sessions.Set(sessions.Length(), session);
  }
  out.Set("sessions", sessions);
  setProblem(out, status.problem);
  return out;
}

template <class T>
void common(Napi::Object& out, const Shared<T>& shared) {
  method<T>(out, "stop", shared, [](const Napi::CallbackInfo& info, const Shared<T>& box) {
    return voidTask<T>(info, box, [](T& end) -> Result<void> {
      end.stop();
      return {};
    });
  });
  method<T>(out, "status", shared, [](const Napi::CallbackInfo& info, const Shared<T>& box) -> Napi::Value {
    if (box->core->down_.load()) return throwJs(info.Env(), makeError("WALSHIP_ERR_CLOSED", "the engine is closed"));
    return statusOf(info.Env(), box->end->status());
  });
}

}  // namespace

Napi::Value queryPostgres(const Napi::CallbackInfo& info) {
  const std::string conninfo = info[0].ToString().Utf8Value();
  const std::string sql = info[1].ToString().Utf8Value();
  const uint64_t timeoutNs = uint64_t{info[2].ToNumber().Uint32Value()} * 1'000'000;
  return Task<postgres::Row>::run(
      info.Env(),
      [conninfo, sql, timeoutNs]() -> Result<postgres::Row> {
        const uint64_t deadline = monotonicNs() + timeoutNs;
        auto never = postgres::Wakeup::create();
        if (!never) return never.error();
        auto connection =
            postgres::Connection::open(conninfo, "walship", deadline, never.value(), postgres::Connection::Kind::sql);
        if (!connection) return connection.error();
        auto row = connection.value().query(sql, deadline);
        if (!row) return row.error();
        return row.value().value_or(postgres::Row{});
      },
      [](Napi::Env env, postgres::Row& row) -> Napi::Value {
        Napi::Array out = Napi::Array::New(env, row.size());
        for (uint32_t i = 0; i < row.size(); ++i) {
          out.Set(i, row[i] ? Napi::Value(Napi::String::New(env, *row[i])) : env.Null());
        }
        return out;
      },
      Napi::Object::New(info.Env()));
}

Napi::Value openPostgresReceiver(const Napi::CallbackInfo& info) {
  const auto from = info[1].As<Napi::Object>();
  postgres::ReceiverSettings settings;
  settings.conninfo = text(from, "conninfo");
  settings.applicationName = text(from, "applicationName");
  settings.slot = text(from, "slot");
  if (from.Get("startLsn").IsBigInt()) settings.startLsn = toU64(from.Get("startLsn"));
  settings.connectTimeoutMs = number(from, "connectTimeoutMs");
  settings.reconnectMsMin = number(from, "reconnectMsMin");
  settings.reconnectMsMax = number(from, "reconnectMsMax");
  settings.statusMs = number(from, "statusMs");
  settings.silenceMs = number(from, "silenceMs");
  return open<Receiver>(
      info, [settings](Engine& engine) { return Receiver::open(engine, settings); },
      [](Napi::Env env, const Shared<Receiver>& shared) -> Napi::Value {
        Napi::Object out = Napi::Object::New(env);
        method<Receiver>(out, "prepare", shared, [](const Napi::CallbackInfo& call, const Shared<Receiver>& box) {
          return Task<uint64_t>::run(
              call.Env(), box->core->guarded<uint64_t>([box](Engine&) { return box->end->prepare(); }),
              [](Napi::Env inner, uint64_t& lsn) -> Napi::Value { return toJs(inner, lsn); },
              Napi::Object::New(call.Env()));
        });
        method<Receiver>(out, "start", shared, [](const Napi::CallbackInfo& call, const Shared<Receiver>& box) {
          return voidTask<Receiver>(call, box, [](Receiver& receiver) { return receiver.start(); });
        });
        common<Receiver>(out, shared);
        return out;
      });
}

Napi::Value openPostgresSender(const Napi::CallbackInfo& info) {
  const auto from = info[1].As<Napi::Object>();
  postgres::SenderSettings settings;
  settings.directory = text(from, "directory");
  settings.port = static_cast<uint16_t>(number(from, "port"));
  const auto users = from.Get("users").As<Napi::Array>();
  for (uint32_t i = 0; i < users.Length(); ++i) settings.users.push_back(users.Get(i).ToString().Utf8Value());
  settings.sendAt = text(from, "sendAt") == "received" ? postgres::SendAt::received : postgres::SendAt::flushed;
  settings.standbyName = text(from, "standbyName");
  settings.gatherMs = number(from, "gatherMs");
  settings.silenceMs = number(from, "silenceMs");
  settings.connectTimeoutMs = number(from, "connectTimeoutMs");
  settings.server = text(from, "server");
  if (from.Get("ordinary").IsObject()) {
    const auto ordinary = from.Get("ordinary").As<Napi::Object>();
    settings.ordinary = {text(ordinary, "host"), static_cast<uint16_t>(number(ordinary, "port")), number(ordinary, "sessionsMax")};
  }
  if (from.Get("listen").IsObject()) {
    const auto address = from.Get("listen").As<Napi::Object>();
    settings.listen = {text(address, "host"), static_cast<uint16_t>(number(address, "port"))};
  }
  const auto roles = from.Get("roles").As<Napi::Array>();
  for (uint32_t i = 0; i < roles.Length(); ++i) {
    const auto role = roles.Get(i).As<Napi::Object>();
    settings.roles.push_back({text(role, "name"), text(role, "verifier")});
  }
  if (from.Get("tls").IsObject()) {
    const auto tls = from.Get("tls").As<Napi::Object>();
    settings.tls = {text(tls, "certFile"), text(tls, "keyFile"), tls.Get("required").ToBoolean().Value()};
  }
  return open<Sender>(
      info, [settings](Engine& engine) { return Sender::open(engine, settings); },
      [](Napi::Env env, const Shared<Sender>& shared) -> Napi::Value {
        Napi::Object out = Napi::Object::New(env);
        common<Sender>(out, shared);
        return out;
      });
}

}  // namespace walship::addon

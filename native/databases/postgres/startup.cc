// A session's beginning: encryption, who it is, what it wants.
#include <poll.h>
#include <pwd.h>
#include <sys/random.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "databases/postgres/session.h"

namespace walship::postgres {

namespace {

constexpr uint64_t kStartupNs = 60'000'000'000;  // PostgreSQL's authentication_timeout
constexpr size_t kNonceBytes = 18;               // as PostgreSQL's
constexpr size_t kPrefixBytes = 4;

std::string userName(uid_t uid) {
  passwd entry{};
  passwd* found = nullptr;
  char memory[4096];
  if (::getpwuid_r(uid, &entry, memory, sizeof memory, &found) != 0 || found == nullptr) return {};
  return found->pw_name;
}

}  // namespace

// Whole, with its length.
Result<std::vector<std::byte>> Session::readStartup() {
  size_t whole = kPrefixBytes;
  for (;;) {
    const Bytes rest = Bytes(in_).subspan(inTaken_);
    if (rest.size() >= kPrefixBytes && whole == kPrefixBytes) {
      auto length = startupLength(rest.first(kPrefixBytes));
      if (!length) return length.error();
      whole = length.value();
    }
    if (rest.size() >= whole && whole > kPrefixBytes) {
      inTaken_ += whole;
      return std::vector<std::byte>(rest.begin(), rest.begin() + static_cast<ptrdiff_t>(whole));
    }
    if (auto filled = fill(true); !filled) return filled.error();
  }
}

// false: the session was something else than a walsender's, and is over.
Result<bool> Session::startUp() {
  heardNs_ = monotonicNs();
  startUpByNs_ = heardNs_ + kStartupNs;
  for (;;) {
    auto packet = readStartup();
    if (!packet) return packet.error();
    auto startup = parseStartup(Bytes(packet.value()).subspan(kPrefixBytes));
    if (!startup) return fatal("0A000", startup.error().message).error();
    switch (startup.value().kind) {
      case StartupKind::wantsTls:
      case StartupKind::wantsGss: {
        // On the unix-domain socket there is nothing to encrypt.
        const bool encrypt = startup.value().kind == StartupKind::wantsTls && encryptable();
        out_.push_back(encrypt ? std::byte{'S'} : std::byte{'N'});
        if (auto sent = flush(); !sent) return sent.error();
        if (!encrypt) continue;
        // What came before the hand-shake could be anybody's.
        if (inTaken_ < in_.size()) return fatal("08P01", "received unencrypted data after SSL request").error();
        channel_.encrypt(*shared_.tls);
        continue;
      }
      case StartupKind::cancel:
        if (auto passed = passOnCancel(packet.value()); !passed) return passed.error();
        return false;
      case StartupKind::session: break;
    }
    if (encryptable() && settings_.tls->required) {
      return fatal("28000", "connection requires TLS", "Use sslmode=require, or verify-full.").error();
    }
    if (startup.value().physicalReplication()) return begin(startup.value());
    if (auto done = splice(startup.value(), packet.value()); !done) return done.error();
    return false;
  }
}

Result<bool> Session::begin(const Startup& startup) {
  if (startup.minorVersion > 0) putVersionNegotiation(out_);
  const std::string user = startup.parameter("user");
  if (user.empty()) return fatal("28000", "no PostgreSQL user name specified in startup packet").error();
  if (auto proved = authenticate(user); !proved) return proved.error();
  if (!seat_.take(shared_.walsenders, kWalsendersMax)) {
    return fatal("53300", "number of requested standby connections exceeds those of walship (currently " +
                              std::to_string(kWalsendersMax) + ")")
        .error();
  }
  {
    const std::lock_guard lock(statusMutex_);
    status_.user = user;
    status_.applicationName = startup.parameter("application_name");
  }
  startUpByNs_ = 0;
  auto known = identity();
  if (!known) {
    if (known.error().is("WALSHIP_ERR_POSTGRES_EMPTY")) return fatal("57P03", known.error().message).error();
    return fatal("XX001", known.error().message).error();
  }
  const uint32_t major = known.value().majorVersion();
  putAuthenticationOk(out_);
  putParameter(out_, "server_version", std::to_string(major == 0 ? 15 : major) + ".0");
  putParameter(out_, "server_encoding", "UTF8");
  putParameter(out_, "client_encoding", "UTF8");
  putParameter(out_, "application_name", status_.applicationName);
  putParameter(out_, "integer_datetimes", "on");
  putParameter(out_, "standard_conforming_strings", "on");
  putParameter(out_, "DateStyle", "ISO, MDY");
  putParameter(out_, "TimeZone", "UTC");
  putParameter(out_, "in_hot_standby", "on");
  putBackendKey(out_, static_cast<uint32_t>(::getpid()), static_cast<uint32_t>(heardNs_));
  putReady(out_);
  if (auto sent = flush(); !sent) return sent.error();
  return true;
}

// ---- who it is ----

Session::Outcome Session::authenticate(const std::string& user) {
  if (remote_) return provePassword(user);
  if (auto peer = peerUser(); !peer) {
    return fatal("28000", "Peer authentication failed for user \"" + user + "\"",
                 peer.error().message + " to walship: name it in the walsender's users");
  }
  return {};
}

Result<std::string> Session::peerUser() {
  ucred peer{};
  socklen_t bytes = sizeof peer;
  if (::getsockopt(channel_.fd(), SOL_SOCKET, SO_PEERCRED, &peer, &bytes) != 0) {
    return systemError("WALSHIP_ERR_INTERNAL", "cannot ask who connects", errno);
  }
  const std::string name = userName(peer.uid);
  const bool own = peer.uid == ::geteuid();
  if (own || std::find(settings_.users.begin(), settings_.users.end(), name) != settings_.users.end()) return name;
  return makeError("WALSHIP_ERR_AUTHENTICATION", "operating system user \"" + name + "\" may not connect");
}

// SASL, as PostgreSQL does it: mechanisms, two messages of the client's, two answers.
Session::Outcome Session::provePassword(const std::string& user) {
  char random[kNonceBytes];
  if (::getrandom(random, sizeof random, 0) != static_cast<ssize_t>(sizeof random)) {
    return fatal("XX000", "could not generate random nonce");
  }
  const auto role = shared_.roles.find(user);
  const bool known = role != shared_.roles.end();
  ScramServer scram(known ? role->second : mockVerifier(user, shared_.mockSecret), known,
                    base64({random, sizeof random}), channel_.endPoint());
  const auto refused = [&](const Error& why) {
    if (why.is("WALSHIP_ERR_AUTH")) return fatal("28P01", "password authentication failed for user \"" + user + "\"");
    return fatal("08P01", why.message);
  };
  const auto next = [&]() -> Result<Message> {
    if (auto sent = flush(); !sent) return sent.error();
    auto message = readMessage();
    if (!message || message.value().type == 'p') return message;
    return fatal("08P01", "expected SASL response, got message type " +
                              std::to_string(static_cast<unsigned char>(message.value().type)))
        .error();
  };
  putSaslMechanisms(out_, scram.mechanisms());
  auto first = next();
  if (!first) return first.error();
  auto initial = parseSaslInitial(first.value().body);
  if (!initial) return refused(initial.error());
  auto challenge = scram.begin(initial.value().mechanism, initial.value().response);
  if (!challenge) return refused(challenge.error());
  putSaslContinue(out_, challenge.value());
  auto second = next();
  if (!second) return second.error();
  const Bytes body = second.value().body;
  auto verdict = scram.finish({reinterpret_cast<const char*>(body.data()), body.size()});
  if (!verdict) return refused(verdict.error());
  putSaslFinal(out_, verdict.value());
  return {};
}

}  // namespace walship::postgres

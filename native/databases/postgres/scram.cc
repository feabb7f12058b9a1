#include "databases/postgres/scram.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <algorithm>
#include <charconv>

namespace walship::postgres {

namespace {

constexpr std::string_view kPlain = "SCRAM-SHA-256";
constexpr std::string_view kPlus = "SCRAM-SHA-256-PLUS";
constexpr std::string_view kBinding = "p=tls-server-end-point";
constexpr size_t kMockSaltBytes = 16;  // as PostgreSQL's

const unsigned char* raw(std::string_view text) { return reinterpret_cast<const unsigned char*>(text.data()); }
std::string textOf(const ScramKey& key) { return std::string(reinterpret_cast<const char*>(key.data()), key.size()); }

ScramKey hmac(const ScramKey& key, std::string_view text) {
  ScramKey out{};
  unsigned length = 0;
  const auto* made = ::HMAC(::EVP_sha256(), key.data(), static_cast<int>(key.size()), raw(text), text.size(), out.data(), &length);
  WALSHIP_ASSERT(made != nullptr && length == out.size());
  return out;
}

ScramKey sha256(const ScramKey& bytes) {
  ScramKey out{};
  unsigned length = 0;
  const int made = ::EVP_Digest(bytes.data(), bytes.size(), out.data(), &length, ::EVP_sha256(), nullptr);
  WALSHIP_ASSERT(made == 1 && length == out.size());
  return out;
}

bool same(const ScramKey& one, const ScramKey& other) {
  return ::CRYPTO_memcmp(one.data(), other.data(), one.size()) == 0;
}

Error malformed(const std::string& detail) {
  return makeError("WALSHIP_ERR_POSTGRES_PROTOCOL", "malformed SCRAM message: " + detail);
}

bool printable(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char each) { return each >= 0x21 && each <= 0x7e && each != ','; });
}

// "a=value" up to the next comma, which is taken too, and has something behind it.
std::optional<std::pair<char, std::string_view>> takeAttribute(std::string_view& text) {
  if (text.size() < 2 || text[1] != '=' || !((text[0] | 0x20) >= 'a' && (text[0] | 0x20) <= 'z')) return std::nullopt;
  const char name = text[0];
  const size_t comma = text.find(',');
  if (comma == text.size() - 1) return std::nullopt;
  const std::string_view value = text.substr(2, comma == std::string_view::npos ? comma : comma - 2);
  text.remove_prefix(comma == std::string_view::npos ? text.size() : comma + 1);
  return std::pair{name, value};
}

std::optional<ScramKey> keyIn(std::string_view text) {
  const auto bytes = base64Bytes(text);
  ScramKey key{};
  if (!bytes || bytes->size() != key.size()) return std::nullopt;
  std::copy(bytes->begin(), bytes->end(), key.begin());
  return key;
}

}  // namespace

std::string base64(std::string_view bytes) {
  std::string out((bytes.size() + 2) / 3 * 4 + 1, '\0');  // OpenSSL writes a zero behind it
  const int length = ::EVP_EncodeBlock(reinterpret_cast<unsigned char*>(out.data()), raw(bytes), static_cast<int>(bytes.size()));
  out.resize(static_cast<size_t>(length));
  return out;
}

std::optional<std::string> base64Bytes(std::string_view text) {
  if (text.empty() || text.size() % 4 != 0 || text.size() > 4096) return std::nullopt;
  std::string out(text.size() / 4 * 3, '\0');
  const int length = ::EVP_DecodeBlock(reinterpret_cast<unsigned char*>(out.data()), raw(text), static_cast<int>(text.size()));
  if (length != static_cast<int>(out.size())) return std::nullopt;
  for (size_t at = text.size() - 2; at < text.size(); ++at) {
    if (text[at] == '=') out.pop_back();
  }
  // Only what says it in the one proper way.
  if (base64(out) != text) return std::nullopt;
  return out;
}

Result<ScramVerifier> parseVerifier(std::string_view text) {
  const auto bad = [] {
    return makeError("WALSHIP_ERR_POSTGRES_VERIFIER",
                     "not a SCRAM verifier: it is SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>, as in "
                     "pg_authid.rolpassword");
  };
  const auto takeUpTo = [&](char mark) {
    const size_t at = text.find(mark);
    const std::string_view part = text.substr(0, at);
    text.remove_prefix(at == std::string_view::npos ? text.size() : at + 1);
    return part;
  };
  if (takeUpTo('$') != kPlain) return bad();
  ScramVerifier verifier;
  const std::string_view iterations = takeUpTo(':');
  const auto parsed = std::from_chars(iterations.data(), iterations.data() + iterations.size(), verifier.iterations);
  if (parsed.ec != std::errc{} || parsed.ptr != iterations.data() + iterations.size() || verifier.iterations == 0) return bad();
  const auto salt = base64Bytes(takeUpTo('$'));
  const auto storedKey = keyIn(takeUpTo(':'));
  const auto serverKey = keyIn(text);
  if (!salt || !storedKey || !serverKey) return bad();
  verifier.salt = *salt;
  verifier.storedKey = *storedKey;
  verifier.serverKey = *serverKey;
  return verifier;
}

ScramVerifier mockVerifier(const std::string& user, const ScramKey& secret) {
  ScramVerifier verifier;
  verifier.salt = textOf(hmac(secret, user)).substr(0, kMockSaltBytes);
  return verifier;
}

std::vector<std::string> ScramServer::mechanisms() const {
  if (endPoint_) return {std::string(kPlus), std::string(kPlain)};
  return {std::string(kPlain)};
}

Result<std::string> ScramServer::begin(std::string_view mechanism, std::string_view clientFirst) {
  binds_ = mechanism == kPlus;
  if (binds_ ? !endPoint_ : mechanism != kPlain) {
    return makeError("WALSHIP_ERR_POSTGRES_PROTOCOL", "client selected an invalid SASL authentication mechanism");
  }
  if (clientFirst.find('\0') != std::string_view::npos) return malformed("a zero byte");
  const size_t comma = clientFirst.find(',');
  const std::string_view flag = clientFirst.substr(0, comma);
  if (comma == std::string_view::npos || (binds_ ? flag != kBinding : flag != "n" && flag != "y")) {
    return malformed("unexpected channel-binding flag");
  }
  // It could have bound its proof, and believes that this side cannot: somebody in between took the offer out.
  if (flag == "y" && endPoint_) {
    return makeError("WALSHIP_ERR_POSTGRES_PROTOCOL", "SCRAM channel binding negotiation error");
  }
  std::string_view rest = clientFirst.substr(comma + 1);
  if (rest.empty() || rest[0] != ',') return malformed("client uses authorization identity, which is not supported");
  header_ = clientFirst.substr(0, comma + 2);
  rest.remove_prefix(1);
  clientFirstBare_ = rest;
  const auto user = takeAttribute(rest);
  const auto nonce = takeAttribute(rest);
  if (!user || user->first != 'n' || !nonce || nonce->first != 'r' || !printable(nonce->second)) {
    return malformed("expected attributes n and r");
  }
  while (!rest.empty()) {
    if (!takeAttribute(rest)) return malformed("expected an attribute");
  }
  nonce_.insert(0, nonce->second);
  serverFirst_ = "r=" + nonce_ + ",s=" + base64(verifier_.salt) + ",i=" + std::to_string(verifier_.iterations);
  return serverFirst_;
}

Result<std::string> ScramServer::finish(std::string_view clientFinal) {
  WALSHIP_ASSERT(!serverFirst_.empty());
  if (clientFinal.find('\0') != std::string_view::npos) return malformed("a zero byte");
  std::string_view rest = clientFinal;
  const auto binding = takeAttribute(rest);
  if (!binding || binding->first != 'c') return malformed("expected attribute c");
  if (binding->second != base64(header_ + (binds_ ? *endPoint_ : ""))) {
    if (binds_) return makeError("WALSHIP_ERR_AUTH", "SCRAM channel binding check failed");
    return malformed("unexpected SCRAM channel-binding attribute in client-final-message");
  }
  const auto nonce = takeAttribute(rest);
  if (!nonce || nonce->first != 'r' || nonce->second != nonce_) return malformed("nonce does not match");
  size_t proofAt = 0;
  std::optional<ScramKey> proof;
  while (!rest.empty()) {
    proofAt = clientFinal.size() - rest.size();
    const auto attribute = takeAttribute(rest);
    if (!attribute) return malformed("expected an attribute");
    if (attribute->first != 'p') continue;
    proof = keyIn(attribute->second);
    if (!proof || !rest.empty()) return malformed("malformed proof in client-final-message");
  }
  if (!proof) return malformed("no proof in client-final-message");
  const std::string message =
      clientFirstBare_ + "," + serverFirst_ + "," + std::string(clientFinal.substr(0, proofAt - 1));
  const ScramKey signature = hmac(verifier_.storedKey, message);
  ScramKey clientKey{};
  for (size_t i = 0; i < clientKey.size(); ++i) clientKey[i] = static_cast<unsigned char>((*proof)[i] ^ signature[i]);
  const bool proved = same(sha256(clientKey), verifier_.storedKey);
  if (!proved || !known_) return makeError("WALSHIP_ERR_AUTH", "the proof is wrong");
  return "v=" + base64(textOf(hmac(verifier_.serverKey, message)));
}

}  // namespace walship::postgres

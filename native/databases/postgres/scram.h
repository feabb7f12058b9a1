// SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802, RFC 7677), the server's side, as PostgreSQL does it: the user is that of
// the start-up packet, and one that is not known goes through the same exchange. Pure.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace walship::postgres {

using ScramKey = std::array<unsigned char, 32>;

struct ScramVerifier {
  uint32_t iterations = 4096;
  std::string salt;
  ScramKey storedKey{};
  ScramKey serverKey{};
};

// pg_authid.rolpassword: "SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>". WALSHIP_ERR_POSTGRES_VERIFIER.
Result<ScramVerifier> parseVerifier(std::string_view text);
// For a user who is not known: the same one every time, that nothing proves.
ScramVerifier mockVerifier(const std::string& user, const ScramKey& secret);

std::string base64(std::string_view bytes);
std::optional<std::string> base64Bytes(std::string_view text);

class ScramServer {
 public:
  // `known`: false dooms the exchange. `nonce`: this side's part. `endPoint`: what a client over TLS may bind to.
  ScramServer(ScramVerifier verifier, bool known, std::string nonce, std::optional<std::string> endPoint)
      : verifier_(std::move(verifier)), known_(known), nonce_(std::move(nonce)), endPoint_(std::move(endPoint)) {}

  std::vector<std::string> mechanisms() const;
  // The answer to the client's first message. WALSHIP_ERR_POSTGRES_PROTOCOL.
  Result<std::string> begin(std::string_view mechanism, std::string_view clientFirst);
  // The answer to its second one. WALSHIP_ERR_POSTGRES_PROTOCOL; WALSHIP_ERR_AUTH: it does not know the password.
  Result<std::string> finish(std::string_view clientFinal);

 private:
  const ScramVerifier verifier_;
  const bool known_;
  std::string nonce_;  // with the client's in front, once that is known
  const std::optional<std::string> endPoint_;
  std::string header_;           // of GS2
  bool binds_ = false;
  std::string clientFirstBare_;
  std::string serverFirst_;
};

}  // namespace walship::postgres

// SCRAM: the exchange of RFC 7677, and everything that is not quite it.
#include <doctest/doctest.h>

#include "databases/postgres/scram.h"

using namespace walship;
using namespace walship::postgres;

namespace {

// "pencil", with the salt of RFC 7677.
const std::string kPencil =
    "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:"
    "wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
const std::string kClientNonce = "rOprNGfwEbeRWgbNEkqO";
const std::string kServerNonce = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
const std::string kFinal =
    "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";

ScramServer server(std::optional<std::string> endPoint = std::nullopt, bool known = true) {
  return ScramServer(parseVerifier(kPencil).take(), known, kServerNonce, std::move(endPoint));
}

const char* refusedFirst(const std::string& mechanism, const std::string& first, std::optional<std::string> endPoint = {}) {
  auto scram = server(std::move(endPoint));
  const auto answer = scram.begin(mechanism, first);
  REQUIRE_MESSAGE(!answer.ok(), first);
  return answer.error().code;
}

std::string refusedFinal(const std::string& final, bool known = true) {
  auto scram = server({}, known);
  REQUIRE(scram.begin("SCRAM-SHA-256", "n,,n=user,r=" + kClientNonce));
  const auto answer = scram.finish(final);
  REQUIRE_MESSAGE(!answer.ok(), final);
  return answer.error().code;
}

}  // namespace

TEST_CASE("postgres: SCRAM-SHA-256 as RFC 7677 has it") {
  auto scram = server();
  CHECK(scram.mechanisms() == std::vector<std::string>{"SCRAM-SHA-256"});
  const auto first = scram.begin("SCRAM-SHA-256", "n,,n=user,r=" + kClientNonce);
  REQUIRE(first);
  CHECK(first.value() == "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096");
  const auto final = scram.finish(kFinal);
  REQUIRE(final);
  CHECK(final.value() == "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
}

TEST_CASE("postgres: SCRAM proofs that prove nothing") {
  CHECK(refusedFinal(kFinal, false) == "WALSHIP_ERR_AUTH");
  for (size_t at = kFinal.find(",p=") + 3; at < kFinal.size() - 2; ++at) {
    std::string wrong = kFinal;
    wrong[at] = wrong[at] == 'A' ? 'B' : 'A';
    CHECK(refusedFinal(wrong) == "WALSHIP_ERR_AUTH");
  }
}

TEST_CASE("postgres: SCRAM messages that are malformed") {
  const std::string protocol = "WALSHIP_ERR_POSTGRES_PROTOCOL";
  const std::string rest = "n=user,r=" + kClientNonce;
  for (const std::string& wrong : std::vector<std::string>{"", "n", "n,", "n,,", "x,," + rest, "n,a=me," + rest, "n,,r=abc", "n,,m=x," + rest,
                                  "n,,n=user,r=", "n,,n=user,r=a b", "n,,n=user,r=ok,1", "p=tls-unique,," + rest,
                                  "p=tls-server-end-point,," + rest, std::string("n,,n=us\0er,r=x", 14)}) {
    CHECK(refusedFirst("SCRAM-SHA-256", wrong) == protocol);
  }
  CHECK(refusedFirst("SCRAM-SHA-1", "n,," + rest) == protocol);
  CHECK(refusedFirst("SCRAM-SHA-256-PLUS", "p=tls-server-end-point,," + rest) == protocol);
  const std::string nonce = kClientNonce + kServerNonce;
  const std::string proof = kFinal.substr(kFinal.find(",p="));
  for (const std::string& wrong : std::vector<std::string>{std::string(), "c=biws", "c=biws,r=" + nonce, "c=eSws,r=" + nonce + proof,
                                  "c=biws,r=" + kClientNonce + proof, "r=" + nonce + proof, "c=biws,r=" + nonce + ",p=",
                                  "c=biws,r=" + nonce + ",p=AAAA", kFinal + ",", kFinal + ",x=1", "c=,r=" + nonce + proof}) {
    CHECK(refusedFinal(wrong) == protocol);
  }
}

TEST_CASE("postgres: SCRAM bound to TLS") {
  const std::string endPoint(32, '\x07');
  const std::string first = "p=tls-server-end-point,,n=,r=" + kClientNonce;
  auto scram = server(endPoint);
  CHECK(scram.mechanisms() == std::vector<std::string>{"SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"});
  REQUIRE(scram.begin("SCRAM-SHA-256-PLUS", first));
  // Bound to another connection.
  const auto other = "c=" + base64("p=tls-server-end-point,," + std::string(32, '\x08')) + kFinal.substr(6);
  CHECK(std::string(scram.finish(other).error().code) == "WALSHIP_ERR_AUTH");
  // A client that could bind, and was told by somebody in between that it cannot.
  CHECK(refusedFirst("SCRAM-SHA-256", "y,,n=,r=" + kClientNonce, endPoint) == std::string("WALSHIP_ERR_POSTGRES_PROTOCOL"));
  auto unbound = server();
  CHECK(unbound.begin("SCRAM-SHA-256", "y,,n=,r=" + kClientNonce));
}

TEST_CASE("postgres: verifiers") {
  CHECK(parseVerifier(kPencil));
  for (size_t length = 0; length < kPencil.size(); ++length) CHECK(!parseVerifier(kPencil.substr(0, length)));
  CHECK(!parseVerifier(kPencil + "A"));
  CHECK(!parseVerifier("md5" + std::string(32, 'a')));
  CHECK(!parseVerifier("SCRAM-SHA-256$0" + kPencil.substr(18)));
  // The same for the same user, so that nobody can tell who is known.
  ScramKey secret{};
  secret[0] = 1;
  CHECK(mockVerifier("a", secret).salt == mockVerifier("a", secret).salt);
  CHECK(mockVerifier("a", secret).salt != mockVerifier("b", secret).salt);
  CHECK(mockVerifier("a", secret).salt.size() == 16);
}

TEST_CASE("postgres: base64 in its one proper way") {
  for (const std::string text : {"f", "fo", "foo", "foob"}) CHECK(base64Bytes(base64(text)) == text);
  for (const char* wrong : {"", "Zg", "Zg=", "Zh==", "Z===", "====", "Zg==Zg==", " Zg=", "Zm9v\n", "Zm*v"}) {
    CHECK_MESSAGE(!base64Bytes(wrong), wrong);
  }
}

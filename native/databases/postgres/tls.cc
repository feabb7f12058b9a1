#include "databases/postgres/tls.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <climits>

namespace walship::postgres {

namespace {

Error problem(const std::string& what) {
  const unsigned long code = ::ERR_get_error();
  const char* reason = code == 0 ? nullptr : ::ERR_reason_error_string(code);
  ::ERR_clear_error();
  return makeError("WALSHIP_ERR_POSTGRES_TLS", what + ": " + (reason != nullptr ? reason : "OpenSSL does not say why"));
}

int size(size_t bytes) { return static_cast<int>(std::min<size_t>(bytes, INT_MAX)); }

}  // namespace

void TlsContext::Free::operator()(ssl_ctx_st* context) const { ::SSL_CTX_free(context); }
void TlsSession::Free::operator()(ssl_st* session) const { ::SSL_free(session); }

Result<TlsContext> TlsContext::open(const std::string& certFile, const std::string& keyFile) {
  TlsContext context;
  ::ERR_clear_error();
  context.context_.reset(::SSL_CTX_new(::TLS_server_method()));
  SSL_CTX* made = context.get();
  if (made == nullptr) return problem("cannot begin with TLS");
  SSL_CTX_set_min_proto_version(made, TLS1_2_VERSION);
  // As in PostgreSQL: sessions are not resumed, ciphers not negotiated twice.
  ::SSL_CTX_set_options(made, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_TICKET | SSL_OP_CIPHER_SERVER_PREFERENCE);
  SSL_CTX_set_session_cache_mode(made, SSL_SESS_CACHE_OFF);
  ::SSL_CTX_set_num_tickets(made, 0);
  if (::SSL_CTX_use_certificate_chain_file(made, certFile.c_str()) != 1) {
    return problem("cannot use the certificate in " + certFile);
  }
  if (::SSL_CTX_use_PrivateKey_file(made, keyFile.c_str(), SSL_FILETYPE_PEM) != 1) {
    return problem("cannot use the key in " + keyFile);
  }
  if (::SSL_CTX_check_private_key(made) != 1) return problem(keyFile + " is not the key of " + certFile);
  return context;
}

TlsSession::TlsSession(const TlsContext& context)
    : session_(::SSL_new(context.get())), in_(::BIO_new(::BIO_s_mem())), out_(::BIO_new(::BIO_s_mem())) {
  WALSHIP_ASSERT(session_ != nullptr && in_ != nullptr && out_ != nullptr);
  ::SSL_set_bio(session_.get(), in_, out_);
  ::SSL_set_accept_state(session_.get());
}

void TlsSession::feed(Bytes cipher) {
  const int taken = ::BIO_write(in_, cipher.data(), size(cipher.size()));
  WALSHIP_ASSERT(taken == static_cast<int>(cipher.size()));
}

ssize_t TlsSession::read(MutableBytes plain) {
  ::ERR_clear_error();
  const int got = ::SSL_read(session_.get(), plain.data(), size(plain.size()));
  if (got > 0) return got;
  const int why = ::SSL_get_error(session_.get(), got);
  if (why == SSL_ERROR_ZERO_RETURN) return 0;
  errno = why == SSL_ERROR_WANT_READ ? EAGAIN : EPROTO;
  return -1;
}

ssize_t TlsSession::write(Bytes plain) {
  ::ERR_clear_error();
  const int put = ::SSL_write(session_.get(), plain.data(), size(plain.size()));
  if (put > 0) return put;
  errno = ::SSL_get_error(session_.get(), put) == SSL_ERROR_WANT_READ ? EAGAIN : EPROTO;
  return -1;
}

void TlsSession::drain(Buffer& cipher) {
  const size_t had = cipher.size();
  const size_t more = ::BIO_ctrl_pending(out_);
  if (more == 0) return;
  cipher.resize(had + more);
  const int got = ::BIO_read(out_, cipher.data() + had, size(more));
  WALSHIP_ASSERT(got == static_cast<int>(more));
}

std::optional<std::string> TlsSession::endPoint() const {
  const X509* certificate = ::SSL_get_certificate(session_.get());
  int hash = NID_undef;
  if (certificate == nullptr || ::OBJ_find_sigid_algs(::X509_get_signature_nid(certificate), &hash, nullptr) != 1) {
    return std::nullopt;
  }
  if (hash == NID_md5 || hash == NID_sha1) hash = NID_sha256;  // too weak, says RFC 5929
  const EVP_MD* digest = hash == NID_undef ? nullptr : ::EVP_get_digestbyname(::OBJ_nid2sn(hash));
  unsigned char bytes[EVP_MAX_MD_SIZE];
  unsigned length = 0;
  if (digest == nullptr || ::X509_digest(certificate, digest, bytes, &length) != 1) return std::nullopt;
  return std::string(reinterpret_cast<const char*>(bytes), length);
}

}  // namespace walship::postgres

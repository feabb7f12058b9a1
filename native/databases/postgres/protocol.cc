#include "databases/postgres/protocol.h"

namespace walship::postgres {

namespace {

constexpr uint32_t kCancelCode = 80877102;
constexpr uint32_t kTlsCode = 80877103;
constexpr uint32_t kGssCode = 80877104;

Error malformed(const std::string& what) {
  return makeError("WALSHIP_ERR_POSTGRES_PROTOCOL", "the client does not speak PostgreSQL's protocol 3: " + what);
}

// Fills in a message's length when it goes out of scope.
class Message {
 public:
  Message(Buffer& out, char type) : out_(out), at_(out.size()) {
    out.push_back(static_cast<std::byte>(type));
    putBig(out, uint32_t{0});
  }
  Message(const Message&) = delete;
  Message& operator=(const Message&) = delete;
  ~Message() {
    const uint32_t length = swapped(static_cast<uint32_t>(out_.size() - at_ - 1));
    std::memcpy(out_.data() + at_ + 1, &length, sizeof length);
  }

 private:
  Buffer& out_;
  const size_t at_;
};

}  // namespace

bool Startup::physicalReplication() const {
  const std::string value = parameter("replication");
  return value == "true" || value == "on" || value == "yes" || value == "1";
}

Result<size_t> startupLength(Bytes fourBytes) {
  BigReader reader(fourBytes);
  uint32_t length = 0;
  if (!reader.take(length) || length < 8 || length > kStartupBytesMax) return malformed("invalid length of startup packet");
  return size_t{length};
}

Result<Startup> parseStartup(Bytes packet) {
  BigReader reader(packet);
  Startup startup;
  uint32_t code = 0;
  if (!reader.take(code)) return malformed("invalid length of startup packet");
  if (code == kTlsCode || code == kGssCode) {
    if (!reader.done()) return malformed("invalid length of startup packet");
    startup.kind = code == kTlsCode ? StartupKind::wantsTls : StartupKind::wantsGss;
    return startup;
  }
  if (code == kCancelCode) {
    startup.kind = StartupKind::cancel;
    return startup;
  }
  if (code >> 16 != 3) return malformed("unsupported frontend protocol " + std::to_string(code >> 16) + "." +
                                        std::to_string(code & 0xffff) + ": server supports 3.0");
  startup.minorVersion = static_cast<uint16_t>(code);
  for (;;) {
    std::string name;
    if (!reader.takeString(name)) return malformed("invalid startup packet layout: expected terminator as last byte");
    if (name.empty()) break;
    std::string value;
    if (!reader.takeString(value)) return malformed("invalid startup packet layout: expected terminator as last byte");
    startup.parameters[name] = value;
  }
  if (!reader.done()) return malformed("invalid startup packet layout: expected terminator as last byte");
  return startup;
}

Result<MessageHeader> parseMessageHeader(Bytes fiveBytes) {
  BigReader reader(fiveBytes);
  uint8_t type = 0;
  uint32_t length = 0;
  if (!reader.take(type) || !reader.take(length) || length < 4 || length - 4 > kMessageBytesMax) {
    return malformed("invalid message length");
  }
  return MessageHeader{static_cast<char>(type), length - 4};
}

Result<SaslInitial> parseSaslInitial(Bytes body) {
  BigReader reader(body);
  SaslInitial initial;
  uint32_t length = 0;
  if (!reader.takeString(initial.mechanism) || !reader.take(length)) return malformed("malformed SASL message");
  const Bytes rest = reader.rest();
  if (length == UINT32_MAX) length = 0;  // it has nothing to say yet
  if (rest.size() != length) return malformed("malformed SASL message");
  initial.response.assign(reinterpret_cast<const char*>(rest.data()), rest.size());
  return initial;
}

void putQuery(Buffer& out, std::string_view text) {
  const Message message(out, 'Q');
  putString(out, text);
}

Result<size_t> AnswerBounds::take(Bytes bytes) {
  size_t taken = 0;
  while (taken < bytes.size() && !complete_) {
    if (left_ > 0) {
      const size_t step = std::min(left_, bytes.size() - taken);
      left_ -= step;
      taken += step;
    } else {
      header_[headerBytes_++] = bytes[taken++];
      if (headerBytes_ < kMessageHeaderBytes) continue;
      BigReader reader(header_);
      uint8_t type = 0;
      uint32_t length = 0;
      static_cast<void>(reader.take(type) && reader.take(length));
      if (length < 4) {
        return makeError("WALSHIP_ERR_POSTGRES_PROTOCOL", "the server does not speak PostgreSQL's protocol 3: invalid message length");
      }
      type_ = static_cast<char>(type);
      left_ = length - 4;
      headerBytes_ = 0;
    }
    complete_ = type_ == 'Z' && betweenMessages();
  }
  return taken;
}

void putAuthenticationOk(Buffer& out) {
  const Message message(out, 'R');
  putBig(out, uint32_t{0});
}

void putSaslMechanisms(Buffer& out, const std::vector<std::string>& mechanisms) {
  const Message message(out, 'R');
  putBig(out, uint32_t{10});
  for (const std::string& each : mechanisms) putString(out, each);
  out.push_back(std::byte{0});
}

void putSaslContinue(Buffer& out, std::string_view text) {
  const Message message(out, 'R');
  putBig(out, uint32_t{11});
  putText(out, text);
}

void putSaslFinal(Buffer& out, std::string_view text) {
  const Message message(out, 'R');
  putBig(out, uint32_t{12});
  putText(out, text);
}

void putParameter(Buffer& out, std::string_view name, std::string_view value) {
  const Message message(out, 'S');
  putString(out, name);
  putString(out, value);
}

void putBackendKey(Buffer& out, uint32_t process, uint32_t secret) {
  const Message message(out, 'K');
  putBig(out, process);
  putBig(out, secret);
}

void putVersionNegotiation(Buffer& out) {
  const Message message(out, 'v');
  putBig(out, uint32_t{3} << 16);
  putBig(out, uint32_t{0});
}

void putReady(Buffer& out) {
  const Message message(out, 'Z');
  out.push_back(std::byte{'I'});
}

void putRefusal(Buffer& out, const Refusal& refusal) {
  const Message message(out, 'E');
  const auto field = [&](char type, std::string_view value) {
    if (value.empty()) return;
    out.push_back(static_cast<std::byte>(type));
    putString(out, value);
  };
  field('S', refusal.severity);
  field('V', refusal.severity);
  field('C', refusal.sqlState);
  field('M', refusal.message);
  field('D', refusal.detail);
  field('H', refusal.hint);
  out.push_back(std::byte{0});
}

void putRow(Buffer& out, const std::vector<Column>& columns, const std::vector<std::optional<std::string>>& values) {
  WALSHIP_ASSERT(columns.size() == values.size());
  {
    const Message message(out, 'T');
    putBig(out, static_cast<uint16_t>(columns.size()));
    for (const Column& column : columns) {
      putString(out, column.name);
      putBig(out, uint32_t{0});  // of no table
      putBig(out, uint16_t{0});
      putBig(out, column.type);
      putBig(out, static_cast<uint16_t>(column.bytes));
      putBig(out, UINT32_MAX);   // no type modifier
      putBig(out, uint16_t{0});  // as text
    }
  }
  const Message message(out, 'D');
  putBig(out, static_cast<uint16_t>(values.size()));
  for (const auto& value : values) {
    putBig(out, value ? static_cast<uint32_t>(value->size()) : UINT32_MAX);
    if (value) putText(out, *value);
  }
}

void putComplete(Buffer& out, std::string_view tag) {
  const Message message(out, 'C');
  putString(out, tag);
}

void putEmptyQuery(Buffer& out) { const Message message(out, 'I'); }

void putCopyBoth(Buffer& out) {
  const Message message(out, 'W');
  out.push_back(std::byte{0});
  putBig(out, uint16_t{0});
}

void putCopyDone(Buffer& out) { const Message message(out, 'c'); }

void putCopyHeader(Buffer& out, size_t bytes) {
  out.push_back(std::byte{'d'});
  putBig(out, static_cast<uint32_t>(bytes + 4));
}

}  // namespace walship::postgres

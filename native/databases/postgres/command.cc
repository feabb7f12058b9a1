#include "databases/postgres/command.h"

#include <charconv>

namespace walship::postgres {

namespace {

constexpr size_t kSlotNameBytesMax = 63;

bool isSpace(char letter) { return letter == ' ' || (letter >= '\t' && letter <= '\r'); }
bool isWordLetter(char letter) {
  return (letter >= 'a' && letter <= 'z') || (letter >= 'A' && letter <= 'Z') || (letter >= '0' && letter <= '9') ||
         letter == '_' || letter == '$' || static_cast<unsigned char>(letter) >= 0x80;
}

struct Token {
  enum class Kind : uint8_t { end, word, quoted, text, punctuation } kind = Kind::end;
  std::string value;

  bool is(std::string_view keyword) const {
    if (kind != Kind::word || value.size() != keyword.size()) return false;
    for (size_t i = 0; i < value.size(); ++i) {
      const char letter = value[i] >= 'a' && value[i] <= 'z' ? static_cast<char>(value[i] - 32) : value[i];
      if (letter != keyword[i]) return false;
    }
    return true;
  }
  bool isMark(char mark) const { return kind == Kind::punctuation && value[0] == mark; }
};

class Tokens {
 public:
  explicit Tokens(std::string_view text) : rest_(text) { next(); }

  const Token& peek() const { return token_; }
  Token take() {
    Token taken = std::move(token_);
    next();
    return taken;
  }
  bool accept(std::string_view keyword) {
    if (!token_.is(keyword)) return false;
    next();
    return true;
  }
  bool accept(char mark) {
    if (!token_.isMark(mark)) return false;
    next();
    return true;
  }
  bool atEnd() const { return token_.kind == Token::Kind::end; }
  Error error() const {
    if (atEnd()) return makeError("WALSHIP_ERR_POSTGRES_SYNTAX", "syntax error at end of command");
    return makeError("WALSHIP_ERR_POSTGRES_SYNTAX", "syntax error at or near \"" + token_.value.substr(0, 60) + "\"");
  }

 private:
  void next() {
    while (!rest_.empty() && isSpace(rest_[0])) rest_.remove_prefix(1);
    token_ = {};
    if (rest_.empty()) return;
    const char first = rest_[0];
    if (first == '"' || first == '\'') {
      token_.kind = first == '"' ? Token::Kind::quoted : Token::Kind::text;
      size_t at = 1;
      // A doubled quote stands for one.
      for (; at < rest_.size(); ++at) {
        if (rest_[at] == first) {
          if (at + 1 >= rest_.size() || rest_[at + 1] != first) break;
          ++at;
        }
        token_.value.push_back(rest_[at]);
      }
      if (at >= rest_.size()) token_ = {Token::Kind::punctuation, std::string(1, first)};  // never closed
      rest_.remove_prefix(std::min(at + 1, rest_.size()));
      return;
    }
    size_t length = 0;
    // An LSN is a word here: X/Y.
    while (length < rest_.size() && (isWordLetter(rest_[length]) || (rest_[length] == '/' && length > 0))) ++length;
    token_.kind = length > 0 ? Token::Kind::word : Token::Kind::punctuation;
    token_.value = rest_.substr(0, std::max<size_t>(length, 1));
    rest_.remove_prefix(token_.value.size());
  }

  std::string_view rest_;
  Token token_;
};

std::optional<uint32_t> takeNumber(Tokens& tokens) {
  const Token& token = tokens.peek();
  if (token.kind != Token::Kind::word) return std::nullopt;
  uint32_t value = 0;
  const char* end = token.value.data() + token.value.size();
  const auto parsed = std::from_chars(token.value.data(), end, value);
  if (parsed.ec != std::errc{} || parsed.ptr != end) return std::nullopt;
  tokens.take();
  return value;
}

std::optional<std::string> takeName(Tokens& tokens) {
  const Token& token = tokens.peek();
  if ((token.kind != Token::Kind::word && token.kind != Token::Kind::quoted) || token.value.empty()) return std::nullopt;
  return tokens.take().value;
}

Result<std::string> takeSlot(Tokens& tokens) {
  const auto name = takeName(tokens);
  if (!name) return tokens.error();
  const bool valid = name->size() <= kSlotNameBytesMax &&
                     name->find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_") == std::string::npos;
  if (valid) return *name;
  return makeError("WALSHIP_ERR_POSTGRES_SLOT_NAME", "replication slot name \"" + *name +
                                                         "\" contains invalid character or is too long");
}

template <class T>
Result<Command> whole(const Tokens& tokens, T command) {
  if (!tokens.atEnd()) return tokens.error();
  return Command(std::move(command));
}

Result<Command> parseStart(Tokens& tokens) {
  StartReplication start;
  if (tokens.accept("SLOT")) {
    auto slot = takeSlot(tokens);
    if (!slot) return slot.error();
    start.slot = slot.take();
  }
  tokens.accept("PHYSICAL");
  if (tokens.peek().is("LOGICAL")) return Command(ForServer{"START_REPLICATION … LOGICAL"});
  const auto lsn = tokens.peek().kind == Token::Kind::word ? parseLsn(tokens.peek().value) : std::nullopt;
  if (!lsn) return tokens.error();
  start.lsn = *lsn;
  tokens.take();
  if (tokens.accept("TIMELINE")) {
    const auto timeline = takeNumber(tokens);
    if (!timeline) return tokens.error();
    if (*timeline == 0) return makeError("WALSHIP_ERR_POSTGRES_SYNTAX", "invalid timeline 0");
    start.timeline = *timeline;
  }
  return whole(tokens, std::move(start));
}

Result<Command> parseCreate(Tokens& tokens) {
  CreateSlot create;
  auto slot = takeSlot(tokens);
  if (!slot) return slot.error();
  create.slot = slot.take();
  create.temporary = tokens.accept("TEMPORARY");
  if (tokens.peek().is("LOGICAL")) return Command(ForServer{"CREATE_REPLICATION_SLOT … LOGICAL"});
  if (!tokens.accept("PHYSICAL")) return tokens.error();
  if (tokens.accept('(')) {
    do {
      const auto option = takeName(tokens);
      if (!option) return tokens.error();
      if (*option != "reserve_wal" && *option != "RESERVE_WAL") {
        return makeError("WALSHIP_ERR_POSTGRES_SYNTAX", "unrecognized option: " + *option);
      }
      create.reserve = true;
      const Token& value = tokens.peek();
      if (value.kind == Token::Kind::word || value.kind == Token::Kind::text) {
        const std::string given = tokens.take().value;
        create.reserve = given != "false" && given != "off" && given != "0";
      }
    } while (tokens.accept(','));
    if (!tokens.accept(')')) return tokens.error();
  } else {
    create.reserve = tokens.accept("RESERVE_WAL");
  }
  return whole(tokens, std::move(create));
}

}  // namespace

Result<Command> parseCommand(std::string_view text) {
  while (!text.empty() && (isSpace(text.back()) || text.back() == ';')) text.remove_suffix(1);
  Tokens tokens(text);
  if (tokens.atEnd()) return Command(Nothing{});
  if (tokens.accept("IDENTIFY_SYSTEM")) return whole(tokens, IdentifySystem{});
  if (tokens.accept("SHOW")) {
    auto name = takeName(tokens);
    if (!name) return tokens.error();
    for (char& letter : *name) {
      if (letter >= 'A' && letter <= 'Z') letter = static_cast<char>(letter + 32);
    }
    return whole(tokens, Show{std::move(*name)});
  }
  if (tokens.accept("TIMELINE_HISTORY")) {
    const auto timeline = takeNumber(tokens);
    if (!timeline) return tokens.error();
    if (*timeline == 0) return makeError("WALSHIP_ERR_POSTGRES_SYNTAX", "invalid timeline 0");
    return whole(tokens, TimelineHistory{*timeline});
  }
  if (tokens.accept("START_REPLICATION")) return parseStart(tokens);
  if (tokens.accept("CREATE_REPLICATION_SLOT")) return parseCreate(tokens);
  if (tokens.accept("READ_REPLICATION_SLOT")) {
    auto slot = takeSlot(tokens);
    if (!slot) return slot.error();
    return whole(tokens, ReadSlot{slot.take()});
  }
  if (tokens.accept("DROP_REPLICATION_SLOT")) {
    auto slot = takeSlot(tokens);
    if (!slot) return slot.error();
    tokens.accept("WAIT");
    return whole(tokens, DropSlot{slot.take()});
  }
  if (tokens.peek().is("BASE_BACKUP")) return Command(BaseBackup{std::string(text)});
  return Command(ForServer{tokens.peek().value});
}

}  // namespace walship::postgres

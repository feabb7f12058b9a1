// The session with one downstream: answers its hand-shake, ships to it from the arena, takes its acknowledgements.
// Pump thread only.
//
// Ownership: the session pins a page from its first ship() until the link no longer reads it; the pins outlive the link.
#pragma once

#include <deque>
#include <optional>

#include "base/histogram.h"
#include "replication/exchange.h"
#include "replication/parked.h"

namespace walship {

class DownstreamSession final : public LinkHandler {
 public:
  DownstreamSession(SessionHost& host, std::unique_ptr<Link> link, std::string node);
  ~DownstreamSession();

  // Answers and ships what it can. true: something was done.
  bool step(uint64_t nowNs);
  // A page asked for by requestLoad(): there, or why not.
  void onPage(uint64_t page, const Error* error);
  void end(Error error);

  Link& link() { return *link_; }
  const Link& link() const { return *link_; }
  const std::string& node() const { return node_; }
  uint64_t nodeKey() const { return nodeKey_; }
  uint64_t number() const { return offer_.session; }  // as the downstream counts its sessions
  uint64_t heardNs() const { return heardNs_; }
  const std::optional<Error>& ended() const { return ended_; }
  bool streaming() const { return state_ == State::streaming; }
  uint64_t shippedLsnPage() const { return cursorPage_; }
  const Histogram& roundTripNs() const { return roundTripNs_; }
  void askPages(const PageQuery& query, PageExchange::Answered answered) { exchange_.ask(query, std::move(answered)); }
  bool polledBusy = false;  // the pump's note: the last poll() found something
  Silence silence;          // and this

  void onLanded(uint32_t grantId, uint32_t length) override;
  void onMessage(Bytes message) override;
  void onShipped(uint64_t count) override;
  void onDown(const Error& error) override { end(error); }

 private:
  enum class State : uint8_t { awaitingOffer, answering, streaming, refused };
  struct Page {
    Pin pin;
    uint64_t lastShip = 0;  // number of the last ship() that reads it
  };

  void answerOffer();
  void answerAtStart();
  void answer(AnswerKind kind, const LogPosition& start);
  void refuse(const char* code, const std::string& message);
  void take(const Ack& ack);
  bool ship();
  Pin* cursorPin();
  void say(Buffer message);
  void talkOfPages();

  SessionHost& host_;
  const std::string node_;
  const uint64_t nodeKey_;
  std::optional<Error> ended_;
  Error refusal_;             // of State::refused
  uint64_t refusedNs_ = 0;
  State state_ = State::awaitingOffer;
  Offer offer_;

  uint64_t cursorPage_ = 0;
  uint32_t cursorOffset_ = 0;
  bool cursorPageDone_ = false;  // nothing of that page is to be shipped: the log here begins behind it
  uint64_t loadAskedPage_ = UINT64_MAX;
  uint64_t askedUpTo_ = 0;    // pages asked for by this session lie below: taking them up is no access of its own
  std::deque<Grant> grants_;  // in page order
  uint64_t ships_ = 0;
  std::deque<Page> pages_;    // pinned: the last one may be the cursor's
  std::deque<Buffer> unsent_;
  PageExchange exchange_;
  uint64_t heartbeatSentNs_ = 0;
  uint64_t committedSent_ = 0;
  EpochStart reignSent_;
  CommitLevel awaitedSent_ = CommitLevel::async;
  uint64_t heardNs_ = 0;
  uint64_t ackSentNs_ = 0;  // of the newest ack, on the downstream's clock
  Histogram roundTripNs_;
  std::unique_ptr<Link> link_;  // last: destroyed first
};

}  // namespace walship

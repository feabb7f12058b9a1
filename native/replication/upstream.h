// The session with this node's upstream: offers where the log ends, grants pages, takes what lands in them, checks it,
// and acknowledges. Pump thread only.
//
// Ownership: a granted page is pinned until it is the tail page or the session ends; the pins outlive the link, whose
// destruction is what keeps late bytes of the peer out of reused pages.
#pragma once

#include <deque>
#include <optional>

#include "replication/exchange.h"
#include "replication/parked.h"

namespace walship {

class UpstreamSession final : public LinkHandler {
 public:
  // `number` tells the sessions of this node apart, for its upstream.
  UpstreamSession(SessionHost& host, std::unique_ptr<Link> link, std::string node, uint64_t number);
  ~UpstreamSession();

  bool step(uint64_t nowNs);
  // `flushed` or `applied` of this node moved, if `due` so that somebody may wait for it, or (`below`) a position of its
  // subtree.
  void positionsMoved(bool due, bool below);
  // When step() has an acknowledgement to send, on the monotonic clock.
  uint64_t ackDueNs() const { return unsent_.empty() ? ackDueNs_ : UINT64_MAX; }
  void end(Error error);

  Link& link() { return *link_; }
  const std::string& node() const { return node_; }
  uint64_t number() const { return number_; }
  uint64_t heardNs() const { return heardNs_; }
  const std::optional<Error>& ended() const { return ended_; }
  bool streaming() const { return state_ == State::streaming; }
  uint64_t epoch() const { return epoch_.epoch; }  // the upstream's, as last heard
  void askPages(const PageQuery& query, PageExchange::Answered answered) { exchange_.ask(query, std::move(answered)); }
  bool polledBusy = false;  // the pump's note: the last poll() found something
  Silence silence;          // and this

  void onLanded(uint32_t grantId, uint32_t length) override;
  void onMessage(Bytes message) override;
  void onShipped(uint64_t) override {}
  void onDown(const Error& error) override { end(error); }

 private:
  enum class State : uint8_t { offering, streaming };
  struct Granted {
    uint32_t id;
    Pin pin;
  };

  void offer();
  void take(const Answer& answer);
  void cutTo(uint64_t lsn);
  void grantPages();
  void ackDue(bool awaited);
  void acknowledge(uint64_t nowNs);
  void heard();
  bool checkEpoch(const EpochStart& epoch);
  bool joinEpoch(NodeRecord record);
  bool epochToNote() const;
  bool noteEpochs(Bytes page, const LogPosition& from, const LogPosition& to);
  void say(Buffer message);
  void talkOfPages();

  SessionHost& host_;
  const std::string node_;
  const uint64_t number_;
  std::optional<Error> ended_;
  State state_ = State::offering;
  LogPosition offered_;
  uint32_t cuts_ = 0;
  EpochStart epoch_;  // the upstream's

  uint32_t tailGrant_ = 0;       // id of the grant of the tail page
  uint32_t nextGrant_ = 1;
  std::deque<Granted> ahead_;    // granted pages behind the tail page, in page order
  std::deque<Buffer> unsent_;
  PageExchange exchange_;
  uint64_t ackDueNs_ = 0;
  uint64_t ackSentNs_ = 0;
  uint64_t echoNs_ = 0;
  uint64_t heardNs_ = 0;
  uint64_t describedVersion_ = 0;
  Horizon horizonSaid_;
  std::unique_ptr<Link> link_;   // last: destroyed first
};

}  // namespace walship

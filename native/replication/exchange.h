// One end's part in the questions about pages that the two nodes of a link may put to each other: one at a time in each
// direction, sent when the link has nothing else to say, dropped with it. Pump thread only.
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "replication/host.h"
#include "replication/messages.h"

namespace walship {

class PageExchange {
 public:
  using Answered = std::function<void(Result<PageReply>)>;

  explicit PageExchange(SessionHost& host) : host_(host) {}
  PageExchange(const PageExchange&) = delete;
  PageExchange& operator=(const PageExchange&) = delete;
  ~PageExchange();

  // `answered` is called once: with the reply, or with WALSHIP_ERR_BUSY (a question is under way) or WALSHIP_ERR_LINK_CLOSED.
  void ask(PageQuery query, Answered answered);
  // What the peer asks and answers. false: it does not keep to the rules.
  bool take(const PageQuery& query);
  bool take(PageReply reply);
  // Gives one message to `send`, if there is any; it is kept if that says false.
  template <class Send>
  void step(Send&& send) {
    if (toSend_ && send(*toSend_)) toSend_.reset();
    if (!*answer_) return;
    if (!send(**answer_)) return;
    answer_->reset();
    answering_ = false;
  }

 private:
  SessionHost& host_;
  std::optional<PageQuery> asked_;
  Answered answered_;
  std::optional<Buffer> toSend_;  // the question
  uint32_t lastId_ = 0;
  bool answering_ = false;
  // Shared with whoever makes the answer, who may come when the link is gone.
  std::shared_ptr<std::optional<Buffer>> answer_ = std::make_shared<std::optional<Buffer>>();
};

}  // namespace walship

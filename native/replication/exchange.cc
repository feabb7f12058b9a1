#include "replication/exchange.h"

#include <utility>

namespace walship {

PageExchange::~PageExchange() {
  if (asked_) answered_(makeError("WALSHIP_ERR_LINK_CLOSED", "the link ended before the neighbour's answer"));
}

void PageExchange::ask(PageQuery query, Answered answered) {
  if (asked_) return answered(makeError("WALSHIP_ERR_BUSY", "the neighbour has not answered the question before"));
  query.id = ++lastId_;
  asked_ = query;
  answered_ = std::move(answered);
  toSend_ = encode(query);
}

bool PageExchange::take(const PageQuery& query) {
  if (std::exchange(answering_, true)) return false;
  host_.answerPages(query, [answer = std::weak_ptr(answer_)](const PageReply& reply) {
    if (const auto waiting = answer.lock()) *waiting = encode(reply);
  });
  return true;
}

bool PageExchange::take(PageReply reply) {
  if (!asked_ || toSend_ || reply.id != asked_->id || reply.question != asked_->question) return false;
  const bool copies = reply.question == PageQuestion::copies;
  if (copies ? reply.copies.size() != asked_->count : !reply.bytes.empty() && reply.bytes.size() != asked_->count) return false;
  asked_.reset();
  std::exchange(answered_, nullptr)(std::move(reply));
  return true;
}

}  // namespace walship

#include "replication/messages.h"

#include <doctest/doctest.h>

#include <random>

#include "replication/commit_rule.h"
#include "replication/tree.h"

using namespace walship;

TEST_CASE("messages: what is said is understood") {
  Offer offer{6, true, {1000, 42, 3, 5, 640}, 4, 900, 1u << 18, 256, {{1, 0}, {3, 512}}};
  const auto offerBack = decodeMessage(encode(offer));
  REQUIRE(offerBack);
  CHECK(std::get<Offer>(offerBack.value()).tail == offer.tail);
  CHECK(std::get<Offer>(offerBack.value()).history == offer.history);

  Answer answer;
  answer.kind = AnswerKind::refuse;
  answer.code = "WALSHIP_ERR_EPOCH";
  answer.message = std::string(400, 'x');  // cut to what a name may have
  const auto answerBack = decodeMessage(encode(answer));
  REQUIRE(answerBack);
  CHECK(std::get<Answer>(answerBack.value()).message.size() == 255);

  Ack ack{77, 78, {{1, 3, {30, 20, 10}}, {2, 2, {9, 9, 9}}}};
  const auto ackBack = decodeMessage(encode(ack));
  REQUIRE(ackBack);
  CHECK(std::get<Ack>(ackBack.value()).entries[1].positions == Positions{9, 9, 9});
  CHECK(std::get<Ack>(ackBack.value()).entries[1].epoch == 2);

  const auto heartbeat = decodeMessage(encode(Heartbeat{7, 600, 900, 800, 700, 5, CommitLevel::flushed, 4, 3}));
  REQUIRE(heartbeat);
  CHECK(std::get<Heartbeat>(heartbeat.value()).epochFirstLsn == 600);
  CHECK(std::get<Heartbeat>(heartbeat.value()).tailLsn == 900);

  const Rails rails{{{"10.0.0.1", 7400, "rxe0", 100'000, 4096, -1}, {"::1", 1, "", 0, 0, 3}}};
  const auto railsBack = decodeMessage(encode(rails));
  REQUIRE(railsBack);
  CHECK(std::get<Rails>(railsBack.value()).ends == rails.ends);
  const auto probe = decodeMessage(encode(Probe{8, true, 9}));
  REQUIRE(probe);
  CHECK(std::get<Probe>(probe.value()).answer);
  CHECK(std::get<Probe>(probe.value()).retransmits == 9);
  const auto bind = decodeMessage(encode(Bind{5, 1, 2}));
  REQUIRE(bind);
  CHECK(std::get<Bind>(bind.value()).lane == 1);
  const auto lost = decodeMessage(encode(Lost{5}));
  REQUIRE(lost);
  CHECK(std::get<Lost>(lost.value()).session == 5);
}

TEST_CASE("messages: what no node says is refused") {
  const auto refused = [](const Buffer& bytes) {
    const auto decoded = decodeMessage(bytes);
    return !decoded && decoded.error().is("WALSHIP_ERR_LINK_PROTOCOL");
  };
  CHECK(refused({}));
  CHECK(refused({std::byte{99}}));
  CHECK(refused(encode(Ack{0, 0, {{1, 1, {10, 20, 0}}}})));  // flushed beyond received
  Offer backwards;
  backwards.history = {{2, 100}, {1, 200}};
  CHECK(refused(encode(backwards)));
  std::vector<Grant> grants{{1, 1, kPageBytesMax + 1, {}}};
  CHECK(refused(encode(grants)));
  CHECK(refused(encode(Bind{1, 2, 2})));
  CHECK(refused(encode(Bind{1, 0, 1})));
  CHECK(refused(encode(Bind{1, 0, kLanesMax + 1})));
  CHECK(refused(encode(Rails{{{"", 1, "", 0, 0, 0}}})));
  CHECK(refused(encode(PageQuery{1, PageQuestion::copies, 0, 0, kCopiesPerReplyMax + 1})));
  CHECK(refused(encode(PageQuery{1, PageQuestion::copies, 0, 0, 0})));
  CHECK(refused(encode(PageQuery{1, PageQuestion::bytes, 0, kPageBytesMax, 1})));
  CHECK(refused(encode(PageQuery{1, PageQuestion::bytes, kPageNumberMax + 1, 0, 1})));
}

TEST_CASE("messages: every truncation and every appended byte is refused, no flipped bit crashes") {
  Offer offer{6, true, {1000, 42, 3, 5, 640}, 4, 900, 1u << 18, 256, {{1, 0}, {3, 512}}};
  for (const Buffer& whole : {encode(offer), encode(Answer{}), encode(Heartbeat{1, 2, 3, 4, 5, 6, CommitLevel::applied, 7, 8}),
                              encode(Rails{{{"10.0.0.1", 7400, "rxe0", 1, 2, 3}}}), encode(Probe{1, false, 2}), encode(Bind{1, 0, 2}),
                              encode(Lost{1}),
                              encode(Describe{1, 2, "n", "tcp", "", "a", "b"}), encode(std::vector<Grant>{{1, 2, 3, {4, 5}}}),
                              encode(Ack{1, 2, {{2, 1, {3, 2, 1}}}}), encode(Horizon{1, 2}), encode(PageQuery{1, PageQuestion::bytes, 2, 64, 128}),
                              encode(PageReply{1, PageQuestion::copies, {{CopyState::good, 1, 2, 3, 4, 5}, {}}, {}}),
                              encode(PageReply{1, PageQuestion::bytes, {}, Buffer(128)})}) {
    REQUIRE(decodeMessage(whole));
    for (size_t length = 0; length < whole.size(); ++length) CHECK_FALSE(decodeMessage(Bytes(whole).first(length)));
    Buffer longer = whole;
    longer.push_back(std::byte{0});
    CHECK_FALSE(decodeMessage(longer));
    for (size_t bit = 0; bit < whole.size() * 8; ++bit) {
      Buffer flipped = whole;
      flipped[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
      static_cast<void>(decodeMessage(flipped));
    }
  }
}

TEST_CASE("tree: the oldest that anybody below needs") {
  Tree tree;
  int one = 0;
  int other = 0;
  CHECK(tree.horizon() == Horizon{});
  tree.setHorizon({700, 0}, &one);
  tree.setHorizon({900, 50}, &other);
  CHECK(tree.horizon() == Horizon{700, 50});
  tree.setHorizon({}, &one);
  CHECK(tree.horizon() == Horizon{900, 50});
  tree.dropVia(&other);
  CHECK(tree.horizon() == Horizon{});
}

TEST_CASE("tree: positions count only in the epoch in which their node vouches for them") {
  Tree tree;
  int session = 0;
  REQUIRE(tree.describe({1, 0, "a", "", "", "", ""}, &session));
  REQUIRE(tree.describe({2, 1, "b", "", "", "", ""}, &session));
  REQUIRE(tree.update({1, 4, {100, 100, 100}}, &session, 1));
  REQUIRE(tree.update({2, 3, {100, 100, 100}}, &session, 1));
  CHECK(tree.takeMoved());
  REQUIRE(tree.vouchedIn(4).size() == 1);
  CHECK(tree.vouchedIn(4)[0].nodeKey == 1);
  // The epoch alone moves: that may be all that a commit waits for.
  REQUIRE(tree.update({2, 4, {100, 100, 100}}, &session, 2));
  CHECK(tree.takeMoved());
  CHECK(tree.vouchedIn(4).size() == 2);
  CHECK(tree.vouchedIn(3).empty());
}

TEST_CASE("commit rule: async is the primary's own flush") {
  CHECK(committedBy({}, {100, 60, 10}, {}) == 60);
}

TEST_CASE("commit rule: any k takes the k-th most advanced, and never more than the primary has") {
  const std::vector<StandbyPositions> standbys{{1, {90, 50, 5}}, {2, {80, 70, 60}}, {3, {10, 10, 10}}};
  CHECK(committedBy({CommitLevel::received, CommitChoice::any, 1, {}}, {100, 0, 0}, standbys) == 90);
  CHECK(committedBy({CommitLevel::received, CommitChoice::any, 2, {}}, {100, 0, 0}, standbys) == 80);
  CHECK(committedBy({CommitLevel::received, CommitChoice::any, 3, {}}, {100, 0, 0}, standbys) == 10);
  CHECK(committedBy({CommitLevel::flushed, CommitChoice::any, 1, {}}, {100, 65, 0}, standbys) == 65);
  CHECK(committedBy({CommitLevel::flushed, CommitChoice::any, 1, {}, false}, {75, 65, 0}, standbys) == 70);
  CHECK(committedBy({CommitLevel::flushed, CommitChoice::any, 1, {}, false}, {68, 65, 0}, standbys) == 68);
  CHECK(committedBy({CommitLevel::applied, CommitChoice::any, 1, {}}, {100, 100, 0}, standbys) == 60);
}

TEST_CASE("commit rule: too few standbys commit nothing, they do not lower the bar") {
  const std::vector<StandbyPositions> standbys{{1, {90, 50, 5}}};
  CHECK_FALSE(committedBy({CommitLevel::received, CommitChoice::any, 2, {}}, {100, 100, 0}, standbys));
  CHECK_FALSE(committedBy({CommitLevel::received, CommitChoice::any, 1, {7}}, {100, 100, 0}, standbys));
  CHECK_FALSE(committedBy({CommitLevel::received, CommitChoice::any, 1, {}}, {100, 100, 0}, {}));
}

TEST_CASE("commit rule: first k waits for the first connected ones of the list") {
  const std::vector<StandbyPositions> standbys{{1, {10, 10, 10}}, {2, {90, 90, 90}}, {3, {80, 80, 80}}};
  CHECK(committedBy({CommitLevel::received, CommitChoice::first, 1, {1, 2, 3}}, {100, 100, 0}, standbys) == 10);
  CHECK(committedBy({CommitLevel::received, CommitChoice::first, 1, {9, 2, 3}}, {100, 100, 0}, standbys) == 90);
  CHECK(committedBy({CommitLevel::received, CommitChoice::first, 2, {2, 9, 3}}, {100, 100, 0}, standbys) == 80);
}

TEST_CASE("commit rule: for random positions it is what counting says") {
  std::mt19937 random(7);
  for (int round = 0; round < 2000; ++round) {
    std::vector<StandbyPositions> standbys;
    for (uint64_t key = 0; key < random() % 6; ++key) standbys.push_back({key, {random() % 20, 0, 0}});
    const uint32_t count = 1 + random() % 4;
    const auto committed = committedBy({CommitLevel::received, CommitChoice::any, count, {}}, {15, 0, 0}, standbys);
    uint64_t best = 0;
    for (uint64_t lsn = 0; lsn <= 15; ++lsn) {
      const auto have = std::count_if(standbys.begin(), standbys.end(), [&](const auto& each) { return each.positions.received >= lsn; });
      if (have >= static_cast<int64_t>(count)) best = lsn;
    }
    CHECK(committed.has_value() == (standbys.size() >= count));
    if (committed) CHECK(*committed == best);
  }
}

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cache/radix_audit.h"
#include "cache/radix_state.h"
#include "cache/sequence_id_pool.h"

namespace llamaherd {
namespace {

using Violations = std::vector<std::string>;

constexpr SeqId kFirstHolder = 2;

/// Sequence 0 is attached at the end of 1 2 3 4; 1 2 5 6 7 is idle and held by the first holder.
struct Example {
  Example() {
    state.start(0);
    state.attach(0, state.root(0));
    upper = add_held(state.root(0), {1, 2});
    idle = add_held(upper, {5, 6, 7});
    idle->payload.holder = holders.acquire();
    idle->payload.holder_end = idle->end();
    state.descend(0, upper, false);
    running = add_held(upper, {3, 4});
    state.descend(0, running, true);
  }

  RadixNode* add_held(RadixNode* parent, const std::vector<TokenId>& tokens) {
    RadixNode* node = state.add_child(parent, tokens);
    state.set_held(node, true);
    state.touch(node);
    return node;
  }

  RadixNode* add_stored(RadixNode* parent, const std::vector<TokenId>& tokens) {
    RadixNode* node = state.add_child(parent, tokens);
    node->payload.blocks.push_back(
        std::make_shared<KvBlock>(KvBlock{node->begin, node->end(), {}, 0}));
    state.reindex(node);
    state.reindex(parent);
    return node;
  }

  Violations violations() { return radix_audit::violations(state, holders, 0); }

  RadixState state{2, 100};
  SequenceIdPool holders{2, kFirstHolder};
  RadixNode* upper = nullptr;
  RadixNode* idle = nullptr;
  RadixNode* running = nullptr;
};

class RadixStateTest : public ::testing::Test, protected Example {};

TEST_F(RadixStateTest, CountsCells) {
  EXPECT_EQ(violations(), Violations{});
  EXPECT_EQ(state.n_nodes(), 3);
  EXPECT_EQ(state.n_held(), 7);
  EXPECT_EQ(state.n_running(), 4);
  state.start(1);
  state.set_private_length(1, 10);
  EXPECT_EQ(state.n_private(), 10);
  EXPECT_EQ(state.n_free(), 100 - 7 - 10);
  EXPECT_EQ(state.stop(1), nullptr);
  EXPECT_EQ(state.n_free(), 100 - 7);
}

TEST_F(RadixStateTest, AnIdleLeafIsEvictable) {
  EXPECT_EQ(state.evictable().size(), 1u);
  EXPECT_EQ(state.evictable().begin()->second, idle);
  state.unindex(idle);
  EXPECT_TRUE(state.evictable().empty());
  state.reindex(idle);
  EXPECT_EQ(state.stop(0), running);
  EXPECT_EQ(state.evictable().size(), 2u);
  EXPECT_EQ(state.n_running(), 0);
}

TEST_F(RadixStateTest, SplittingKeepsCountsAndOrders) {
  RadixNode* top = state.split(idle, 3);
  EXPECT_EQ(violations(), Violations{});
  EXPECT_EQ(top->tokens, std::vector<TokenId>{5});
  EXPECT_EQ(idle->tokens, (std::vector<TokenId>{6, 7}));
  EXPECT_EQ(state.n_nodes(), 4);
  EXPECT_EQ(state.n_held(), 7);
  EXPECT_EQ(state.evictable().begin()->second, idle);
}

TEST_F(RadixStateTest, ALeafGrowsWithItsSequence) {
  state.grow(running, std::vector<TokenId>{8, 9});
  EXPECT_EQ(running->end(), 6);
  EXPECT_EQ(state.n_held(), 9);
  EXPECT_EQ(state.n_running(), 6);
  EXPECT_EQ(violations(), Violations{});
}

TEST_F(RadixStateTest, ShiftMovesTheBeginningOfAChildToItsParent) {
  RadixNode* child = add_stored(running, {8, 9});
  EXPECT_EQ(state.stored_leaves().size(), 1u);
  state.shift(child, 1);
  EXPECT_EQ(running->tokens, (std::vector<TokenId>{3, 4, 8}));
  EXPECT_EQ(child->tokens, std::vector<TokenId>{9});
  EXPECT_EQ(state.n_held(), 8);
  EXPECT_EQ(state.n_running(), 5);
  EXPECT_EQ(violations(), Violations{});
}

TEST_F(RadixStateTest, RemovingTheLastNodeRemovesTheRoot) {
  RadixNode* ghost = state.add_child(state.root(7), std::vector<TokenId>{1, 2});
  state.reindex(ghost);
  EXPECT_EQ(state.n_ghost_tokens(), 2);
  EXPECT_NE(state.tree().find(7, {}).node, nullptr);
  state.remove(ghost);
  EXPECT_EQ(state.n_ghost_tokens(), 0);
  EXPECT_EQ(state.tree().find(7, {}).node, nullptr);
  EXPECT_EQ(violations(), Violations{});
}

TEST_F(RadixStateTest, ASequenceIsStartedAndStoppedOnce) {
  EXPECT_THROW(state.start(0), std::logic_error);
  EXPECT_EQ(state.stop(0), running);
  EXPECT_THROW(state.stop(0), std::logic_error);
  EXPECT_THROW(state.stop(1), std::logic_error);
}

TEST_F(RadixStateTest, HolderOfFindsAnIdThatHoldsTheWholePath) {
  EXPECT_EQ(holder_of(*running), 0);
  EXPECT_EQ(holder_of(*idle), kFirstHolder);
  EXPECT_EQ(holder_of(*upper), 0);
  state.stop(0);
  state.set_held(running, false);
  EXPECT_EQ(holder_of(*upper), kFirstHolder);
}

TEST_F(RadixStateTest, PinsAreThoseOfTheLastMark) {
  EXPECT_EQ(state.pinned_end(*idle), idle->begin);
  PinnedPrefixes pins;
  pins.pin("part", {0, {1, 2, 5, 9}, 0});
  pins.pin("less", {0, {1}, 0});
  pins.pin("another namespace", {1, {1, 2, 5, 6, 7}, 0});
  state.mark_pinned(pins);
  EXPECT_EQ(state.pinned_end(*idle), 3);
  EXPECT_EQ(state.pinned_end(*upper), 2);
  EXPECT_EQ(state.pinned_end(*running), running->begin);
  pins.unpin("part");
  state.mark_pinned(pins);
  EXPECT_EQ(state.pinned_end(*idle), idle->begin);
  EXPECT_EQ(state.pinned_end(*upper), 1);
}

TEST_F(RadixStateTest, ClearDetachesAndRemovesAll) {
  state.clear();
  EXPECT_EQ(state.n_nodes(), 0);
  EXPECT_EQ(state.n_free(), 100);
  EXPECT_TRUE(state.evictable().empty());
  EXPECT_FALSE(state.sequence(0).in_use);
  EXPECT_EQ(radix_audit::violations(state, SequenceIdPool(2, kFirstHolder), 0), Violations{});
}

TEST_F(RadixStateTest, TheAuditExpectsTheLengthOfEachSequenceId) {
  std::vector<std::pair<SeqId, Pos>> lengths;
  for (const auto& e : radix_audit::expected_lengths(state, holders)) {
    lengths.emplace_back(e.seq, e.length);
  }
  EXPECT_EQ(lengths, (std::vector<std::pair<SeqId, Pos>>{{0, 4}, {1, 0}, {2, 5}, {3, 0}}));
}

struct Fault {
  const char* violation;  // a part of the sentence
  std::function<void(RadixNode& idle, RadixNode& running)> cause;
};

TEST_F(RadixStateTest, TheAuditFindsFaults) {
  const std::vector<Fault> faults = {
      {"link from the parent", [](RadixNode& idle, RadixNode&) { ++idle.begin; }},
      {"count of held children",
       [](RadixNode& idle, RadixNode&) { ++idle.payload.n_held_children; }},
      {"count of running", [](RadixNode& idle, RadixNode&) { ++idle.payload.n_running; }},
      {"not attached here", [](RadixNode& idle, RadixNode&) { idle.payload.attached = {0}; }},
      {"not held", [](RadixNode&, RadixNode& running) { running.payload.held = false; }},
      {"evictable leaves", [](RadixNode& idle, RadixNode&) { ++idle.payload.rank.second; }},
      {"holds all of it", [](RadixNode& idle, RadixNode&) { --idle.payload.holder_end; }},
      {"another node's", [](RadixNode&, RadixNode& running) { running.payload.holder = 3; }},
      {"does not need",
       [](RadixNode& idle, RadixNode&) {
         idle.parent->payload.holder = std::exchange(idle.payload.holder, kNoSeq);
       }},
      {"with a copy in host memory",
       [](RadixNode& idle, RadixNode&) {
         idle.payload.blocks.push_back(std::make_shared<KvBlock>());
       }},
  };
  for (const Fault& fault : faults) {
    Example example;
    ASSERT_EQ(example.violations(), Violations{});
    fault.cause(*example.idle, *example.running);
    EXPECT_TRUE(std::ranges::any_of(example.violations(), [&fault](const std::string& violation) {
      return violation.find(fault.violation) != std::string::npos;
    })) << fault.violation;
  }
}

TEST_F(RadixStateTest, TheAuditFindsMissingData) {
  RadixNode* stored = add_stored(running, {8, 9});
  EXPECT_EQ(violations(), Violations{});
  EXPECT_EQ(radix_audit::violations(state, holders, 10).size(), 1u);
  stored->payload.blocks.front()->end = 5;
  EXPECT_EQ(violations(), Violations{"node [4, 6): stored, but its blocks do not cover it"});
}

TEST_F(RadixStateTest, TheAuditFindsAHolderOfNothing) {
  holders.acquire();
  EXPECT_EQ(violations(), Violations{"holders, found vs counted: 1 != 2"});
}

}  // namespace
}  // namespace llamaherd

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "cache/radix_tree.h"

namespace llamaherd {
namespace {

using Path = std::vector<TokenId>;

/// Knows its range, so that a payload in the wrong place is seen.
struct Range {
  Pos begin = 0;
  Pos end = 0;
  Range split_off(Pos at) { return {std::exchange(begin, at), at}; }
};
using Tree = RadixTree<Range>;
using Node = Tree::Node;

Path path_of(const Node* node) {
  Path path(node->end());
  for (; !node->is_root(); node = node->parent) {
    std::ranges::copy(node->tokens, path.begin() + node->begin);
  }
  return path;
}

/// A trie with one entry per token.
class Twin {
 public:
  void add(std::uint64_t space, const Path& path) {
    for (std::size_t n = 1; n <= path.size(); ++n) {
      prefixes_[space].emplace(path.begin(), path.begin() + static_cast<std::ptrdiff_t>(n));
    }
  }
  Pos find(std::uint64_t space, const Path& path) {
    Path prefix;
    for (const TokenId token : path) {
      prefix.push_back(token);
      if (!prefixes_[space].contains(prefix)) return static_cast<Pos>(prefix.size()) - 1;
    }
    return static_cast<Pos>(path.size());
  }
  /// What begins with the path, itself included.
  void remove(std::uint64_t space, const Path& path) {
    std::set<Path>& all = prefixes_[space];
    auto it = all.lower_bound(path);
    while (it != all.end() && it->size() >= path.size() &&
           std::equal(path.begin(), path.end(), it->begin())) {
      it = all.erase(it);
    }
  }
  std::size_t size() const {
    std::size_t n = 0;
    for (const auto& [space, prefixes] : prefixes_) n += prefixes.size();
    return n;
  }

 private:
  std::map<std::uint64_t, std::set<Path>> prefixes_;
};

void add(Tree& tree, std::uint64_t space, const Path& path) {
  const Tree::Match found = tree.find(space, path);
  if (found.n == static_cast<Pos>(path.size())) return;
  Node* node = found.n == 0 ? tree.root(space) : found.node;
  if (found.n > 0 && found.n < node->end()) node = tree.split(node, found.n);
  const std::span<const TokenId> rest = std::span(path).subspan(found.n);
  if (!node->is_root() && node->children.empty()) {
    tree.append(node, rest);
  } else {
    node = tree.add_child(node, rest);
    node->payload.begin = node->begin;
  }
  node->payload.end = node->end();
}

void check(const Tree& tree, Twin& twin) {
  std::size_t n_tokens = 0;
  std::set<const Node*> seen;
  tree.for_each([&](const Node& node) {
    n_tokens += node.tokens.size();
    ASSERT_TRUE(node.is_root() || seen.contains(node.parent)) << "a child before its parent";
    seen.insert(&node);
    ASSERT_EQ(node.is_root(), node.tokens.empty());
    if (!node.is_root()) {
      ASSERT_EQ(node.begin, node.parent->end());
      ASSERT_EQ(node.space, node.parent->space);
      ASSERT_EQ(node.payload.begin, node.begin);
      ASSERT_EQ(node.payload.end, node.end());
    }
    for (const auto& [token, child] : node.children) {
      ASSERT_EQ(child->parent, &node);
      ASSERT_EQ(child->tokens.front(), token);
    }
    if (node.children.empty() && !node.is_root()) {
      const Path path = path_of(&node);
      ASSERT_EQ(twin.find(node.space, path), node.end());
    }
  });
  ASSERT_EQ(n_tokens, twin.size());
}

Path random_path(std::mt19937& rng, TokenId n_letters, std::size_t max_length) {
  Path path(1 + rng() % max_length);
  for (TokenId& token : path) token = static_cast<TokenId>(rng() % 64) % n_letters;
  return path;
}

Node* random_node(const Tree& tree, std::mt19937& rng, std::uint64_t space, const Path& path) {
  const Tree::Match found = tree.find(space, path);
  if (found.n == 0) return nullptr;
  Node* node = found.node;
  for (std::size_t n = rng() % 3; n > 0 && !node->parent->is_root(); --n) node = node->parent;
  return node;
}

TEST(RadixTree, AgreesWithATrieOverRandomOperations) {
  for (std::uint32_t seed = 1; seed <= 80; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 rng(seed);
    const auto n_letters = static_cast<TokenId>(2 + seed % 3);
    const std::size_t max_length = 4 + rng() % 20;
    Tree tree;
    Twin twin;
    for (int i = 0; i < 4000; ++i) {
      const std::uint64_t space = rng() % 2;
      const Path path = random_path(rng, n_letters, max_length);
      switch (rng() % 8) {
        case 0:
        case 1:
        case 2:
          add(tree, space, path);
          twin.add(space, path);
          break;
        case 3:
          if (Node* node = random_node(tree, rng, space, path); node && node->length() > 1) {
            const Path whole = path_of(node);
            Node* upper = tree.split(
                node, node->begin + 1 + static_cast<Pos>(rng() % 7) % (node->length() - 1));
            ASSERT_EQ(node->parent, upper);
            ASSERT_EQ(path_of(node), whole) << "the pointer stands for the lower part";
          }
          break;
        case 4:
          if (Node* node = random_node(tree, rng, space, path); node && node->children.empty()) {
            Path whole = path_of(node);
            if (node->length() < 2) break;
            const Pos end = node->begin + 1 + static_cast<Pos>(rng() % (node->length() - 1));
            tree.truncate(node, end);
            node->payload.end = end;
            whole.resize(end + 1);
            twin.remove(space, whole);
          }
          break;
        case 5:
          if (Node* node = random_node(tree, rng, space, path)) {
            Path first = path_of(node);
            first.resize(node->begin + 1);
            tree.remove(node);
            twin.remove(space, first);
          }
          break;
        default: {
          const Tree::Match found = tree.find(space, path);
          ASSERT_EQ(found.n, twin.find(space, path));
          if (found.n == 0) break;
          ASSERT_GT(found.n, found.node->begin);
          ASSERT_LE(found.n, found.node->end());
        }
      }
      if (i % 100 == 0) check(tree, twin);
      if (HasFatalFailure()) return;
    }
  }
}

TEST(RadixTree, AnUnknownSpaceMatchesNothing) {
  Tree tree;
  add(tree, 1, {5, 6});
  EXPECT_EQ(tree.find(2, Path{5, 6}).node, nullptr);
  EXPECT_EQ(tree.find(1, Path{7}).node, tree.root(1));
  EXPECT_EQ(tree.find(1, Path{7}).n, 0);
  EXPECT_EQ(tree.find(1, Path{}).n, 0);
}

TEST(RadixTree, AMatchEndsInsideAnEdge) {
  Tree tree;
  add(tree, 0, {1, 2, 3, 4});
  const Tree::Match found = tree.find(0, Path{1, 2, 9});
  EXPECT_EQ(found.n, 2);
  EXPECT_EQ(found.node->end(), 4);
}

TEST(RadixTree, SplitKeepsThePointersOfBothNeighbours) {
  Tree tree;
  add(tree, 0, {1, 2, 3, 4});
  add(tree, 0, {1, 2, 3, 4, 5});
  Node* leaf = tree.find(0, Path{1, 2, 3, 4, 5}).node;
  tree.split(leaf, 4);
  Node* middle = leaf->parent;
  Node* upper = tree.split(middle, 2);
  EXPECT_EQ(leaf->parent, middle);
  EXPECT_EQ(middle->parent, upper);
  EXPECT_EQ(path_of(leaf), (Path{1, 2, 3, 4, 5}));
  EXPECT_EQ(path_of(middle), (Path{1, 2, 3, 4}));
}

TEST(RadixTree, ADeepChainIsDestroyedWithoutRecursion) {
  for (const bool by_remove : {false, true}) {
    Tree tree;
    Node* node = tree.root(0);
    for (TokenId i = 0; i < 200000; ++i) node = tree.add_child(node, Path{i});
    EXPECT_EQ(node->end(), 200000);
    std::size_t divergence_pos = 0;
    tree.for_each([&divergence_pos](const Node&) { ++divergence_pos; });
    EXPECT_EQ(divergence_pos, 200001u);
    if (by_remove) tree.remove(tree.root(0)->child(0));
  }
}

}  // namespace
}  // namespace llamaherd

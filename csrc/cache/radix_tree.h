#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "common/common_prefix.h"
#include "common/types.h"

namespace llamaherd {

/// A compressed trie of token paths with one root per namespace: a shared prefix is stored once.
/// Independent of sequences and cells. The user's data per node is the Payload, which must have
///
///   Payload split_off(Pos at);  // for the new upper node [begin, at); *this keeps [at, end)
///
/// Node pointers stay valid until remove(): split() gives the upper part to the new node.
template <typename Payload>
class RadixTree {
 public:
  RadixTree() = default;
  RadixTree(const RadixTree&) = delete;
  RadixTree& operator=(const RadixTree&) = delete;
  ~RadixTree() { clear(); }

  struct Node {
    Node* parent = nullptr;  // null: a root
    CacheNamespace space = 0;
    Pos begin = 0;                // position of tokens[0]
    std::vector<TokenId> tokens;  // the edge from the parent; empty for a root only
    std::map<TokenId, std::unique_ptr<Node>> children;  // by first token
    Payload payload;

    Pos length() const { return static_cast<Pos>(tokens.size()); }
    Pos end() const { return begin + length(); }
    bool is_root() const { return parent == nullptr; }
    Node* child(TokenId first) const {
      const auto it = children.find(first);
      return it == children.end() ? nullptr : it->second.get();
    }
  };

  struct Match {
    Node* node = nullptr;  // the deepest node with a matched token; the root, or null, if none has
    Pos n = 0;             // tokens matched: in (node->begin, node->end()]
  };

  /// The longest stored prefix of `tokens`. O(n) in its length, independent of the tree's size.
  Match find(CacheNamespace space, std::span<const TokenId> tokens) const {
    const auto it = roots_.find(space);
    if (it == roots_.end()) return {};
    Match match{it->second.get(), 0};
    const auto n_tokens = static_cast<Pos>(tokens.size());
    while (match.n == match.node->end() && match.n < n_tokens) {
      Node* next = match.node->child(tokens[match.n]);
      if (next == nullptr) break;
      match.n += common(*next, tokens.subspan(match.n));
      match.node = next;
    }
    return match;
  }

  /// Length of the longest common prefix of the edge of `node` and `tokens`.
  static Pos common(const Node& node, std::span<const TokenId> tokens) {
    return common_length(node.tokens, tokens);
  }

  /// The root of a namespace, created if it is missing.
  Node* root(CacheNamespace space) {
    std::unique_ptr<Node>& root = roots_[space];
    if (!root) {
      root = std::make_unique<Node>();
      root->space = space;
    }
    return root.get();
  }

  /// Splits an edge at position `at`, begin < at < end. Returns the new node [begin, at); `lower`
  /// becomes its child and keeps [at, end) and its own children.
  Node* split(Node* lower, Pos at) {
    const Pos n = at - lower->begin;
    auto upper = std::make_unique<Node>();
    upper->parent = lower->parent;
    upper->space = lower->space;
    upper->begin = lower->begin;
    upper->tokens.assign(lower->tokens.begin(), lower->tokens.begin() + n);
    upper->payload = lower->payload.split_off(at);
    Node* result = upper.get();
    std::unique_ptr<Node>& slot = lower->parent->children[upper->tokens[0]];
    std::unique_ptr<Node> owned = std::exchange(slot, std::move(upper));
    lower->tokens.erase(lower->tokens.begin(), lower->tokens.begin() + n);
    lower->begin = at;
    lower->parent = result;
    result->children.emplace(lower->tokens[0], std::move(owned));
    return result;
  }

  /// `node` must have no child that begins with tokens[0].
  Node* add_child(Node* node, std::span<const TokenId> tokens) {
    auto child = std::make_unique<Node>();
    child->parent = node;
    child->space = node->space;
    child->begin = node->end();
    child->tokens.assign(tokens.begin(), tokens.end());
    return (node->children[tokens[0]] = std::move(child)).get();
  }

  /// Lengthens the edge of a leaf.
  void append(Node* leaf, std::span<const TokenId> tokens) {
    leaf->tokens.insert(leaf->tokens.end(), tokens.begin(), tokens.end());
  }

  /// Moves the first n tokens of an only child's edge, of which some must be left, to its parent's.
  /// The caller adapts the payloads.
  void shift(Node* parent, Pos n) {
    const auto first = parent->children.begin();
    std::unique_ptr<Node> child = std::move(first->second);
    parent->children.erase(first);
    parent->tokens.insert(parent->tokens.end(), child->tokens.begin(), child->tokens.begin() + n);
    child->tokens.erase(child->tokens.begin(), child->tokens.begin() + n);
    child->begin += n;
    parent->children.emplace(child->tokens[0], std::move(child));
  }

  /// Shortens an edge to [begin, end), begin < end. The node must have no children.
  void truncate(Node* leaf, Pos end) { leaf->tokens.resize(end - leaf->begin); }

  /// Destroys a node and all nodes below it.
  void remove(Node* node) {
    if (node->is_root()) {
      dispose(std::move(roots_.extract(node->space).mapped()));
    } else {
      dispose(std::move(node->parent->children.extract(node->tokens[0]).mapped()));
    }
  }

  void clear() {
    while (!roots_.empty()) remove(roots_.begin()->second.get());
  }

  /// Every node, parents before children, roots included.
  template <typename Visit>
  void for_each(Visit&& visit) const {
    for (const auto& [space, root] : roots_) walk(*root, visit);
  }

  /// `node` and every node below it, parents first.
  template <typename Visit>
  static void walk(Node& node, Visit&& visit) {
    std::vector<Node*> pending{&node};
    while (!pending.empty()) {
      Node* next = pending.back();
      pending.pop_back();
      for (const auto& [token, child] : next->children) pending.push_back(child.get());
      visit(*next);
    }
  }

 private:
  // Neither this nor walk() recurses: repeated splits make a tree as deep as its paths are long.
  static void dispose(std::unique_ptr<Node> node) {
    std::vector<std::unique_ptr<Node>> pending;
    pending.push_back(std::move(node));
    while (!pending.empty()) {
      const std::unique_ptr<Node> next = std::move(pending.back());
      pending.pop_back();
      for (auto& [token, child] : next->children) pending.push_back(std::move(child));
    }
  }

  std::map<CacheNamespace, std::unique_ptr<Node>> roots_;
};

}  // namespace llamaherd

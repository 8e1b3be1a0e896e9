#pragma once

#include <cstddef>
#include <random>
#include <span>
#include <vector>

#include "cache/radix_tree.h"

namespace llamaherd {

/// Paths for a radix tree alone, in groups of eight with a common first half.
class TreePaths {
 public:
  struct Nothing {
    Nothing split_off(Pos) { return {}; }
  };
  using Tree = RadixTree<Nothing>;

  TreePaths(std::size_t n_paths, Pos n_tokens) : paths_(n_paths) {
    for (std::size_t i = 0; i < n_paths; ++i) {
      const std::vector<TokenId>& group = paths_[i - i % kGroup];
      if (i % kGroup != 0) paths_[i].assign(group.begin(), group.begin() + n_tokens / 2);
      while (std::ssize(paths_[i]) < n_tokens) {
        paths_[i].push_back(static_cast<TokenId>(random_() % 32000));
      }
    }
  }

  /// Inserts every path; edges are split where two paths diverge.
  void insert_all(Tree& tree) const {
    for (const std::vector<TokenId>& path : paths_) insert(tree, path);
  }

  /// Sum of the matched tokens of all paths.
  Pos find_all(const Tree& tree) const {
    Pos n = 0;
    for (const std::vector<TokenId>& path : paths_) n += tree.find(0, path).n;
    return n;
  }

  /// Appends n tokens to each path, one at a time and in turns, as by requests that decode
  /// together.
  void grow_all(Tree& tree, Pos n) const {
    std::vector<Tree::Node*> leaves;
    for (const std::vector<TokenId>& path : paths_) leaves.push_back(tree.find(0, path).node);
    for (TokenId token = 0; token < n; ++token) {
      for (Tree::Node* leaf : leaves) tree.append(leaf, std::span(&token, 1));
    }
  }

  /// Removes every path up to where another continues.
  void remove_all(Tree& tree) const {
    for (const std::vector<TokenId>& path : paths_) {
      Tree::Node* node = tree.find(0, path).node;
      while (!node->is_root() && node->children.empty()) {
        Tree::Node* parent = node->parent;
        tree.remove(node);
        node = parent;
      }
    }
  }

  std::size_t size() const { return paths_.size(); }

 private:
  static constexpr std::size_t kGroup = 8;

  static void insert(Tree& tree, std::span<const TokenId> path) {
    const Tree::Match match = tree.find(0, path);
    Tree::Node* node = match.node == nullptr ? tree.root(0) : match.node;
    if (match.n < node->end()) node = tree.split(node, match.n);
    tree.add_child(node, path.subspan(match.n));
  }

  std::mt19937 random_{1};
  std::vector<std::vector<TokenId>> paths_;
};

}  // namespace llamaherd

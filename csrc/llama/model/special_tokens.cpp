#include "llama/model/special_tokens.h"

#include <algorithm>
#include <cctype>
#include <map>

namespace llamaherd {
namespace {

bool is_blank(char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; }

}  // namespace

SpecialTokens::SpecialTokens(const llama_vocab* vocab) {
  roots_.fill(-1);
  constexpr int kSpecial =
      LLAMA_TOKEN_ATTR_CONTROL | LLAMA_TOKEN_ATTR_USER_DEFINED | LLAMA_TOKEN_ATTR_UNKNOWN;
  for (TokenId token = 0; token < llama_vocab_n_tokens(vocab); ++token) {
    const int attr = llama_vocab_get_attr(vocab, token);
    if (!(attr & kSpecial)) continue;
    specials_.push_back({token, llama_vocab_get_text(vocab, token),
                         !(attr & (LLAMA_TOKEN_ATTR_CONTROL | LLAMA_TOKEN_ATTR_UNKNOWN)),
                         (attr & LLAMA_TOKEN_ATTR_LSTRIP) != 0,
                         (attr & LLAMA_TOKEN_ATTR_RSTRIP) != 0});
    strip_ |= specials_.back().strips_left || specials_.back().strips_right;
  }
  // llama.cpp's order of precedence. std::sort is required: it gives names of equal length the same
  // order as llama.cpp's own call.
  std::sort(specials_.begin(), specials_.end(),
            [](const Special& a, const Special& b) { return a.text.size() > b.text.size(); });
  for (std::size_t rank = 0; rank < specials_.size(); ++rank) insert(static_cast<Rank>(rank));
}

void SpecialTokens::insert(Rank rank) {
  const Special& special = specials_[rank];
  if (special.text.empty()) return;
  std::int32_t* link = &roots_[static_cast<unsigned char>(special.text[0])];
  std::int32_t node = -1;
  for (const char byte : special.text) {
    while (*link >= 0 && nodes_[*link].byte != byte) link = &nodes_[*link].sibling;
    node = *link;
    if (node < 0) {
      node = static_cast<std::int32_t>(nodes_.size());
      *link = node;  // before nodes_ is reallocated
      nodes_.push_back({.byte = byte});
    }
    link = &nodes_[node].first_child;
  }
  // Of several tokens with one name the first is used.
  if (nodes_[node].rank == kNone) nodes_[node].rank = rank;
  if (special.user_defined && nodes_[node].user_defined_rank == kNone) {
    nodes_[node].user_defined_rank = rank;
  }
}

std::int32_t SpecialTokens::child(std::int32_t node, char byte) const {
  std::int32_t at = nodes_[node].first_child;
  while (at >= 0 && nodes_[at].byte != byte) at = nodes_[at].sibling;
  return at;
}

/// Calls visit(rank) for each name that begins at `begin`, shortest first.
template <typename F>
void SpecialTokens::for_each_at(std::string_view text, std::size_t begin, bool all,
                                F&& visit) const {
  std::int32_t node = roots_[static_cast<unsigned char>(text[begin])];
  for (std::size_t at = begin + 1; node >= 0; ++at) {
    const Rank rank = all ? nodes_[node].rank : nodes_[node].user_defined_rank;
    if (rank != kNone) visit(rank);
    if (at == text.size()) return;
    node = child(node, text[at]);
  }
}

std::vector<TextPart> SpecialTokens::split(std::string_view text, bool all) const {
  std::vector<std::size_t> n_found(specials_.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    for_each_at(text, i, all, [&](Rank rank) { ++n_found[rank]; });
  }
  std::vector<TextPart> parts;
  std::map<std::size_t, std::size_t> open;  // text without a token so far: begin, end
  if (!text.empty()) open[0] = text.size();

  const auto take = [&](Rank rank, std::size_t begin) {
    const Special& special = specials_[rank];
    const std::size_t end = begin + special.text.size();
    auto at = open.upper_bound(begin);
    if (at == open.begin()) return;
    --at;
    const auto [first, last] = *at;
    if (end > last) return;
    open.erase(at);
    std::size_t left_end = begin;
    while (special.strips_left && left_end > first && is_blank(text[left_end - 1])) --left_end;
    std::size_t right_begin = end;
    while (special.strips_right && right_begin < last && is_blank(text[right_begin])) {
      ++right_begin;
    }
    if (left_end > first) open[first] = left_end;
    if (right_begin < last) open[right_begin] = last;
    parts.push_back({begin, end, special.token});
  };

  // Processes ranks in groups with about as many occurrences as the text has bytes, to bound
  // memory.
  std::vector<std::pair<Rank, std::size_t>> found;
  for (Rank first = 0, last = 0; first < std::ssize(specials_); first = last) {
    std::size_t n = 0;
    while (last < std::ssize(specials_) && (n == 0 || n + n_found[last] <= text.size())) {
      n += n_found[last++];
    }
    if (n == 0) continue;
    found.clear();
    for (const auto& [begin, end] : open) {
      const std::string_view stretch = text.substr(0, end);
      for (std::size_t i = begin; i < end; ++i) {
        for_each_at(stretch, i, all, [&, i](Rank rank) {
          if (first <= rank && rank < last) found.emplace_back(rank, i);
        });
      }
    }
    std::sort(found.begin(), found.end());
    for (const auto& [rank, begin] : found) take(rank, begin);
  }
  for (const auto& [begin, end] : open) parts.push_back({begin, end});
  std::sort(parts.begin(), parts.end(),
            [](const TextPart& a, const TextPart& b) { return a.begin < b.begin; });
  return parts;
}

}  // namespace llamaherd

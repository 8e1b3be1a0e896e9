#include "sampling/infill.h"

#include <string_view>

namespace llamaherd {
namespace {

constexpr double kEndFactor = 3;
constexpr double kLeastShare = 0.2;

double mass_of(const std::vector<TokenLogit>& candidates) {
  double mass = 0;
  for (const TokenLogit& c : candidates) mass += c.weight;
  return mass;
}

/// Removes tokens with less than `share` of the mass, except those that end the text. Returns the
/// number of tokens left that do not.
std::size_t drop_below(std::vector<TokenLogit>& candidates, double share, const Vocabulary& table) {
  const double least = share * mass_of(candidates);
  std::size_t n_text = 0;
  std::erase_if(candidates, [&](const TokenLogit& c) {
    if (table.ends_generation(c.token)) return false;
    n_text += c.weight >= least;
    return c.weight < least;
  });
  return n_text;
}

void merge_prefixes(std::vector<TokenLogit>& candidates, const Vocabulary& table) {
  for (TokenLogit& shorter : candidates) {
    const std::string_view prefix = table.piece(shorter.token);
    if (prefix.empty()) continue;  // a special token
    for (TokenLogit& longer : candidates) {
      if (&longer == &shorter || longer.weight == 0) continue;
      if (shorter.weight == 0) break;  // merged into another
      if (!table.piece(longer.token).starts_with(prefix)) continue;
      TokenLogit& likelier = longer.weight > shorter.weight ? longer : shorter;
      TokenLogit& other = &likelier == &longer ? shorter : longer;
      likelier.weight += other.weight;
      other.weight = 0;
    }
  }
}

}  // namespace

void keep_sure(std::vector<TokenLogit>& candidates, const Vocabulary& table) {
  double end = 0;
  for (const TokenLogit& c : candidates) end += table.ends_generation(c.token) ? c.weight : 0;
  if (kEndFactor * end * static_cast<double>(candidates.size()) > mass_of(candidates) - end) {
    std::erase_if(candidates, [&](const TokenLogit& c) { return !table.ends_generation(c.token); });
    return;
  }
  merge_prefixes(candidates, table);
  const std::size_t n_text = drop_below(candidates, kLeastShare, table);
  if (n_text == 0) {
    candidates.clear();
    return;
  }
  drop_below(candidates, 1.0 / static_cast<double>(n_text + 1), table);
}

}  // namespace llamaherd

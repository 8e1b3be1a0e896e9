#include "common/stop_strings.h"

#include <algorithm>
#include <utility>

namespace llamaherd {
namespace {

std::vector<std::uint32_t> borders_of(const std::string& text) {
  std::vector<std::uint32_t> borders(text.size());
  std::uint32_t n = 0;
  for (std::size_t i = 1; i < text.size(); ++i) {
    while (n > 0 && text[i] != text[n]) n = borders[n - 1];
    if (text[i] == text[n]) ++n;
    borders[i] = n;
  }
  return borders;
}

}  // namespace

StopStrings::StopStrings(std::vector<std::string> texts) : texts_(std::move(texts)) {
  borders_.reserve(texts_.size());
  for (const std::string& text : texts_) borders_.push_back(borders_of(text));
}

std::size_t StopMatcher::put(char byte) {
  std::size_t longest = 0;
  for (std::size_t i = 0; i < n_matched_.size(); ++i) {
    const std::string& text = stops_->texts_[i];
    const std::vector<std::uint32_t>& borders = stops_->borders_[i];
    std::uint32_t n = n_matched_[i];
    while (n > 0 && (n == text.size() || text[n] != byte)) n = borders[n - 1];
    if (text[n] == byte) ++n;
    n_matched_[i] = n;
    if (n == text.size()) longest = std::max(longest, text.size());
  }
  return longest;
}

std::size_t StopMatcher::n_open() const {
  return n_matched_.empty() ? 0 : *std::ranges::max_element(n_matched_);
}

void StopMatcher::reset() { std::ranges::fill(n_matched_, 0); }

}  // namespace llamaherd

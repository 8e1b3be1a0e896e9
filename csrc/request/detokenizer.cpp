#include "request/detokenizer.h"

#include <algorithm>

namespace llamaherd {
namespace {

/// How the bytes at the front decode: a complete character, an invalid one, or a truncated one.
/// Ranges of the second byte: Unicode 15, table 3-7.
struct Character {
  enum class Kind { kWhole, kBroken, kCutShort } kind;
  std::size_t length;
};

Character next_character(std::string_view bytes) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(bytes[i]); };
  const unsigned lead = byte(0);
  if (lead < 0x80) return {Character::Kind::kWhole, 1};
  std::size_t length = 0;
  unsigned low = 0x80, high = 0xBF;
  if (lead >= 0xC2 && lead <= 0xDF) {
    length = 2;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    length = 3;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    length = 4;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  } else {
    return {Character::Kind::kBroken, 1};
  }
  for (std::size_t i = 1; i < length; ++i) {
    if (i == bytes.size()) return {Character::Kind::kCutShort, i};
    if (byte(i) < low || byte(i) > high) return {Character::Kind::kBroken, i};
    low = 0x80;
    high = 0xBF;
  }
  return {Character::Kind::kWhole, length};
}

}  // namespace

std::size_t append_utf8(std::string_view bytes, bool is_final, std::string& out) {
  std::size_t done = 0;
  while (done < bytes.size()) {
    const Character c = next_character(bytes.substr(done));
    if (c.kind == Character::Kind::kCutShort && !is_final) break;
    if (c.kind == Character::Kind::kWhole) {
      out.append(bytes, done, c.length);
    } else {
      out.append("\xEF\xBF\xBD");
    }
    done += c.length;
  }
  return done;
}

void Detokenizer::put(std::string_view bytes, bool check_stops, std::string& out) {
  held_ += bytes;
  std::size_t n_keep = 0;
  if (!check_stops) {
    stops_.reset();
    n_matched_ = 0;
  } else if (!stops_.empty()) {
    const std::size_t stop = find_stop();
    if (stop != std::string::npos) {
      stopped_ = true;
      append_utf8(std::string_view(held_).substr(0, stop), true, out);
      held_.clear();
      return;
    }
    n_keep = stops_.n_open();
  }
  const std::string_view free = std::string_view(held_).substr(0, held_.size() - n_keep);
  const std::size_t n_shown = append_utf8(free, false, out);
  held_.erase(0, n_shown);
  n_matched_ -= std::min(n_matched_, n_shown);
}

void Detokenizer::finish(std::string& out) {
  append_utf8(held_, true, out);
  held_.clear();
}

/// Position at which the first complete stop string starts.
std::size_t Detokenizer::find_stop() {
  while (n_matched_ < held_.size()) {
    const std::size_t length = stops_.put(held_[n_matched_++]);
    if (length > 0) return n_matched_ - length;
  }
  return std::string::npos;
}

}  // namespace llamaherd

#pragma once

#include <cstdint>
#include <stdexcept>
#include <vector>

#include "backend/backend.h"

namespace llamaherd {

/// The rows of a decode call. Token ids do not affect the time: these exist in any vocabulary.
struct Rows {
  std::vector<TokenId> tokens;
  std::vector<Pos> positions;
  std::vector<SeqId> seqs;
  std::vector<std::uint8_t> wants_logits;

  void add(SeqId seq, Pos pos, bool wants) {
    tokens.push_back((seq * 7919 + pos * 104729) % 120);
    positions.push_back(pos);
    seqs.push_back(seq);
    wants_logits.push_back(wants);
  }

  /// Adds the first n tokens of a sequence; the last row needs logits.
  void add_prompt(SeqId seq, Pos n) {
    for (Pos pos = 0; pos < n; ++pos) add(seq, pos, pos + 1 == n);
  }

  void decode(Backend& backend) const {
    const BatchView view{tokens, positions, seqs, wants_logits};
    if (backend.decode(view) != DecodeStatus::kOk) throw std::runtime_error("decode failed");
  }
};

}  // namespace llamaherd

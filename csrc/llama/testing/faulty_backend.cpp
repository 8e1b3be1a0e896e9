#include "llama/testing/faulty_backend.h"

#ifdef __linux__
#include <sys/resource.h>
#include <unistd.h>
#endif

#include <algorithm>
#include <cstring>
#include <fstream>
#include <limits>
#include <new>
#include <stdexcept>

namespace llamaherd {
namespace {

BatchView rows_of(const BatchView& batch, std::size_t begin, std::size_t end) {
  const std::size_t n = end - begin;
  return {batch.tokens.subspan(begin, n), batch.positions.subspan(begin, n),
          batch.seqs.subspan(begin, n), batch.wants_logits.subspan(begin, n)};
}

/// Limits the process to n more bytes of address space during its lifetime.
class AddressSpaceLimit {
 public:
#ifdef __linux__
  explicit AddressSpaceLimit(std::int64_t n_bytes) {
    std::int64_t n_pages = 0;
    std::ifstream("/proc/self/statm") >> n_pages;
    getrlimit(RLIMIT_AS, &before_);
    const auto n = static_cast<rlim_t>(n_pages * sysconf(_SC_PAGESIZE) + n_bytes);
    const rlimit limit = {std::min(n, before_.rlim_cur), before_.rlim_max};
    setrlimit(RLIMIT_AS, &limit);
  }
  ~AddressSpaceLimit() { setrlimit(RLIMIT_AS, &before_); }
  AddressSpaceLimit(const AddressSpaceLimit&) = delete;
  AddressSpaceLimit& operator=(const AddressSpaceLimit&) = delete;

 private:
  rlimit before_;
#else
  explicit AddressSpaceLimit(std::int64_t) {
    throw std::logic_error("memory can be exhausted on Linux only");
  }
#endif
};

/// Parses a sequence saved by llama_kv_cache::state_write.
class SavedCells {
 public:
  explicit SavedCells(std::span<std::byte> bytes) : bytes_(bytes) {
    skip(sizeof(std::uint32_t) + sizeof(std::int32_t));  // magic, sequence
  }

  /// Fills all K and V rows. A cache with a window has two parts.
  void fill_with_nan() {
    while (at_ < bytes_.size()) {
      const auto n_streams = get<std::uint32_t>();
      for (std::uint32_t stream = 0; stream < n_streams; ++stream) fill_stream();
    }
  }

 private:
  template <typename T>
  T get() {
    T value;
    std::memcpy(&value, skip(sizeof value).data(), sizeof value);
    return value;
  }

  std::span<std::byte> skip(std::size_t n) {
    if (n > bytes_.size() - at_) throw std::logic_error("a saved sequence ends too early");
    at_ += n;
    return bytes_.subspan(at_ - n, n);
  }

  void fill_stream() {
    const auto n_cells = get<std::uint32_t>();
    if (n_cells == 0) return;
    for (std::uint32_t cell = 0; cell < n_cells; ++cell) {
      get<std::int32_t>();  // position
      skip(get<std::uint32_t>() * sizeof(std::int32_t));
    }
    if (get<std::uint32_t>() != 0) throw std::logic_error("saved values are transposed");
    const auto n_layers = get<std::uint32_t>();
    for (std::uint32_t tensor = 0; tensor < 2 * n_layers; ++tensor) {
      get<std::int32_t>();  // type
      const auto row_size = get<std::uint64_t>();
      // All ones are a NaN in float types, and in the scales of quantised types.
      std::ranges::fill(skip(n_cells * row_size), std::byte{0xFF});
    }
  }

  std::span<std::byte> bytes_;
  std::size_t at_ = 0;
};

}  // namespace

DecodeStatus FaultyBackend::decode(const BatchView& batch) {
  logits_.clear();
  if (const auto row = script_->find_cursed(batch.tokens)) {
    script_->next();
    decode_part(batch, 0, *row);
    throw std::runtime_error("a cursed token");
  }
  const auto fault = script_->next();
  if (!fault) return decode_poisonous(batch);
  DecodeStatus status = DecodeStatus::kOk;
  switch (fault->kind) {
    case ScriptedFault::Kind::kAbort:
      inner_->abort_after(fault->after);
      status = decode_poisonous(batch);
      if (status == DecodeStatus::kAborted) script_->happened(fault->kind);
      return status;
    case ScriptedFault::Kind::kFail:
      status = decode_part(batch, 0,
                           std::min(static_cast<std::size_t>(fault->after), batch.tokens.size()));
      if (status != DecodeStatus::kOk) return status;
      script_->happened(fault->kind);
      throw std::bad_alloc();
    case ScriptedFault::Kind::kExhaust:
      return decode_exhausted(batch, fault->after);
    case ScriptedFault::Kind::kPoison:
      status = decode_poisonous(batch);
      if (status != DecodeStatus::kOk) return status;
      poison(batch, 0, batch.tokens.size());
      script_->happened(fault->kind);
      return status;
  }
  throw std::logic_error("unknown kind of fault");
}

DecodeStatus FaultyBackend::decode_exhausted(const BatchView& batch, std::int64_t n_bytes) {
  try {
    const AddressSpaceLimit limit(n_bytes);
    return decode_poisonous(batch);
  } catch (const std::exception&) {
    script_->happened(ScriptedFault::Kind::kExhaust);
    throw;
  }
}

/// Decodes in parts that end with a poisonous token each: later rows attend to NaN.
DecodeStatus FaultyBackend::decode_poisonous(const BatchView& batch) {
  const std::size_t n_rows = batch.tokens.size();
  for (std::size_t begin = 0; begin < n_rows;) {
    const auto row = script_->find_poisonous(batch.tokens.subspan(begin));
    if (!row && begin == 0) return inner_->decode(batch);
    const std::size_t end = row ? begin + *row + 1 : n_rows;
    const DecodeStatus status = decode_part(batch, begin, end);
    if (status != DecodeStatus::kOk) return status;
    if (row) {
      poison(batch, end - 1, end);
      const auto logits = logits_.find(static_cast<std::int32_t>(end - 1));
      if (logits != logits_.end()) {
        std::ranges::fill(logits->second, std::numeric_limits<float>::quiet_NaN());
      }
    }
    begin = end;
  }
  return DecodeStatus::kOk;
}

/// Keeps a copy of the part's logits, which the next part overwrites.
DecodeStatus FaultyBackend::decode_part(const BatchView& batch, std::size_t begin,
                                        std::size_t end) {
  if (begin == end) return DecodeStatus::kOk;
  const DecodeStatus status = inner_->decode(rows_of(batch, begin, end));
  if (status != DecodeStatus::kOk) return status;
  for (std::size_t row = begin; row < end; ++row) {
    if (!batch.wants_logits[row]) continue;
    const std::span<float> logits = inner_->logits(static_cast<std::int32_t>(row - begin));
    logits_[static_cast<std::int32_t>(row)].assign(logits.begin(), logits.end());
  }
  return status;
}

std::span<float> FaultyBackend::logits(std::int32_t row) {
  const auto it = logits_.find(row);
  return it == logits_.end() ? inner_->logits(row) : std::span(it->second);
}

/// Poisons the cells of rows [begin, end), which must be the last of their sequences.
void FaultyBackend::poison(const BatchView& batch, std::size_t begin, std::size_t end) {
  for (std::size_t row = begin; row < end;) {
    std::size_t next = row + 1;
    while (next < end && batch.seqs[next] == batch.seqs[row]) ++next;
    if (batch.seqs[row] != info().pad_seq) {
      poison(batch.seqs[row], batch.positions[row], batch.positions[next - 1] + 1);
    }
    row = next;
  }
}

void FaultyBackend::poison(SeqId seq, Pos begin, Pos end) {
  if (!info().partial_removal) throw std::logic_error("a state cannot be poisoned cell by cell");
  std::vector<std::pair<Pos, std::vector<std::byte>>> blocks;
  for (Pos pos = begin; pos < end;) {
    const Pos block_end = std::min(end, (pos / info().kv_save_block + 1) * info().kv_save_block);
    std::vector<std::byte>& block =
        blocks.emplace_back(block_end, inner_->save(seq, pos, block_end)).second;
    SavedCells(block).fill_with_nan();
    pos = block_end;
  }
  inner_->remove(seq, begin, kToEnd);
  for (const auto& [block_end, block] : blocks) {
    const Pos block_begin = inner_->length(seq);
    if (!inner_->load(seq, block_begin, block_end, block)) {
      throw std::logic_error("a poisoned block could not be loaded");
    }
  }
}

}  // namespace llamaherd

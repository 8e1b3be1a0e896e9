#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/types.h"

namespace llamaherd {

/// One entry per row (token). All spans have the same length.
struct BatchView {
  std::span<const TokenId> tokens;
  std::span<const Pos> positions;
  std::span<const SeqId> seqs;
  std::span<const std::uint8_t> wants_logits;
};

/// Result of decode() for the cache.
enum class DecodeStatus {
  kOk,            // all rows applied, logits valid
  kNoRoom,        // cache unchanged: fewer free cells than rows
  kInvalidBatch,  // cache unchanged: a row breaks the backend's rules
  kAborted,       // some rows may be applied; no logits
  kFailed,        // like kAborted
};

struct BackendInfo {
  std::int32_t n_vocab = 0;
  std::int32_t n_ctx = 0;            // KV cells shared by all sequences
  std::int32_t n_ctx_train = 0;      // context length in training, in tokens
  std::int32_t n_seqs = 0;           // sequence ids in batches: [0, n_seqs)
  std::int32_t n_batch = 0;          // most rows of one decode call
  std::int32_t max_scored_rows = 0;  // rows that may need logits in addition to one per sequence
  std::int32_t n_threads = 1;        // most CPU threads of a decode call
  SeqId pad_seq = kNoSeq;  // sequence id of padding rows; kNoSeq: padding is not supported
  SeqId first_holder =
      0;  // ids [first_holder, first_holder + n_holders) are not used in batches: they
  std::int32_t n_holders = 0;        // hold cells of no running sequence
  std::int32_t kv_save_block = 256;  // save() takes ranges within one of [0, kv_save_block),
                                     // [kv_save_block, 2 kv_save_block)...
  bool partial_removal = true;       // remove() supports a part of a sequence
  bool attends_in_tiles = true;      // see ShapeSum
};

using ParallelTask = std::function<void(std::int32_t i, std::int32_t thread)>;

/// A model with a KV cache. Not thread-safe, except abort().
class Backend {
 public:
  virtual ~Backend() = default;

  virtual const BackendInfo& info() const = 0;

  /// Removes [begin, end) of `seq`, to its end if `end` is kToEnd. Cells without a sequence become
  /// free. Returns false, without changes, if a part of a sequence cannot be removed.
  virtual bool remove(SeqId seq, Pos begin, Pos end) = 0;

  /// Shares the cells of [begin, end) of `from` with `to`. Copies no K/V data.
  virtual void copy(SeqId from, SeqId to, Pos begin, Pos end) = 0;

  /// Copies the K/V data of [begin, end) of `seq`, for load(). Blocks until done.
  virtual std::vector<std::byte> save(SeqId seq, Pos begin, Pos end) = 0;

  /// Extends `seq`, which holds [0, begin), by [begin, end) in new cells. `data` is from a save()
  /// of a range that contains these positions; there must be room for the whole range. Returns
  /// false, without changes, if there is not or the data does not fit.
  virtual bool load(SeqId seq, Pos begin, Pos end, std::span<const std::byte> data) = 0;

  /// Sets the number of CPU threads of later decode() calls, in [1, info().n_threads].
  virtual void use_threads(std::int32_t n) = 0;

  /// The positions of each sequence must continue those in the cache. An exception counts as
  /// kFailed.
  virtual DecodeStatus decode(const BatchView& batch) = 0;

  /// Logits of batch row `row` of the last decode(), shape (n_vocab,). The caller may modify them.
  /// The row must have requested logits. Valid until the next decode().
  virtual std::span<float> logits(std::int32_t row) = 0;

  /// Calls task(i, thread) once for each i in [0, n), on the threads of decode() calls if the
  /// backend has threads. `thread`, in [0, info().n_threads), is the index of the calling thread.
  /// Rethrows an exception when all tasks have ended.
  virtual void run_in_parallel(std::int32_t n, const ParallelTask& task) {
    for (std::int32_t i = 0; i < n; ++i) task(i, 0);
  }

  /// Number of positions `seq` holds in the cache.
  virtual Pos length(SeqId seq) const = 0;

  /// Removes all sequences and zeroes the K/V data.
  virtual void clear() = 0;

  /// While set, running and later decode() calls return kAborted soon. Thread-safe.
  virtual void abort(bool set) = 0;
};

}  // namespace llamaherd

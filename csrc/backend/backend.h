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

/// One row per token; all spans have the same length.
struct BatchView {
  std::span<const TokenId> tokens;
  std::span<const Pos> positions;
  std::span<const SeqId> seqs;
  std::span<const std::uint8_t> wants_logits;
};

/// What decode() did to the cache, named by what the caller may do next.
enum class DecodeStatus {
  kOk,            // all rows applied, logits valid
  kNoRoom,        // cache unchanged: fewer free cells than rows
  kInvalidBatch,  // cache unchanged: a row breaks the backend's rules
  kAborted,       // some rows may have been applied; no logits
  kFailed,        // as kAborted
};

struct BackendInfo {
  std::int32_t n_vocab = 0;
  std::int32_t n_ctx = 0;            // KV cells shared by all sequences
  std::int32_t n_ctx_train = 0;      // tokens the model was trained to see at once
  std::int32_t n_seqs = 0;           // sequence ids a batch may name: [0, n_seqs)
  std::int32_t n_batch = 0;          // rows of one decode call
  std::int32_t max_scored_rows = 0;  // of them that may want logits, beside one for each sequence
  std::int32_t n_threads = 1;        // CPU threads of a decode call at most
  SeqId pad_seq = kNoSeq;            // no request's: for rows that only fill a call up, if at all
  SeqId first_holder =
      0;  // ids [first_holder, first_holder + n_holders) never stand in a batch: they
  std::int32_t n_holders = 0;        // keep cells that no running sequence holds
  std::int32_t kv_save_block = 256;  // kSave takes ranges within one of [0, kv_save_block),
                                     // [kv_save_block, 2 kv_save_block)...
  bool partial_removal = true;       // kRemove of a part of a sequence works
  bool attends_in_tiles = true;      // see ShapeSum
};

using ParallelTask = std::function<void(std::int32_t i, std::int32_t thread)>;

/// A model with a KV cache, as the engine uses it. Not thread-safe except abort().
class Backend {
 public:
  virtual ~Backend() = default;

  virtual const BackendInfo& info() const = 0;

  /// Removes [begin, end) of `seq`, to its end if that is kToEnd; cells of no sequence are free.
  /// Returns false, changing nothing, if this memory cannot remove a part of a sequence.
  virtual bool remove(SeqId seq, Pos begin, Pos end) = 0;

  /// Lets `to` hold the cells of [begin, end) of `from` as well. No K/V data moves.
  virtual void copy(SeqId from, SeqId to, Pos begin, Pos end) = 0;

  /// The K/V data of [begin, end) of `seq`, for load(). One uninterrupted copy.
  virtual std::vector<std::byte> save(SeqId seq, Pos begin, Pos end) = 0;

  /// Gives `seq`, which holds [0, begin), also [begin, end), in fresh cells, out of `data`: what
  /// save() made of these positions and perhaps more on either side, for all of which there must be
  /// room. Returns false, changing nothing, if there is none or the data does not fit.
  virtual bool load(SeqId seq, Pos begin, Pos end, std::span<const std::byte> data) = 0;

  /// decode() calls to come run on so many CPU threads, in [1, info().n_threads].
  virtual void use_threads(std::int32_t n) = 0;

  /// Positions of each sequence must follow on those it has in the cache. May throw, which counts
  /// as kFailed.
  virtual DecodeStatus decode(const BatchView& batch) = 0;

  /// Logits of batch row `row` of the last decode(), shape (n_vocab,); the caller may write them.
  /// The row must have wanted logits. Valid until the next decode().
  virtual std::span<float> logits(std::int32_t row) = 0;

  /// Calls task(i, thread) once for each i of [0, n), on the threads of decode() calls where the
  /// backend has any: `thread`, in [0, info().n_threads), is the number of that which runs it. An
  /// exception is thrown again when all have ended.
  virtual void run_in_parallel(std::int32_t n, const ParallelTask& task) {
    for (std::int32_t i = 0; i < n; ++i) task(i, 0);
  }

  /// Number of positions `seq` holds in the cache.
  virtual Pos length(SeqId seq) const = 0;

  /// Forgets every sequence and zeroes the K/V data.
  virtual void clear() = 0;

  /// While set, decode() calls running or to come return kAborted soon. Any thread.
  virtual void abort(bool set) = 0;
};

}  // namespace llamaherd

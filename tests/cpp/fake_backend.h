#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <set>
#include <span>
#include <stdexcept>
#include <thread>
#include <vector>

#include "backend/backend.h"
#include "manual_clock.h"

namespace llamaherd {

/// What one decode call is told to do instead of succeeding.
struct Fault {
  enum class Kind { kStatus, kThrow, kNan };  // kNan: success, but each logits row is NaN
  Kind kind = Kind::kStatus;
  DecodeStatus status = DecodeStatus::kFailed;
  std::int32_t n_applied = 0;  // rows that reach the cache first: kAborted, kFailed and kThrow
};

struct FakeOptions {
  BackendInfo info;
  std::map<std::int64_t, Fault> faults;  // by decode call, counting from 0
  // NaN in a cell, freed or not, reaches every row of every call until it is overwritten or
  // clear() zeroes it.
  bool contagious = false;
  std::int32_t n_remembered = 0;  // > 0: the next token hangs on so many tokens alone, and texts
                                  // come to repeat themselves
  DecodeStatus curse = DecodeStatus::kFailed;  // what calls with a cursed sequence return
  std::int64_t decode_ns = 0;                  // what every call takes at least
  std::int64_t logits_throw_from = std::numeric_limits<std::int64_t>::max();  // decode call
  std::int64_t loads_fail_from = std::numeric_limits<std::int64_t>::max();    // load call
  std::int64_t edits_throw_from = std::numeric_limits<std::int64_t>::max();   // decode call
};

/// A model whose next token is a hash of exactly the (position, token) pairs visible to a sequence.
///
/// The two highest token ids are never suggested, so that only prompts can bring them in: all rows
/// behind the poison token are NaN; calls with rows of a sequence that has the cursed one fail.
class FakeBackend : public Backend {
 public:
  static constexpr SeqId kMaxTags = 256;

  explicit FakeBackend(const FakeOptions& options)
      : options_(options), cells_(options.info.n_ctx), seqs_(kMaxTags) {
    options_.info.pad_seq = options.info.n_seqs;
    options_.info.first_holder = options.info.n_seqs + 1;
  }

  static TokenId poison_token(std::int32_t n_vocab) { return n_vocab - 1; }
  static TokenId cursed_token(std::int32_t n_vocab) { return n_vocab - 2; }

  const BackendInfo& info() const override { return options_.info; }

  /// Calls take time of this clock instead of real time.
  void use_clock(ManualClock& clock) { clock_ = &clock; }

  void copy(SeqId from, SeqId to, Pos begin, Pos end) override {
    const auto [first, last] = range(from, begin, end);
    for (auto it = first; it != last; ++it) {
      if (!seqs_.at(to).emplace(*it).second) throw std::logic_error("position copied twice");
      ++cells_[it->second].n_holders;
    }
  }

  bool remove(SeqId seq, Pos begin, Pos end) override {
    const auto [first, last] = range(seq, begin, end);
    std::map<Pos, std::int32_t>& held = seqs_.at(seq);
    if (first == last) return true;
    const bool whole = first == held.begin() && last == held.end();
    if (!options_.info.partial_removal && !whole) return false;
    for (auto it = first; it != last; ++it) --cells_[it->second].n_holders;
    held.erase(first, last);
    return true;
  }

  std::vector<std::byte> save(SeqId seq, Pos begin, Pos end) override {
    ++n_saves_;
    std::vector<Saved> saved;
    for (const auto& [pos, cell] : seqs_.at(seq)) {
      if (pos >= begin && pos < end) saved.push_back({pos, cells_[cell].token});
    }
    if (static_cast<Pos>(saved.size()) != end - begin) throw std::logic_error("save of a hole");
    const auto bytes = std::as_bytes(std::span(saved));
    return {bytes.begin(), bytes.end()};
  }

  bool load(SeqId seq, Pos begin, Pos end, std::span<const std::byte> data) override {
    if (n_loads_++ >= options_.loads_fail_from) return false;
    std::vector<Saved> saved(data.size() / sizeof(Saved));
    std::memcpy(saved.data(), data.data(), data.size());
    if (static_cast<std::int32_t>(saved.size()) > options_.info.n_ctx - n_cells_used()) {
      ++n_refused_;
      return false;
    }
    if (length(seq) != begin) throw std::logic_error("load behind a hole");
    for (const auto& [pos, token] : saved) {
      if (pos < begin || pos >= end) continue;
      write_cell(seq, pos, token);
    }
    if (length(seq) != end) throw std::logic_error("load of too little");
    return true;
  }

  DecodeStatus decode(const BatchView& batch) override {
    const std::int64_t call = n_calls_++;
    rows_.clear();
    if (clock_ != nullptr) {
      clock_->advance(options_.decode_ns);
    } else if (options_.decode_ns > 0) {
      std::this_thread::sleep_for(std::chrono::nanoseconds(options_.decode_ns));
    }
    hanging_ = hang_.load();
    while (hang_ && !abort_) std::this_thread::yield();
    hanging_ = false;
    if (abort_) return DecodeStatus::kAborted;
    if (!is_valid(batch)) {
      ++n_refused_;
      return DecodeStatus::kInvalidBatch;
    }
    const auto n_rows = static_cast<std::int32_t>(batch.tokens.size());
    if (n_rows > options_.info.n_ctx - n_cells_used()) {
      ++n_refused_;
      return DecodeStatus::kNoRoom;
    }
    if (is_cursed(batch)) {
      if (options_.curse == DecodeStatus::kFailed) stop_behind(batch, n_rows);
      return options_.curse;
    }
    const auto fault = options_.faults.find(call);
    if (fault != options_.faults.end()) {
      const Fault& f = fault->second;
      faulted_seqs_ = {batch.seqs.begin(), batch.seqs.end()};
      const bool keeps_rows = f.kind == Fault::Kind::kThrow || f.status == DecodeStatus::kFailed ||
                              f.status == DecodeStatus::kAborted;
      if (f.kind != Fault::Kind::kNan && keeps_rows) {
        stop_behind(batch, std::min(f.n_applied, n_rows));
      }
      if (f.kind == Fault::Kind::kThrow) throw std::runtime_error("scripted");
      if (f.kind == Fault::Kind::kStatus) return f.status;
    }
    write(batch, n_rows);
    compute_logits(batch, fault != options_.faults.end());
    return DecodeStatus::kOk;
  }

  std::span<float> logits(std::int32_t row) override {
    if (n_calls_ > options_.logits_throw_from) throw std::logic_error("logits are broken");
    return rows_.at(row);  // throws std::out_of_range unless the row asked for logits
  }

  Pos length(SeqId seq) const override {
    const auto& held = seqs_.at(seq);
    return held.empty() ? 0 : held.rbegin()->first + 1;
  }

  void clear() override {
    for (auto& held : seqs_) held.clear();
    std::fill(cells_.begin(), cells_.end(), Cell{});
    rows_.clear();
  }

  void use_threads(std::int32_t n) override { n_threads_ = n; }
  std::int32_t n_threads() const { return n_threads_; }

  void abort(bool set) override { abort_ = set; }

  /// While set, decode() waits for abort(true).
  void hang(bool set) { hang_ = set; }
  bool hanging() const { return hanging_; }

  std::int32_t n_cells_used() const {
    return static_cast<std::int32_t>(
        std::count_if(cells_.begin(), cells_.end(), [](const Cell& c) { return c.n_holders > 0; }));
  }
  std::int64_t n_calls() const { return n_calls_; }

  std::int64_t n_saves() const { return n_saves_; }
  std::int64_t n_loads() const { return n_loads_; }

  /// Calls refused for a reason that no script gave.
  std::int64_t n_refused() const { return n_refused_; }

  /// Sequences in the last call that met a fault.
  const std::set<SeqId>& faulted_seqs() const { return faulted_seqs_; }

 private:
  std::pair<std::map<Pos, std::int32_t>::iterator, std::map<Pos, std::int32_t>::iterator> range(
      SeqId seq, Pos begin, Pos end) {
    if (n_calls_ >= options_.edits_throw_from) throw std::logic_error("edits are broken");
    std::map<Pos, std::int32_t>& held = seqs_.at(seq);
    return {held.lower_bound(begin), end == kToEnd ? held.end() : held.lower_bound(end)};
  }

  struct Saved {
    Pos pos;
    TokenId token;
  };
  struct Cell {
    TokenId token = 0;
    std::int32_t n_holders = 0;
    bool poisoned = false;
  };

  static std::uint64_t mix(std::uint64_t h, std::uint64_t value) {
    h = (h ^ value) * 0x9E3779B97F4A7C15u;
    return h ^ (h >> 29);
  }

  bool is_valid(const BatchView& b) const {
    const std::size_t n = b.tokens.size();
    if (n == 0 || n > static_cast<std::size_t>(options_.info.n_batch)) return false;
    if (b.positions.size() != n || b.seqs.size() != n || b.wants_logits.size() != n) return false;
    const auto n_outputs = std::count(b.wants_logits.begin(), b.wants_logits.end(), 1);
    if (n_outputs > options_.info.n_seqs + options_.info.max_scored_rows) return false;
    std::map<SeqId, Pos> next;
    for (std::size_t row = 0; row < n; ++row) {
      if (b.tokens[row] < 0 || b.tokens[row] >= options_.info.n_vocab) return false;
      if (b.seqs[row] < 0 || b.seqs[row] > options_.info.pad_seq) return false;
      const auto it = next.try_emplace(b.seqs[row], length(b.seqs[row])).first;
      if (b.positions[row] != it->second++) return false;
    }
    return true;
  }

  bool is_cursed(const BatchView& b) const {
    const TokenId cursed = cursed_token(options_.info.n_vocab);
    if (std::find(b.tokens.begin(), b.tokens.end(), cursed) != b.tokens.end()) return true;
    return std::any_of(b.seqs.begin(), b.seqs.end(), [&](SeqId seq) {
      const auto& held = seqs_[seq];
      return std::any_of(held.begin(), held.end(),
                         [&](const auto& h) { return cells_[h.second].token == cursed; });
    });
  }

  void write(const BatchView& b, std::int32_t n_rows) {
    for (std::int32_t row = 0; row < n_rows; ++row) {
      write_cell(b.seqs[row], b.positions[row], b.tokens[row]);
    }
  }

  /// States that a call may move are lost with it, whosever they are.
  void stop_behind(const BatchView& b, std::int32_t n_rows) {
    write(b, n_rows);
    if (options_.info.partial_removal) return;
    for (Cell& cell : cells_) cell.token = (cell.token + 1) % (options_.info.n_vocab - 2);
  }

  void write_cell(SeqId seq, Pos pos, TokenId token) {
    const auto free = std::find_if(cells_.begin(), cells_.end(),
                                   [](const Cell& cell) { return cell.n_holders == 0; });
    *free = {token, 1, token == poison_token(options_.info.n_vocab)};
    seqs_[seq][pos] = static_cast<std::int32_t>(free - cells_.begin());
  }

  void compute_logits(const BatchView& b, bool all_nan) {
    const std::int32_t n_vocab = options_.info.n_vocab;
    all_nan |= options_.contagious &&
               std::any_of(cells_.begin(), cells_.end(), [](const Cell& c) { return c.poisoned; });
    for (std::size_t row = 0; row < b.tokens.size(); ++row) {
      if (!b.wants_logits[row]) continue;
      std::uint64_t hash = 1;
      bool nan = all_nan;
      for (const auto& [pos, cell] : seqs_[b.seqs[row]]) {
        if (pos > b.positions[row]) break;
        nan |= cells_[cell].poisoned;
        const std::int32_t n = options_.n_remembered;
        if (n > 0 && pos + n <= b.positions[row]) continue;
        hash = mix(n > 0 ? hash : mix(hash, pos), cells_[cell].token + 1);
      }
      std::vector<float>& logits = rows_[static_cast<std::int32_t>(row)];
      logits.resize(n_vocab);
      for (TokenId token = 0; token < n_vocab; ++token) {
        logits[token] = static_cast<float>(mix(mix(hash, 7), token) >> 40) * 0x6.0p-24f;
      }
      logits[hash % (n_vocab - 2)] = 8.0f;
      logits[n_vocab - 2] = logits[n_vocab - 1] = -std::numeric_limits<float>::infinity();
      if (nan) std::fill(logits.begin(), logits.end(), std::nanf(""));
    }
  }

  FakeOptions options_;
  ManualClock* clock_ = nullptr;
  std::vector<Cell> cells_;
  std::vector<std::map<Pos, std::int32_t>> seqs_;  // position -> cell
  std::map<std::int32_t, std::vector<float>> rows_;
  std::int32_t n_threads_ = 0;
  std::int64_t n_calls_ = 0;
  std::int64_t n_refused_ = 0;
  std::int64_t n_saves_ = 0;
  std::int64_t n_loads_ = 0;
  std::set<SeqId> faulted_seqs_;
  std::atomic<bool> abort_ = false;
  std::atomic<bool> hang_ = false;
  std::atomic<bool> hanging_ = false;
};

}  // namespace llamaherd

#pragma once

#include <cstdint>
#include <vector>

#include "common/types.h"
#include "cost/cost_estimates.h"

namespace llamaherd {

/// Rows of stock CPU attention's tile: a prefill chunk that ends a prompt early ends on one.
inline constexpr std::int32_t kChunkRows = 64;

/// Calls of up to so many rows are measured with logits of every row, as draft_tokens want them;
/// beyond them, and beyond one row for each sequence, as prompts have them: of the last row alone.
inline constexpr std::int32_t kRowsWithLogits = 16;

/// What decides how long a decode call takes.
struct CallShape {
  std::int32_t n_rows = 0;
  double n_attended = 0;  // cells that the rows attend to, summed over the rows
  double n_scanned = 0;  // cells of the cache in use, times the rows: each is looked at, if only to
                         // be passed over
  double n_beside = 0;   // cells that others of the same tile see, where attention works on tiles
};

/// Adds up the shape of a call from what its requests run in it. Every row attends to its own
/// sequence's cells. From kChunkRows rows on some kernels work on tiles of kChunkRows rows: each
/// row of a tile costs all cells that any of them sees.
class ShapeSum {
 public:
  /// n rows of a sequence that holds [0, begin); decode rows first.
  void add(Pos begin, std::int32_t n);
  /// n rows of draft_tokens behind a decode row of a sequence that holds [0, begin).
  void draft(Pos begin, std::int32_t n);
  void pad(std::int32_t n) { n_rows_ += n; }

  std::int32_t n_rows() const { return n_rows_; }
  std::int32_t n_decode_rows() const { return n_decode_rows_; }
  CallShape shape(std::int32_t n_cells_used) const;

 private:
  std::int32_t n_rows_ = 0;
  std::int32_t n_decode_rows_ = 0;
  std::int32_t n_drafted_ = 0;
  double decode_cells_ = 0;
  double drafted_cells_ = 0;        // times rows
  double prefill_cells_ = 0;        // times rows
  double first_prefill_cells_ = 0;  // cells of the first prefill sequence
};

/// What was measured of one model on one machine: a value, to be kept and used again.
struct Calibration {
  struct Point {
    std::int32_t n_rows = 0;
    double ns = 0;  // of a call whose rows attend to nothing
  };
  struct Attention {
    double attended_ns = 0;  // per cell and row
    double scanned_ns = 0;
  };
  std::vector<Point> points;  // ascending by n_rows, at least one, all ns > 0
  Attention few{};            // in calls of fewer than kChunkRows rows
  Attention many{};           // in calls of at least so many
  double load_token_ns = CostEstimates().load_token_ns;
  double noise = 0;  // median ratio of two measurements of one shape, the longer to the shorter; 0:
                     // nothing was measured twice
};

/// Throws InvalidRequestError unless it is one that a CostModel can be made of.
void validate(const Calibration& calibration);

/// Predicts how long decode calls take: a curve over the number of rows, linear between the points
/// that are known, plus attention, linear in the cells. Every call that ran refines it: what slows
/// all calls alike (a busy neighbour) goes into one factor that follows within some calls, what is
/// peculiar to a shape into its point of the curve, slowly.
class CostModel {
 public:
  /// in_tiles: CallShape::n_beside costs what n_attended does. Without a calibration only the
  /// ratios of its answers mean something until a call was observed.
  explicit CostModel(bool in_tiles = true);
  explicit CostModel(const Calibration& calibration, bool in_tiles = true);

  /// Predicted nanoseconds; shape.n_rows >= 1.
  double call_ns(const CallShape& shape) const;

  /// A call of this shape took so long.
  void observe(const CallShape& shape, double ns);

  /// Whether its answers are times, not only ratios.
  bool measured() const { return measured_; }

  /// A step in which somebody waited for the next token took so long, all in all.
  void observe_step(double ns);

  /// What such a step takes of late; 0: there was none.
  double mean_step_ns() const { return mean_step_ns_; }

  /// In short, for decisions of all or nothing.
  CostEstimates costs() const;

  /// How much slower calls are now than when they were measured.
  double pace() const { return pace_; }

  /// The present state, without the pace.
  Calibration calibration() const;

  /// Counts the changes of the curve that may change a decision.
  std::int64_t version() const { return version_; }

 private:
  struct Node {
    std::int32_t n_rows = 0;
    double ns = 0;
    bool known = false;
  };
  struct Parts {
    double rows = 0;
    double attended = 0;
    double scanned = 0;
    double sum() const { return rows + attended + scanned; }
  };
  struct Place {  // between two nodes
    std::size_t below = 0;
    std::size_t above = 0;
    double share_above = 0;
  };

  Place place(std::int32_t n_rows) const;
  double rows_ns(std::int32_t n_rows) const;
  Parts parts(const CallShape& shape) const;
  Calibration::Attention Calibration::*attention_of(const CallShape& shape) const {
    return shape.n_rows < kChunkRows ? &Calibration::few : &Calibration::many;
  }
  void interpolate();

  std::vector<Node> nodes_;
  Calibration calibration_;
  bool in_tiles_;
  double pace_ = 1;
  bool measured_ = true;
  double mean_step_ns_ = 0;
  std::int64_t n_observed_ = 0;
  std::int64_t version_ = 0;
};

}  // namespace llamaherd

#pragma once

#include <cstdint>
#include <vector>

#include "common/types.h"
#include "cost/cost_estimates.h"

namespace llamaherd {

/// Tile of stock CPU attention in rows. A prefill chunk that does not end the prompt ends at a
/// multiple.
inline constexpr std::int32_t kChunkRows = 64;

/// Calls of up to this many rows are measured with logits of every row, as for draft tokens. Larger
/// calls, beyond one row per sequence, are measured with logits of the last row, as for prompts.
inline constexpr std::int32_t kRowsWithLogits = 16;

/// Properties of a decode call that determine its duration.
struct CallShape {
  std::int32_t n_rows = 0;
  double n_attended = 0;  // attended cells, summed over the rows
  /// Used cells of the cache times rows: each is scanned, if only to be skipped.
  double n_scanned = 0;
  /// Cells that only other rows of the same tile attend to, if attention works on tiles.
  double n_beside = 0;
};

/// Accumulates the shape of a call from its requests. Every row attends to the cells of its own
/// sequence. From kChunkRows rows on, some kernels work on tiles of kChunkRows rows: each row of a
/// tile costs all cells that any row of the tile attends to.
class ShapeSum {
 public:
  /// Adds n rows of a sequence that holds [0, begin). Decode rows must come first.
  void add(Pos begin, std::int32_t n);
  /// Adds n rows of draft tokens after a decode row of a sequence that holds [0, begin).
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

/// Measured costs of one model on one machine. A value that can be stored and reused.
struct Calibration {
  struct Point {
    std::int32_t n_rows = 0;
    double ns = 0;  // of a call whose rows attend to no cells
  };
  struct Attention {
    double attended_ns = 0;  // per cell and row
    double scanned_ns = 0;
  };
  std::vector<Point> points;  // ascending by n_rows, at least one, all ns > 0
  Attention few{};            // in calls of fewer than kChunkRows rows
  Attention many{};           // in calls of kChunkRows rows and more
  double load_token_ns = CostEstimates().load_token_ns;
  /// Median ratio of two measurements of one shape, longer to shorter; 0: none was repeated.
  double noise = 0;
};

/// Throws InvalidRequestError unless a CostModel can be constructed from it.
void validate(const Calibration& calibration);

/// Predicts the duration of decode calls: a piecewise linear curve over the number of rows, plus
/// attention, linear in the cells. Every call refines it. A slowdown of all calls (load by other
/// processes) is learned within some calls by one factor, the cost of a particular shape slowly by
/// its node of the curve.
class CostModel {
 public:
  /// in_tiles: CallShape::n_beside costs as much as n_attended. Without a calibration only ratios
  /// of predictions are meaningful until the first observed call.
  explicit CostModel(bool in_tiles = true);
  explicit CostModel(const Calibration& calibration, bool in_tiles = true);

  /// Predicted nanoseconds; shape.n_rows >= 1.
  double call_ns(const CallShape& shape) const;

  /// A call of this shape took `ns`.
  void observe(const CallShape& shape, double ns);

  /// Whether predictions are times, not only ratios.
  bool measured() const { return measured_; }

  /// A step with decode rows took `ns` in total.
  void observe_step(double ns);

  /// Recent mean duration of such steps; 0: there were none.
  double mean_step_ns() const { return mean_step_ns_; }

  /// Summary for coarse decisions.
  CostEstimates costs() const;

  /// Present duration of calls relative to the calibration.
  double pace() const { return pace_; }

  /// The present state, without pace().
  Calibration calibration() const;

  /// Increases with each change of the curve that may change a decision.
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

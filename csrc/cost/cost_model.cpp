#include "cost/cost_model.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <string>

#include "common/error.h"

namespace llamaherd {
namespace {

// Below this, every number of rows is a node: kernels change between neighbours.
constexpr std::int32_t kDense = 64;
constexpr std::int32_t kMaxRows = 65536;

constexpr double kPaceRate = 0.2;
constexpr double kShapeRate = 0.02;
constexpr double kStepRate = 0.1;
// Bounds the influence of one call: its threads may have been interrupted.
constexpr double kMaxSurprise = 2;

constexpr std::int32_t kUsualChunk = 256;

constexpr int kCallsPerVersion = 32;

// Attention to one cell relative to the cost of a row, until it is measured.
constexpr double kAssumedAttention = 2e-4;

}  // namespace

void validate(const Calibration& calibration) {
  const auto require = [](bool ok, const char* rule) {
    if (!ok) throw InvalidRequestError(std::string("a calibration must have ") + rule);
  };
  const auto is_time = [](double ns) { return std::isfinite(ns) && ns >= 0; };
  require(!calibration.points.empty(), "at least 1 point");
  std::int32_t n_rows = 0;
  for (const Calibration::Point& point : calibration.points) {
    require(point.n_rows > n_rows, "points that ascend by rows, from 1 on");
    require(is_time(point.ns) && point.ns > 0, "points of finite time > 0");
    n_rows = point.n_rows;
  }
  for (const auto& [attended_ns, scanned_ns] : {calibration.few, calibration.many}) {
    require(is_time(attended_ns) && is_time(scanned_ns), "finite times >= 0");
  }
  require(is_time(calibration.load_token_ns), "finite times >= 0");
}

void ShapeSum::add(Pos begin, std::int32_t n) {
  n_rows_ += n;
  if (n == 1) {
    ++n_decode_rows_;
    decode_cells_ += begin;
  } else {
    if (prefill_cells_ == 0) first_prefill_cells_ = begin;
    prefill_cells_ += n * (begin + n / 2.0);  // each of its own rows attends to those before it
  }
}

void ShapeSum::draft(Pos begin, std::int32_t n) {
  n_rows_ += n;
  n_drafted_ += n;
  drafted_cells_ += static_cast<double>(n) * begin;
}

CallShape ShapeSum::shape(std::int32_t n_cells_used) const {
  double n_beside = 0;
  if (n_rows_ >= kChunkRows && n_decode_rows_ > 0) {
    const std::int32_t n_tiles = (n_decode_rows_ + n_drafted_ + kChunkRows - 1) / kChunkRows;
    n_beside = (static_cast<double>(n_tiles) * kChunkRows - 1) * decode_cells_ - drafted_cells_ +
               static_cast<double>(n_decode_rows_) * first_prefill_cells_;
  }
  return {n_rows_, decode_cells_ + drafted_cells_ + prefill_cells_,
          static_cast<double>(n_rows_) * n_cells_used, n_beside};
}

CostModel::CostModel(bool in_tiles)
    : CostModel(Calibration{{{1, 10e6}, {kDense, 64e6}}, {}, {}}, in_tiles) {
  for (Node& node : nodes_) node.known = false;
  measured_ = false;
}

CostModel::CostModel(const Calibration& calibration, bool in_tiles)
    : calibration_(calibration), in_tiles_(in_tiles) {
  for (std::int32_t n = 1; n <= kMaxRows;) {
    nodes_.push_back({n, 0, false});
    n += n < kDense ? 1 : std::int32_t(std::bit_floor(std::uint32_t(n))) / 2;
  }
  for (const Calibration::Point& point : calibration.points) {
    const Place at = place(point.n_rows);
    Node& node = nodes_[at.share_above > 0.5 ? at.above : at.below];
    node.ns = point.ns * node.n_rows / point.n_rows;
    node.known = true;
  }
  interpolate();
  for (Calibration::Attention* attention : {&calibration_.few, &calibration_.many}) {
    const double assumed = kAssumedAttention * rows_ns(kDense) / kDense;
    if (attention->attended_ns <= 0) attention->attended_ns = assumed;
    if (attention->scanned_ns <= 0) attention->scanned_ns = assumed / 10;
  }
}

/// Interpolates unknown nodes linearly between known ones. Below the first known node a call costs
/// as much as that node; beyond the last a row costs as much as there.
void CostModel::interpolate() {
  const auto is_known = [](const Node& node) { return node.known; };
  auto below = nodes_.end();
  for (auto node = nodes_.begin(); node != nodes_.end(); ++node) {
    if (node->known) {
      below = node;
      continue;
    }
    const auto above = std::find_if(node, nodes_.end(), is_known);
    if (below == nodes_.end()) {
      node->ns = above->ns;
    } else if (above == nodes_.end()) {
      node->ns = below->ns * node->n_rows / below->n_rows;
    } else {
      const double share = double(node->n_rows - below->n_rows) / (above->n_rows - below->n_rows);
      node->ns = std::lerp(below->ns, above->ns, share);
    }
  }
}

CostModel::Place CostModel::place(std::int32_t n_rows) const {
  const auto above = std::ranges::lower_bound(nodes_, n_rows, {}, &Node::n_rows);
  if (above == nodes_.end()) return {nodes_.size() - 1, nodes_.size() - 1, 0};
  const auto i = static_cast<std::size_t>(above - nodes_.begin());
  if (above->n_rows == n_rows) return {i, i, 0};
  const Node& below = nodes_[i - 1];
  const double share = static_cast<double>(n_rows - below.n_rows) / (above->n_rows - below.n_rows);
  return {i - 1, i, share};
}

double CostModel::rows_ns(std::int32_t n_rows) const {
  const Place at = place(n_rows);
  return std::lerp(nodes_[at.below].ns, nodes_[at.above].ns, at.share_above);
}

CostModel::Parts CostModel::parts(const CallShape& shape) const {
  const Calibration::Attention& attention = calibration_.*attention_of(shape);
  const double n_attended = shape.n_attended + (in_tiles_ ? shape.n_beside : 0);
  return {rows_ns(shape.n_rows), n_attended * attention.attended_ns,
          shape.n_scanned * attention.scanned_ns};
}

double CostModel::call_ns(const CallShape& shape) const { return pace_ * parts(shape).sum(); }

void CostModel::observe(const CallShape& shape, double ns) {
  measured_ = true;
  const Parts parts = this->parts(shape);
  const double ratio = ns / parts.sum();
  const Place at = place(shape.n_rows);
  Node& nearest = nodes_[at.share_above > 0.5 ? at.above : at.below];
  if (!nearest.known) {
    const double total_ns = ns / pace_;
    nearest.ns *= std::max(total_ns - parts.attended - parts.scanned, total_ns / 10) / parts.rows;
    nearest.known = true;
    interpolate();
    ++version_;
    return;
  }
  const auto surprise = [&] {
    return std::clamp(ratio / pace_, 1 / kMaxSurprise, kMaxSurprise) - 1;
  };
  pace_ *= 1 + kPaceRate * surprise();
  const double left = surprise();
  // Each parameter is corrected in proportion to its share of the predicted time.
  const auto learn = [&](double& value, double part) {
    value *= 1 + kShapeRate * part / parts.sum() * left;
  };
  learn(nodes_[at.below].ns, parts.rows * (1 - at.share_above));
  learn(nodes_[at.above].ns, parts.rows * at.share_above);
  Calibration::Attention& attention = calibration_.*attention_of(shape);
  learn(attention.attended_ns, parts.attended);
  learn(attention.scanned_ns, parts.scanned);
  if (++n_observed_ % kCallsPerVersion == 0) {
    interpolate();
    ++version_;
  }
}

void CostModel::observe_step(double ns) {
  mean_step_ns_ += (mean_step_ns_ == 0 ? 1 : kStepRate) * (ns - mean_step_ns_);
}

CostEstimates CostModel::costs() const {
  CostEstimates costs;
  costs.step_ns = call_ns({1});
  costs.prefill_token_ns = call_ns({kUsualChunk}) / kUsualChunk;
  costs.load_token_ns = calibration_.load_token_ns;
  return costs;
}

Calibration CostModel::calibration() const {
  Calibration now = calibration_;
  if (std::ranges::none_of(nodes_, &Node::known)) return now;
  now.points.clear();
  for (const Node& node : nodes_) {
    if (node.known) now.points.push_back({node.n_rows, node.ns});
  }
  return now;
}

}  // namespace llamaherd

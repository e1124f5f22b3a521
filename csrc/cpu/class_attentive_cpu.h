// What the forward and the backward of class_attentive_supcon share on the CPU: packed operands, blocks of anchors and
// the norms of keys under their classes.
//
// Words: anchors are those that have a class, numbered in the caller's order, keys those that are not left out; tiles
// are mr anchors, panels nr keys or nr features. A run is the anchors of one class. A block is a few tiles of anchors:
// it is compared with one panel of keys after the other.
#pragma once

#include <algorithm>
#include <vector>

#include "c2f/class_attentive_supcon.h"
#include "cpu/arena.h"
#include "cpu/half.h"
#include "cpu/kernels.h"
#include "cpu/pair_tiles.h"

namespace c2f {

inline constexpr int64_t kPairBlockRows = 224;  // bound of the anchors of a block
inline constexpr int64_t kPairChunk = 8;        // panels whose slopes the backward holds
inline constexpr int64_t kPairFlush = 32;       // panels after which lanes are added to totals

struct Span {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

// Threads worth waking for a problem.
int threads_for(const ClassAttentiveProblem& problem, int num_threads);

// Part i of `parts` nearly equal ones of `total`.
inline Span part_of(int64_t total, int64_t parts, int64_t i) { return {total * i / parts, total * (i + 1) / parts}; }

class Pairs {
 public:
  // Takes the memory; only the backward needs z_columns and x_rows.
  Pairs(const ClassAttentiveProblem& problem, Arena& arena, bool backward);
  Status pack(const ClassAttentiveFwdArgs& args, int num_threads);

  int64_t tiles() const { return ceil_div(anchors, kernels.mr); }
  int64_t panels() const { return ceil_div(keys, kernels.nr); }
  int64_t feature_panels() const { return ceil_div(d, kernels.nr); }
  int64_t feature_tiles() const { return ceil_div(d, kernels.mr); }
  int64_t tile_floats() const { return feature_panels() * kernels.mr * kernels.nr; }
  Span features_of_tile(int64_t f) const { return part_of(d, feature_tiles(), f); }
  // Anchors of tiles.begin .. tiles.end.
  Span anchors_of(Span tiles) const { return {tiles.begin * kernels.mr, std::min(anchors, tiles.end * kernels.mr)}; }
  int64_t block_tiles() const { return kPairBlockRows / kernels.mr; }

  const Kernels& kernels;
  const PairTiles& sweeps;
  const int64_t d;
  int64_t anchors = 0, keys = 0, runs = 0;
  float least;  // eps^2
  PairWeights weights;
  const int64_t* order = nullptr;    // [anchors] row of z
  const int64_t* classes = nullptr;  // [A]
  const float* v = nullptr;          // [C, d]
  PairAnchor* anchor;                // [anchors]
  int64_t* run_begin;                // [runs + 1] first anchor
  int64_t* key;                      // [keys] row of x
  int32_t* key_label;                // [panels][K][nr]
  float* z_rows;                     // [tiles][feature_panels][mr][nr]: v o z / n(z, c)
  float* z_columns;                  // [feature_tiles][anchors][mr]: the same
  float* x_columns;                  // [panels][d][nr]
  float* x_rows;                     // [feature_panels][panels * nr][nr]

 private:
  void encode_labels(const ClassAttentiveFwdArgs& args);
  template <typename T>
  void pack_anchor(const ClassAttentiveFwdArgs& args, int64_t i);
  template <typename T>
  void pack_panel(const ClassAttentiveFwdArgs& args, int64_t panel);

  int64_t* sorted_;  // [N] labels of the keys on one level
  const bool backward_;
};

// A block of anchors in the hands of one worker.
class PairBlock {
 public:
  PairBlock(const Pairs& pairs, Arena& arena, bool backward);
  void open(Span tiles);

  // Norms of the keys of a panel under the classes of the block.
  PairKeys keys(int64_t panel);
  // rows x nr products of the anchors of a tile, counted from the block's first, with the keys of a panel.
  void products(int64_t tile, int64_t panel, float* out) const;

  int64_t tile_count() const { return tiles_.size(); }
  int rows(int64_t tile) const {
    return static_cast<int>(std::min<int64_t>(pairs_.kernels.mr, span().size() - tile * pairs_.kernels.mr));
  }
  Span span() const { return pairs_.anchors_of(tiles_); }
  int64_t first_run() const { return pairs_.anchor[span().begin].run; }
  int64_t runs() const { return pairs_.anchor[span().end - 1].run + 1 - first_run(); }
  const float* squares() const { return squares_; }      // of the norms, [runs][nr]
  const float* v_columns() const { return v_columns_; }  // [feature_tiles][kPairBlockRows][mr]
  float* squared() const { return squared_; }            // room for kPairChunk panels of squares
  PairSums* sums() const { return sums_; }               // [rows]
  void clear_sums();
  void flush_sums();

 private:
  const Pairs& pairs_;
  Span tiles_{};
  float *v_rows_, *v_columns_, *squares_, *scale_, *squared_;
  PairSums* sums_;
};

// fn(T()) for the storage type T.
template <typename Fn>
void with_storage_type(DType dtype, Fn fn) {
  if (dtype == DType::kFloat32) fn(float());
  if (dtype == DType::kBFloat16) fn(BFloat16());
  if (dtype == DType::kFloat16) fn(Float16());
}

}  // namespace c2f

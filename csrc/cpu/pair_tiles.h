// What class_attentive_supcon does with a tile of similarities, one table of functions per instruction set:
// pair_tiles_body.h is compiled into pair_tiles_portable.cpp, pair_tiles_avx2.cpp and pair_tiles_avx512.cpp. No inline
// function stands here (kernels.h says why).
//
// A tile is that of kernels.h: rows are anchors, the nr columns keys of one panel.
#pragma once

#include <cstdint>

#include "c2f/class_attentive_supcon.h"
#include "cpu/kernels.h"

namespace c2f {

inline constexpr int kMaxLanes = kMaxTileCols / 2;

// An anchor as the sweeps see it.
struct PairAnchor {
  int64_t self;  // its number among the keys, -1: none
  int32_t run;   // number of its class among the classes of all anchors
  int32_t label[kMaxLevels];
  float inverse_norm, inverse_square;  // of n(z_i, c); the square is 0 where the norm is clamped
  float d_attract, d_repel, repel;     // backward; d_repel holds the factor 1 / temperature
};

// Sums over keys of one anchor: lanes for the keys since the last flush, totals for those before.
struct PairSums {
  float attract[kMaxLanes], repel[kMaxLanes];
  double attract_total, repel_total;
  float shift;  // repel is sum_j r exp(sim / temperature - shift)
};

// Keys of one panel and what depends on the classes of a block of anchors; these have one row of nr for each run.
struct PairKeys {
  int64_t begin;         // number of the first
  int64_t count;         // of the nr columns that are keys
  const int32_t* label;  // [K][nr]
  const float* scale;    // [runs][nr] 1 / n(x_j, c)
  int32_t first_run;     // run of row 0
};

struct PairWeights {
  int levels;
  float parameter, inverse;  // temperature or margin; 1 / temperature
  float attract[kMaxLevels + 1], repel[kMaxLevels + 1];
};

// sums += over the keys of the tile, whose elements are sim_ij n(x_j, c).
using PairForwardFn = void (*)(const PairWeights& of, const PairAnchor* anchor, int rows, const PairKeys& keys,
                               const float* tile, PairSums* sums);

// tile = S_ij / n(x_j, c) in place; of_run[runs][nr] += S_ij sim_ij, and sums.attract likewise.
using PairBackwardFn = void (*)(const PairWeights& of, const PairAnchor* anchor, int rows, const PairKeys& keys,
                                float* tile, float* of_run, PairSums* sums);

struct PairTiles {
  PairForwardFn forward[2];  // by Repulsion
  PairBackwardFn backward[2];
  void (*square)(const float* x, int64_t n, float* out);                        // n a multiple of kLanes, as below
  void (*inverse)(const float* squares, float least, int64_t n, float* out);    // 1 / sqrt(max(squares, least))
  void (*divide)(const float* squares, float least, int64_t n, float* of_run);  // of_run / squares, 0 up to `least`
  void (*subtract_product)(const float* a, const float* b, int64_t n, float* out);  // out -= a b
  void (*add)(const float* x, int64_t n, float* out);
};

extern const PairTiles kPairTilesPortable;
extern const PairTiles kPairTilesAvx2;
extern const PairTiles kPairTilesAvx512;

// The table of cpu_kernels().isa.
const PairTiles& pair_tiles();

}  // namespace c2f

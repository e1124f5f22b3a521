// Tile of the fused sm_90a forward: what the plan, the kernel and the tests must agree on. Plain C++.
#pragma once

#include "c2f/multilinear_pool.h"

namespace c2f::fused_sm90 {

inline constexpr int kThreads = 384;     // two warpgroups that multiply, one that copies
inline constexpr int kBlockD = 128;      // 64 columns, the M of wgmma, for each warpgroup that multiplies
inline constexpr int kBlockC = 64;       // channels of a stage: 128 bytes, the span of the swizzle
inline constexpr int kAtomBytes = 1024;  // the swizzle repeats every 8 rows of 128 bytes; tiles start at such addresses
inline constexpr int kMaxStages = 6;
inline constexpr int kSampleGroup = 8;  // samples that run together and share weights in L2
inline constexpr int64_t kMaxShared = 227 << 10;

// Tiles that are compiled. `live`: float32 accumulators, one for each factor, or one for the factor in flight while the
// finished ones wait in 16 bits, which makes room for more positions. 112 divides 784 = 28 x 28, 200 wastes 2 % of 784
// and of 196, 208 2 % of 1024. 64, 128 and 192 are whole swizzle spans where positions are contiguous.
struct Tile {
  int block_l, live;
};
inline constexpr Tile kTiles[] = {{64, 3}, {112, 3}, {128, 3}, {192, 1}, {200, 1}, {208, 1}};

constexpr int64_t divide_up(int64_t value, int64_t step) { return (value + step - 1) / step; }

// Blocks of a cluster: `b` neighbouring samples share their weights, `d` neighbouring tiles of columns their features,
// both 1 or 2. Every block copies its slice of what is shared, to all that share it.
struct Cluster {
  int b = 1, d = 1;
  constexpr int size() const { return b * d; }
  constexpr int rank_b(int rank) const { return rank % b; }
  constexpr int rank_d(int rank) const { return rank / b; }
  // The blocks with this one's sample (they share features) and with its columns (weights), one bit each.
  constexpr uint32_t sharing_features(int rank) const { return (d == 2 ? 1u | 1u << b : 1u) << rank_b(rank); }
  constexpr uint32_t sharing_weights(int rank) const { return ((1u << b) - 1) << rank_d(rank) * b; }
};

inline constexpr Cluster kClusters[] = {{1, 1}, {1, 2}, {2, 1}, {2, 2}};

// Shared memory of a stage: weights [2][kBlockC][64] (columns contiguous), then features, [block_l / 64][kBlockC][64]
// where positions are contiguous (kPositions), else [block_l][kBlockC]. Rows of 64 elements, 128 bytes, swizzled.
inline constexpr int kPanelBytes = kBlockC * 128;  // one [kBlockC][64]
inline constexpr int kWeightBytes = 2 * kPanelBytes;

// Rows of the features that one block of a cluster copies: channels of every panel, or positions.
constexpr int feature_rows(int block_l, Layout layout, int cluster_d) {
  if (layout == Layout::kPositions) return kBlockC / cluster_d;
  return static_cast<int>(divide_up(block_l, 8 * cluster_d)) * 8;
}
constexpr int feature_panels(int block_l, Layout layout) {
  return layout == Layout::kPositions ? static_cast<int>(divide_up(block_l, 64)) : 1;
}
// Bytes that arrive in a stage of one block, zeros beyond the operands included.
constexpr int feature_bytes(int block_l, Layout layout, int cluster_d) {
  return feature_panels(block_l, layout) * feature_rows(block_l, layout, cluster_d) * cluster_d * 128;
}
constexpr int stage_bytes(int block_l, Layout layout) { return kWeightBytes + feature_bytes(block_l, layout, 2); }

// Stages, two barriers of 8 bytes for each, and what aligning the first stage may cost.
constexpr int stages(int block_l, Layout layout) {
  const int64_t fit = (kMaxShared - kAtomBytes) / (stage_bytes(block_l, layout) + 16);
  return static_cast<int>(fit < kMaxStages ? fit : kMaxStages);
}
constexpr int64_t shared_bytes(int block_l, Layout layout) {
  return kAtomBytes + int64_t{stages(block_l, layout)} * (stage_bytes(block_l, layout) + 16);
}

constexpr int64_t blocks(const MultilinearPoolProblem& problem, Cluster cluster) {
  return divide_up(problem.B, cluster.b) * divide_up(problem.D, int64_t{kBlockD} * cluster.d) * cluster.size();
}

// Sample and first column of a block: groups of kSampleGroup samples one after the other, samples fastest inside a
// group. A block that only completes its cluster has b >= B or d >= D: it copies and computes zeros, and writes
// nothing.
struct Place {
  int b, d;
};
constexpr Place place_of(int block, const MultilinearPoolProblem& problem, Cluster cluster) {
  const int unit = block / cluster.size(), rank = block % cluster.size();
  const int columns = (static_cast<int>(problem.D) + kBlockD * cluster.d - 1) / (kBlockD * cluster.d);
  const int samples = (static_cast<int>(problem.B) + cluster.b - 1) / cluster.b;  // in units of clusters, as the groups
  const int group_samples = kSampleGroup / cluster.b;
  const int group = unit / (group_samples * columns), in_group = unit % (group_samples * columns);
  const int left = samples - group * group_samples, here = left < group_samples ? left : group_samples;
  return {(group * group_samples + in_group % here) * cluster.b + cluster.rank_b(rank),
          (in_group / here * cluster.d + cluster.rank_d(rank)) * kBlockD};
}

// The order in which a block goes through positions, factors and channels, one stage a step.
struct Step {
  int position = 0, m = 0, channel = 0;
  constexpr bool within(const MultilinearPoolProblem& problem) const { return position < problem.L; }
  constexpr void next(const MultilinearPoolProblem& problem, int block_l) {
    channel += kBlockC;
    if (channel < problem.C[m]) return;
    channel = 0;
    if (++m < problem.M) return;
    m = 0;
    position += block_l;
  }
};

// Sizes that the kernel counts in 32 bits.
inline constexpr int64_t kMaxSize = int64_t{1} << 30;

// The model of what limits the rate of the tensor cores. What L2 gives each multiprocessor in a clock while all of
// them read is an assumption that waits for a measurement: published figures for Hopper lie between 24 and 40 bytes.
inline constexpr double kL2Bytes = 32;
inline constexpr double kSharedBytes = 128, kMultiplyAdds = 2048;  // of a multiprocessor in a clock, 16-bit operands

// Clocks of one stage on one multiprocessor, for what works at the same time; the largest binds.
struct StageClocks {
  double tensor;  // 128 x block_l x 64 multiply-adds
  double shared;  // each of two warpgroups reads its 64 columns and all positions, everything is written once
  double l2;      // what this block fetches for its cluster
};
constexpr StageClocks stage_clocks(int block_l, Cluster cluster) {
  const double weights = kBlockD * kBlockC * 2.0, features = block_l * kBlockC * 2.0;  // bytes
  return {kBlockD * block_l * kBlockC / kMultiplyAdds, (2 * weights + 3 * features) / kSharedBytes,
          (weights / cluster.b + features / cluster.d) / kL2Bytes};
}

// Modelled clocks of the whole problem, their share of what the tensor cores alone would need for the bare problem, and
// what lowers it most.
struct Forecast {
  double clocks, limit;
  const char* bound;
};
constexpr Forecast forecast_of(const MultilinearPoolProblem& problem, Tile tile, Cluster cluster, int num_sms) {
  const StageClocks stage = stage_clocks(tile.block_l, cluster);
  const double slowest = stage.shared > stage.l2 ? stage.shared : stage.l2;
  const double clocks = slowest > stage.tensor ? slowest : stage.tensor;
  int64_t channels = 0, steps = 0;
  for (int m = 0; m < problem.M; ++m) {
    channels += problem.C[m];
    steps += divide_up(problem.C[m], kBlockC);
  }
  steps *= divide_up(problem.L, tile.block_l);
  // A cluster lies in one group of 16 or 18 multiprocessors, so clusters of four leave some of them idle.
  const int usable =
      cluster.size() == 4 && num_sms >= 16 ? num_sms / 16 * 16 : num_sms / cluster.size() * cluster.size();
  const int64_t grid = blocks(problem, cluster), waves = divide_up(grid, usable > 0 ? usable : 1);
  const double useful = static_cast<double>(problem.B) * static_cast<double>(problem.D) *
                        static_cast<double>(problem.L) * static_cast<double>(channels);  // multiply-adds
  const double padded = static_cast<double>(grid) * static_cast<double>(steps) * kBlockD * tile.block_l * kBlockC;
  const double all = static_cast<double>(waves) * static_cast<double>(steps) * clocks;
  // Shares of the rate that remain after each loss; their product is the limit.
  const double tiles = useful / padded, even = static_cast<double>(grid) / static_cast<double>(waves * num_sms);
  const double rate = stage.tensor / clocks;
  const char* bound = tiles < even ? "whole tiles" : "whole waves of blocks";
  if (rate < tiles && rate < even) bound = stage.shared > stage.l2 ? "shared memory" : "L2";
  return {all, tiles * even * rate, bound};
}

}  // namespace c2f::fused_sm90

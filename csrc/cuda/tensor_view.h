// What tensor maps describe: the operands of the fused sm_90a forward as the copy engine sees them. Plain C++.
#pragma once

#include <cstdint>

#include "plan/fused_sm90_tile.h"

namespace c2f {

// A 16-bit operand as four dimensions, the first one contiguous; strides of the others in bytes. A box is 64 elements
// (the 128 bytes of the swizzle) by 1 by `rows` by 1.
struct TensorView {
  const void* data;
  int64_t size[4];
  int64_t stride[3];
  int rows;

  // The stride of a dimension of size 1 is never used; torch may give it any value. The driver gets that of a dense
  // tensor, which any rule on strides allows.
  TensorView(const void* data_, const int64_t (&size_)[4], const int64_t (&stride_)[3], int rows_)
      : data(data_), rows(rows_) {
    for (int k = 0; k < 4; ++k) size[k] = size_[k];
    for (int k = 0; k < 3; ++k) {
      const int64_t dense = k == 0 ? fused_sm90::divide_up(2 * size[0], 16) * 16 : stride[k - 1] * size[k];
      stride[k] = size[k + 1] == 1 ? dense : stride_[k];
    }
  }
  TensorView() = default;
};

// What the driver demands: 16-byte aligned address and strides, sizes of at least 1.
inline bool can_map(const TensorView& view) {
  bool fits = reinterpret_cast<uintptr_t>(view.data) % 16 == 0;
  for (const int64_t size : view.size) fits = fits && 1 <= size && size <= int64_t{1} << 32;
  for (const int64_t stride : view.stride) fits = fits && stride % 16 == 0 && 0 < stride && stride < int64_t{1} << 40;
  return fits;
}

// (column, 1, channel, 1)
inline TensorView weight_view(const MultilinearPoolProblem& problem, int m, const WeightView& w,
                              fused_sm90::Cluster cluster) {
  return {w.data, {problem.D, 1, problem.C[m], 1}, {0, 2 * w.stride_c, 0}, fused_sm90::kBlockC / cluster.b};
}

// (channel, 1, position, sample); where positions are contiguous, (position in its tile, tile, channel, sample), whole
// tiles only. With tiles as a dimension the part of a box beyond its tile is outside of the tensor: zero, and not
// fetched.
inline TensorView feature_view(const MultilinearPoolProblem& problem, int m, const FeatureView& x, int block_l,
                               Layout layout, fused_sm90::Cluster cluster) {
  const int rows = fused_sm90::feature_rows(block_l, layout, cluster.d);
  if (layout == Layout::kChannels) {
    return {x.data, {problem.C[m], 1, problem.L, problem.B}, {0, 2 * x.stride_l, 2 * x.stride_b}, rows};
  }
  return {x.data,
          {block_l, problem.L / block_l, problem.C[m], problem.B},
          {2 * block_l, 2 * x.stride_c, 2 * x.stride_b},
          rows};
}

// (position, 1, channel, sample): the contiguous positions after the whole tiles.
inline TensorView last_view(const MultilinearPoolProblem& problem, int m, const FeatureView& x, int block_l,
                            fused_sm90::Cluster cluster) {
  return {static_cast<const uint16_t*>(x.data) + problem.L / block_l * block_l,
          {problem.L % block_l, 1, problem.C[m], problem.B},
          {0, 2 * x.stride_c, 2 * x.stride_b},
          fused_sm90::feature_rows(block_l, Layout::kPositions, cluster.d)};
}

}  // namespace c2f

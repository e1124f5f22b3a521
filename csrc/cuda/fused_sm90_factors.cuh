// What a thread of the fused sm_90a forward holds of a tile: U_m for two columns and every fourth pair of positions, in
// the order of a wgmma accumulator: register 4 j + 2 r + e is column r, position 8 j + e (from its first one on). And
// what it makes of them.
#pragma once

#include "c2f/multilinear_pool.h"
#include "cuda/products.cuh"
#include "cuda/vec.cuh"

namespace c2f {

inline constexpr int kFactors = 3;  // at most

// kLive = 3: an accumulator for every factor.
template <class T, int kCount, int kLive>
struct Factors {
  static_assert(kLive == kFactors);
  using Accumulator = float[kCount];
  Accumulator u[kFactors];

  __device__ Accumulator& accumulator(int m) { return u[m]; }
  __device__ void finish(int, bool) {}
  __device__ float value(int m, int k, bool) const { return u[m][k]; }
};

// kLive = 1: one accumulator, for the factor in flight. Finished ones wait in registers, rounded to the storage type,
// two neighbouring positions to a word.
template <class T, int kCount>
struct Factors<T, kCount, 1> {
  using Accumulator = float[kCount];
  Accumulator u;
  uint32_t parked[kFactors - 1][kCount / 2];

  __device__ Accumulator& accumulator(int) { return u; }
  __device__ void finish(int m, bool last) {
    if (m == kFactors - 1 || last) return;
#pragma unroll
    for (int k = 0; k < kCount / 2; ++k) parked[m][k] = pack2<T>(u[2 * k], u[2 * k + 1]);
  }
  __device__ float value(int m, int k, bool last) const {
    if (last) return u[k];
    const float2 pair = unpack2<T>(parked[m][k / 2]);
    return k % 2 == 0 ? pair.x : pair.y;
  }
};

// Adds the products of a tile to `sums` [column][product], over the positions first + {0, 1} + 8 j of sample b;
// kChecked: those below L that the mask leaves. kM factors.
template <bool kChecked, int kM, class T, int kCount, int kLive>
__device__ __forceinline__ void add_products(const MultilinearPoolFwdArgs& args, int b, int first,
                                             const Factors<T, kCount, kLive>& u, float (&sums)[2][kProducts]) {
  const MultilinearPoolProblem& problem = args.problem;
  const int L = static_cast<int>(problem.L);
#pragma unroll
  for (int j = 0; j < kCount / 4; ++j) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      float weight = 1.f;
      if constexpr (kChecked) {
        const int i = first + 8 * j + e;
        if (i >= L) continue;
        const int64_t at = b * problem.L + i;
        if (problem.mask == MaskKind::kBool && static_cast<const uint8_t*>(args.mask)[at] == 0) continue;
        if (problem.mask == MaskKind::kFloat) weight = static_cast<const float*>(args.mask)[at];
      }
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        const int k = 4 * j + 2 * row + e;
        const float u_0 = u.value(0, k, false), u_1 = u.value(1, k, kM == 2);
        const float u_01 = kChecked ? weight * u_0 * u_1 : u_0 * u_1;
        sums[row][0] += u_01;
        if constexpr (kM == 3) {
          const float u_2 = u.value(2, k, true), weighted = kChecked ? weight * u_2 : u_2;
          sums[row][1] += u_0 * weighted;
          sums[row][2] += u_1 * weighted;
          sums[row][3] += u_01 * u_2;
        }
      }
    }
  }
}

}  // namespace c2f

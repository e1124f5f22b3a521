// The four products of a tile of 64 anchors and 64 keys by a block of 256 threads, in float32: by fused multiply-adds
// (float) or tensor cores (bfloat16). Operands lie in shared memory as chunks [64][kColumns], rows kChunkPitch bytes apart; T and the
// run sums F as [64][64], rows kPitch elements apart.
//
//   pairs  c[i, j] += sum_e a[i, e] x[j, e]
//   norms  n[r, j] += sum_e v[r, e] x[j, e]^2             r < count: runs of the anchors' classes
//   rows   o[i, e] += sum_k p[i, k] b[k, e]               kTransposed: p[k, i]; k < depth
//   runs   g[r, e] += sum_j f[r, j] x[j, e]^2
//
// A thread owns `row` i and `column` j of its value k of c, and so on; its rows of c and o are the same few slots.
#pragma once

#include <cuda_runtime.h>

#include "cuda/mma_sm80.cuh"
#include "cuda/reduce.cuh"
#include "cuda/vec.cuh"
#include "plan/class_attentive_cuda_plan.h"

namespace c2f::class_attentive {

inline constexpr int kThreads = 256;

template <class T>
struct Tile;

// Thread (y, x) of 16 x 16 has rows y + 16 i and columns x + 16 j of c; columns 2 x and 2 x + 1 of o.
template <>
struct Tile<float> {
  static constexpr int kColumns = kChunkBytes / 4, kRowPitch = kChunkPitch / 4;
  static constexpr int kSlots = 4, kPairs = 16, kNorms = 16, kOut = 8, kRuns = 8;

  __device__ static int slot_row(int slot) { return threadIdx.x / 16 + 16 * slot; }
  __device__ static int place_in_row() { return threadIdx.x % 16; }
  __device__ static constexpr int pair_slot(int k) { return k / 4; }
  __device__ static int pair_column(int k) { return threadIdx.x % 16 + 16 * (k % 4); }
  __device__ static int norm_run(int k) { return threadIdx.x / 64 + 4 * k; }
  __device__ static int norm_key(int) { return threadIdx.x % 64; }
  __device__ static constexpr int out_slot(int k) { return k / 2; }
  __device__ static int out_column(int k) { return threadIdx.x % 16 * 2 + k % 2; }
  __device__ static int run_row(int k) { return threadIdx.x / 32 + 8 * k; }
  __device__ static int run_column(int) { return threadIdx.x % 32; }

  __device__ static void store_pairs(float* p, const float (&values)[kPairs]) {
#pragma unroll
    for (int k = 0; k < kPairs; ++k) p[slot_row(pair_slot(k)) * kPitch + pair_column(k)] = values[k];
  }

  __device__ __forceinline__ static void pairs(float (&c)[kPairs], const float* a, const float* x) {
#pragma unroll 2
    for (int e = 0; e < kColumns; e += 4) {
      float rows[4][4], columns[4][4];
#pragma unroll
      for (int i = 0; i < 4; ++i) load_vec<4>(a + slot_row(i) * kRowPitch + e, rows[i]);
#pragma unroll
      for (int j = 0; j < 4; ++j) load_vec<4>(x + pair_column(j) * kRowPitch + e, columns[j]);
#pragma unroll
      for (int k = 0; k < kPairs; ++k) {
#pragma unroll
        for (int q = 0; q < 4; ++q) c[k] += rows[k / 4][q] * columns[k % 4][q];
      }
    }
  }

  __device__ __forceinline__ static void norms(float (&n)[kNorms], const float* v, const float* x, int count) {
#pragma unroll 1
    for (int e = 0; e < kColumns; e += 4) {
      float squares[4], weights[4];
      load_vec<4>(x + norm_key(0) * kRowPitch + e, squares);
#pragma unroll
      for (int q = 0; q < 4; ++q) squares[q] *= squares[q];
#pragma unroll
      for (int k = 0; k < kNorms; ++k) {
        if (norm_run(k) < count) {
          load_vec<4>(v + norm_run(k) * kRowPitch + e, weights);
#pragma unroll
          for (int q = 0; q < 4; ++q) n[k] += weights[q] * squares[q];
        }
      }
    }
  }

  template <bool kTransposed>
  __device__ __forceinline__ static void rows(float (&o)[kOut], const float* p, const float* b, int depth) {
#pragma unroll 4
    for (int k = 0; k < depth; ++k) {
      float columns[2];
      load_vec<2>(b + k * kRowPitch + out_column(0), columns);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float left = kTransposed ? p[k * kPitch + slot_row(i)] : p[slot_row(i) * kPitch + k];
        o[2 * i] += left * columns[0];
        o[2 * i + 1] += left * columns[1];
      }
    }
  }

  __device__ __forceinline__ static void runs(float (&g)[kRuns], const float* f, const float* x, int count) {
#pragma unroll 2
    for (int j = 0; j < kTile; ++j) {
      const float value = x[j * kRowPitch + run_column(0)], square = value * value;
#pragma unroll
      for (int k = 0; k < kRuns; ++k) {
        if (run_row(k) < count) g[k] += f[run_row(k) * kPitch + j] * square;
      }
    }
  }
};

// Eight warps, 4 along rows by 2 along columns: a warp has 16 rows by 32 columns of c and o, and 8 columns of n and g.
template <>
struct Tile<__nv_bfloat16> {
  using T = __nv_bfloat16;
  static constexpr int kColumns = kChunkBytes / 2, kRowPitch = kChunkPitch / 2;
  static constexpr int kSlots = 2, kPairs = 16, kNorms = 16, kOut = 16, kRuns = 16;
  static_assert(kColumns == kTile && kRowPitch == kPitch);

  __device__ static int lane() { return threadIdx.x % kWarpSize; }
  __device__ static int warp() { return threadIdx.x / kWarpSize; }
  __device__ static int slot_row(int slot) { return warp() / 2 * 16 + lane() / 4 + 8 * slot; }
  __device__ static int place_in_row() { return warp() % 2 * 4 + lane() % 4; }
  __device__ static constexpr int pair_slot(int k) { return k % 4 / 2; }
  __device__ static int pair_column(int k) { return warp() % 2 * 32 + k / 4 * 8 + lane() % 4 * 2 + k % 2; }
  __device__ static int norm_run(int k) { return k / 4 * 16 + lane() / 4 + k % 4 / 2 * 8; }
  __device__ static int norm_key(int k) { return warp() * 8 + lane() % 4 * 2 + k % 2; }
  __device__ static constexpr int out_slot(int k) { return pair_slot(k); }
  __device__ static int out_column(int k) { return pair_column(k); }
  __device__ static int run_row(int k) { return norm_run(k); }
  __device__ static int run_column(int k) { return norm_key(k); }

  __device__ static void store_pairs(T* p, const float (&values)[kPairs]) {
#pragma unroll
    for (int k = 0; k < kPairs; k += 2) {
      T* const target = p + slot_row(pair_slot(k)) * kPitch + pair_column(k);
      *reinterpret_cast<uint32_t*>(target) = pack2<T>(values[k], values[k + 1]);
    }
  }

  // c[0 .. 15]: a 16 x 16 block of the left operand with 32 columns of the right one.
  template <bool kLeftTransposed, bool kRightTransposed>
  __device__ __forceinline__ static void step(float (&c)[16], const T* left, const T* right, int k) {
    const int low = lane() % 8, half_low = lane() / 8 % 2 * 8, half_high = lane() / 16 * 8;
    const int row = warp() / 2 * 16, column = warp() % 2 * 32;
    uint32_t a[4];
    load_matrix_x4<kLeftTransposed>(a, kLeftTransposed ? left + (k + half_high + low) * kPitch + row + half_low
                                                       : left + (row + half_low + low) * kPitch + k + half_high);
#pragma unroll
    for (int n = 0; n < 32; n += 16) {
      uint32_t both[4];
      load_matrix_x4<kRightTransposed>(both, kRightTransposed
                                                 ? right + (k + half_low + low) * kPitch + column + n + half_high
                                                 : right + (column + n + half_high + low) * kPitch + k + half_low);
      const uint32_t even[2] = {both[0], both[1]}, odd[2] = {both[2], both[3]};
      mma(c, n / 2, a, even);
      mma(c, n / 2 + 4, a, odd);
    }
  }

  __device__ __forceinline__ static void mma(float (&c)[16], int first, const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    float part[4] = {c[first], c[first + 1], c[first + 2], c[first + 3]};
    mma_16816<T>(part, a, b);
#pragma unroll
    for (int q = 0; q < 4; ++q) c[first + q] = part[q];
  }

  // n[0 .. 15]: up to 64 runs with the squares of 8 columns of the right operand.
  template <bool kRightTransposed>
  __device__ __forceinline__ static void of_squares(float (&n)[16], const T* left, const T* right, int count) {
    const int low = lane() % 8, eighth = lane() / 8 * 8, half_low = lane() / 8 % 2 * 8, half_high = lane() / 16 * 8;
#pragma unroll
    for (int k = 0; k < 64; k += 32) {
      uint32_t b[4], a[4];
      load_matrix_x4<kRightTransposed>(b, kRightTransposed ? right + (k + eighth + low) * kPitch + warp() * 8
                                                           : right + (warp() * 8 + low) * kPitch + k + eighth);
#pragma unroll
      for (int q = 0; q < 4; ++q) b[q] = square_bf16x2(b[q]);
      const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
#pragma unroll
      for (int run = 0; run < 64; run += 16) {
        if (run < count) {
          const T* const rows = left + (run + half_low + low) * kPitch + k + half_high;
          load_matrix_x4<false>(a, rows);
          mma(n, run / 4, a, first);
          load_matrix_x4<false>(a, rows + 16);
          mma(n, run / 4, a, second);
        }
      }
    }
  }

  __device__ __forceinline__ static void pairs(float (&c)[kPairs], const T* a, const T* x) {
#pragma unroll
    for (int k = 0; k < kColumns; k += 16) step<false, false>(c, a, x, k);
  }

  __device__ __forceinline__ static void norms(float (&n)[kNorms], const T* v, const T* x, int count) {
    of_squares<false>(n, v, x, count);
  }

  // depth: rows of b beyond it, up to a multiple of 16, meet zeros of p.
  template <bool kTransposed>
  __device__ __forceinline__ static void rows(float (&o)[kOut], const T* p, const T* b, int depth) {
#pragma unroll
    for (int k = 0; k < kTile; k += 16) {
      if (k < depth) step<kTransposed, true>(o, p, b, k);
    }
  }

  __device__ __forceinline__ static void runs(float (&g)[kRuns], const T* f, const T* x, int count) {
    of_squares<true>(g, f, x, count);
  }
};

}  // namespace c2f::class_attentive

// Sums over a warp and a block in one fixed order, maxima and minima of a warp.
#pragma once

#include <cuda_runtime.h>

namespace c2f {

inline constexpr int kWarpSize = 32;
inline constexpr unsigned kFullWarp = 0xffffffffu;

// Sum over the lanes whose index agrees modulo kStride (kStride = 1: all lanes); every lane gets it.
template <int kStride = 1>
__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
  for (int offset = kStride; offset < kWarpSize; offset *= 2) value += __shfl_xor_sync(kFullWarp, value, offset);
  return value;
}

// Largest value of the lanes, NaN ignored; every lane gets it.
__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
  for (int offset = 1; offset < kWarpSize; offset *= 2) {
    value = fmaxf(value, __shfl_xor_sync(kFullWarp, value, offset));
  }
  return value;
}

// Smallest value of the lanes; every lane gets it.
__device__ __forceinline__ int warp_min(int value) {
#pragma unroll
  for (int offset = 1; offset < kWarpSize; offset *= 2) {
    const int other = __shfl_xor_sync(kFullWarp, value, offset);
    value = other < value ? other : value;
  }
  return value;
}

// Sum over four neighbouring lanes; each of them gets it.
__device__ __forceinline__ float quad_sum(float value) {
  value += __shfl_xor_sync(kFullWarp, value, 1);
  return value + __shfl_xor_sync(kFullWarp, value, 2);
}

// Sum over a block of kWarps full warps; every thread gets it. `shared` holds kWarps floats.
template <int kWarps>
__device__ __forceinline__ float block_sum(float value, float* shared) {
  value = warp_sum(value);
  if (threadIdx.x % kWarpSize == 0) shared[threadIdx.x / kWarpSize] = value;
  __syncthreads();
  float total = 0.f;
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp) total += shared[warp];
  __syncthreads();
  return total;
}

// Column sums of a block whose thread t holds, for kRows quantities, the columns t % kLanes * kVec + 0..kVec-1 of the
// tile. After it `shared` [kRows][kLanes * kVec] holds the sums over all threads of a column; it needs kWarps times as
// many floats.
template <int kRows, int kVec, int kLanes, int kWarps>
__device__ __forceinline__ void block_column_sums(const float (&values)[kRows][kVec], float* shared) {
  constexpr int kColumns = kLanes * kVec;
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
#pragma unroll
  for (int row = 0; row < kRows; ++row) {
#pragma unroll
    for (int j = 0; j < kVec; ++j) {
      const float sum = warp_sum<kLanes>(values[row][j]);
      if (lane < kLanes) shared[(warp * kRows + row) * kColumns + lane * kVec + j] = sum;
    }
  }
  __syncthreads();
  for (int index = threadIdx.x; index < kRows * kColumns; index += kWarps * kWarpSize) {
    float total = shared[index];
    for (int w = 1; w < kWarps; ++w) total += shared[w * kRows * kColumns + index];
    shared[index] = total;
  }
  __syncthreads();
}

}  // namespace c2f

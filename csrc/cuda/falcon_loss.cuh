// What the kernels of falcon_loss share: which columns a thread owns, the group of a sample, its neighbours, and how
// the warps of a row join their maxima and sums.
#pragma once

#include <cuda_runtime.h>

#include <climits>
#include <cstdint>

#include "c2f/falcon_loss.h"
#include "cuda/mma_sm80.cuh"
#include "cuda/reduce.cuh"
#include "cuda/vec.cuh"
#include "plan/falcon_loss_cuda_plan.h"

namespace c2f::falcon_loss {

// e^x within 2 + |1.2 x| ulp, 0 below 2^-126: softmax terms that are small may be that much less exact.
__device__ __forceinline__ float exp_of(float x) { return exp2_approx(x * 1.44269504f); }

// a / b within 2 ulp, for b of ordinary size.
__device__ __forceinline__ float divide(float a, float b) { return __fdividef(a, b); }

// In place of a maximum over nothing, so that exp(-inf - max) is 0 and not NaN.
__device__ __forceinline__ float finite(float max) { return max == -INFINITY ? 0.f : max; }

// The columns of a thread. A warp owns 32 * kItems neighbours, a lane every 32nd vector of kVec of them; item i of a
// thread is in its vector i / kVec.
template <int kVec, int kItems>
struct Columns {
  static constexpr int kVectors = kItems / kVec, kStride = kVec * kWarpSize;
  int first, left;  // the first column; columns of the row from there on

  __device__ __forceinline__ Columns(int thread, int64_t classes)
      : first(thread / kWarpSize * kWarpSize * kItems + thread % kWarpSize * kVec),
        left(static_cast<int>(classes) - first) {}

  // body(j, offset): vector j begins `offset` behind the first column.
  template <class Body>
  __device__ __forceinline__ void each_vector(Body body) const {
#pragma unroll
    for (int j = 0; j < kVectors; ++j) {
      if (j * kStride < left) body(j, j * kStride);
    }
  }

  // The items, -inf beyond the last column. `source` and `target` point at the first column's.
  template <class T>
  __device__ __forceinline__ void load(const T* source, float (&items)[kItems]) const {
#pragma unroll
    for (int i = 0; i < kItems; ++i) items[i] = -INFINITY;
    each_vector([&](int j, int offset) {
      float values[kVec];
      load_vec<kVec>(source + offset, values);
#pragma unroll
      for (int v = 0; v < kVec; ++v) items[j * kVec + v] = values[v];
    });
  }

  template <class T>
  __device__ __forceinline__ void store(T* target, const float (&items)[kItems]) const {
    each_vector([&](int j, int offset) {
      float values[kVec];
#pragma unroll
      for (int v = 0; v < kVec; ++v) values[v] = items[j * kVec + v];
      store_vec<kVec>(target + offset, values);
    });
  }

  __device__ __forceinline__ bool has(int i) const { return i / kVec * kStride < left; }

  // The column of the lowest bit that is set, INT_MAX for none.
  __device__ __forceinline__ int lowest(uint32_t bits) const {
    const int i = __ffs(static_cast<int>(bits)) - 1;
    return bits == 0 ? INT_MAX : first + i / kVec * kStride + i % kVec;
  }

  // The bit of a column, 0 where another thread has it.
  __device__ __forceinline__ uint32_t bit(int column) const {
    const int offset = column - first, j = offset / kStride, v = offset % kStride;
    return offset >= 0 && j < kVectors && v < kVec ? 1u << (j * kVec + v) : 0u;
  }
};

// Bit v: whether fine class v of kVec neighbours has this parent.
template <int kVec>
__device__ __forceinline__ uint32_t children(const int32_t* __restrict__ parents, int64_t label) {
  int32_t parent[kVec];
  if constexpr (kVec == 4) {
    const uint4 words = *reinterpret_cast<const uint4*>(parents);
    memcpy(parent, &words, sizeof(words));
  } else {
    parent[0] = *parents;
  }
  uint32_t bits = 0;
#pragma unroll
  for (int v = 0; v < kVec; ++v) bits |= static_cast<uint32_t>(parent[v] == label) << v;
  return bits;
}

// The first data set that gives a sample a label; D: none does.
__device__ __forceinline__ int first_labelled(const int64_t* __restrict__ labels, int64_t D) {
  int d = 0;
  while (d < D && labels[d] < 0) ++d;
  return d;
}

// The neighbours of one sample: those present, and whether one of them points beyond the rows of t.
struct Neighbours {
  const int64_t* __restrict__ indices;  // [L]
  int64_t N;
  int L, count = 0;
  bool beyond = false;

  __device__ __forceinline__ Neighbours(const FalconLossFwdArgs& args, int64_t row)
      : indices(args.neighbours + row * args.problem.L), N(args.problem.N), L(static_cast<int>(args.problem.L)) {
#pragma unroll 1
    for (int l = 0; l < L; ++l) {
      count += indices[l] >= 0;
      beyond |= indices[l] >= N;
    }
  }

  __device__ __forceinline__ bool valid(int l) const { return indices[l] >= 0 && indices[l] < N; }

  // The first neighbour from l on whose row exists; L: there is none.
  __device__ __forceinline__ int next(int l) const {
    while (l < L && !valid(l)) ++l;
    return l;
  }
};

// Maximum of x and sum of exp(rate (x - max)) over lanes that have those of their own values.
__device__ __forceinline__ void join_lanes(float& max, float& sum, float rate) {
  const float own = max;
  max = warp_max(own);
  sum = warp_sum(sum * exp_of((own - finite(max)) * rate));
}

// What the warps of a row tell each other: one barrier an exchange, consecutive ones in different halves of `shared`.
struct Exchange {
  static constexpr int kWords = 7, kWarpSlots = 16;
  static constexpr int kFloats = 2 * kWords * kWarpSlots;
  float* shared;  // [2][kWords][kWarpSlots]
  int warps;      // of the row; 1: nothing to exchange
  bool odd = false;

  // Words that agree in the lanes of a warp -> lane w has those of warp w, lanes without a warp keep `none`.
  template <int kCount>
  __device__ __forceinline__ void spread(float (&words)[kCount], const float (&none)[kCount]) {
    static_assert(kCount <= kWords);
    float* const half = shared + (odd ? kWords * kWarpSlots : 0);
    odd = !odd;
    const int lane = threadIdx.x % kWarpSize;
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      if (lane == 0) half[k * kWarpSlots + threadIdx.x / kWarpSize] = words[k];
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kCount; ++k) words[k] = lane < warps ? half[k * kWarpSlots + lane] : none[k];
  }

  // Maxima and sums of warps -> those of the row.
  template <int kCount>
  __device__ __forceinline__ void join(float (&max)[kCount], float (&sum)[kCount]) {
    if (warps == 1) return;
    float words[2 * kCount], none[2 * kCount];
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      words[2 * k] = max[k], words[2 * k + 1] = sum[k];
      none[2 * k] = -INFINITY, none[2 * k + 1] = 0.f;
    }
    spread(words, none);
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      max[k] = words[2 * k], sum[k] = words[2 * k + 1];
      join_lanes(max[k], sum[k], 1.f);
    }
  }

  // The same for z, z in the group, s in the group, and the lowest column where the last has its maximum.
  __device__ __forceinline__ void join(float (&max)[3], float (&sum)[3], int& column, float rate) {
    if (warps == 1) return;
    float words[7] = {max[0], sum[0], max[1], sum[1], max[2], sum[2], __int_as_float(column)};
    spread(words, {-INFINITY, 0.f, -INFINITY, 0.f, -INFINITY, 0.f, __int_as_float(INT_MAX)});
#pragma unroll
    for (int k = 0; k < 3; ++k) {
      max[k] = words[2 * k], sum[k] = words[2 * k + 1];
      join_lanes(max[k], sum[k], k == 2 ? rate : 1.f);
    }
    column = warp_min(words[4] == max[2] ? __float_as_int(words[6]) : INT_MAX);
  }

  // Sum over the row; `value` is a thread's own.
  __device__ __forceinline__ float total(float value) {
    float words[1] = {warp_sum(value)};
    if (warps == 1) return words[0];
    spread(words, {0.f});
    return warp_sum(words[0]);
  }

  __device__ __forceinline__ bool any(bool value) { return total(value ? 1.f : 0.f) > 0.f; }
};

// Softmax of z over all classes and over the group, and the target: (max, sum) pairs and the class of the target's
// maximum.
struct RowStatistics {
  float max[3], sum[3];  // z, z in the group, s / T in the group
  int hottest;

  // Whether a labelled row has no class in its group: an error, and NaN is its result.
  __device__ __forceinline__ bool empty() const { return max[1] == -INFINITY; }
  __device__ __forceinline__ float coarse() const {
    return empty() ? NAN : max[0] - max[1] + (logf(sum[0]) - logf(sum[1]));
  }
};

// Factors of the parts of a row's gradient: scale where the row has the part, else 0.
struct RowWeights {
  float coarse = 0.f, nn = 0.f, conf = 0.f;

  __device__ __forceinline__ RowWeights(const float* __restrict__ scale, bool labelled, bool accompanied) {
    if (labelled) coarse = scale[0], conf = scale[2];
    if (accompanied) nn = scale[1];
  }

  __device__ __forceinline__ float p() const { return coarse + nn + conf; }
};

// Rows longer than a block holds; in falcon_loss_fwd_long.cu.
Status launch_long(const FalconLossFwdArgs& args, const CudaPlan& plan, bool vectors, void* stream);

}  // namespace c2f::falcon_loss

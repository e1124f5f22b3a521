// What hadamard_reduce and hadamard_grad share: which thread owns what, and how a projection is read.
#pragma once

#include <algorithm>

#include "c2f/multilinear_pool.h"
#include "cuda/interactions.cuh"
#include "cuda/launch.cuh"
#include "cuda/reduce.cuh"
#include "cuda/vec.cuh"

namespace c2f {

inline constexpr int kHadamardThreads = 256;
inline constexpr int kHadamardWarps = kHadamardThreads / kWarpSize;

// A block owns (sample, kLanes * kVec columns of the chunk). Thread t owns kVec of the columns at positions
// t / kLanes, t / kLanes + kHadamardThreads / kLanes, ...
template <int kVec, int kLanes>
struct HadamardTile {
  static constexpr int kColumns = kLanes * kVec;
  static constexpr int kPositions = kHadamardThreads / kLanes;
  int64_t b, first;  // sample; first column of the tile in the chunk
  int64_t column;    // first column of this thread in the chunk
  int position;      // first position of this thread

  __device__ explicit HadamardTile(int64_t width) {
    const int64_t tiles = (width + kColumns - 1) / kColumns;
    b = blockIdx.x / tiles;
    first = (blockIdx.x - b * tiles) * kColumns;
    column = first + threadIdx.x % kLanes * kVec;
    position = threadIdx.x / kLanes;
  }

  static int64_t blocks(int64_t B, int64_t width) { return B * ((width + kColumns - 1) / kColumns); }
};

// The biases of this thread's columns; zero where there are none.
template <int kM, int kVec>
__device__ __forceinline__ void load_biases(const HadamardArgs& args, int factors, int64_t column,
                                            float (&bias)[kM][kVec]) {
#pragma unroll
  for (int m = 0; m < kM; ++m) {
    const bool has = args.raw && m < factors && args.biases[m] != nullptr;
#pragma unroll
    for (int j = 0; j < kVec; ++j) bias[m][j] = has ? args.biases[m][args.first + column + j] : 0.f;
  }
}

// U of all factors at row `row` = b * L + i; zero for factors that do not exist.
template <class T, int kM, int kVec>
__device__ __forceinline__ void load_projections(const HadamardArgs& args, int factors, int64_t row, int64_t column,
                                                 const float (&bias)[kM][kVec], float (&u)[kM][kVec]) {
#pragma unroll
  for (int m = 0; m < kM; ++m) {
    if (m < factors) {
      load_vec<kVec>(static_cast<const T*>(args.projections[m]) + row * args.row_stride + column, u[m]);
    } else {
#pragma unroll
      for (int j = 0; j < kVec; ++j) u[m][j] = 0.f;
    }
  }
  if (args.raw) {
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int j = 0; j < kVec; ++j) u[m][j] = activate(u[m][j] + bias[m][j], args.problem.activation);
    }
  }
}

// Whether a boolean mask excludes row b * L + i.
__device__ __forceinline__ bool is_excluded(const HadamardArgs& args, int64_t row) {
  return args.problem.mask == MaskKind::kBool && static_cast<const uint8_t*>(args.mask)[row] == 0;
}

__device__ __forceinline__ float position_weight(const HadamardArgs& args, int64_t row) {
  return args.problem.mask == MaskKind::kFloat ? static_cast<const float*>(args.mask)[row] : 1.f;
}

// Whether all of the chunk can be read, and its gradients written, kVec values of `bytes` bytes at a time.
inline bool is_vectorisable(const HadamardArgs& args, int kVec) {
  const int64_t bytes = size_of(args.dtype);
  bool aligned = args.width % kVec == 0;
  for (int m = 0; m < args.problem.M; ++m) {
    aligned = aligned && is_aligned(args.projections[m], args.row_stride, bytes, kVec * bytes);
    aligned = aligned && is_aligned(args.grads[m], args.width, bytes, kVec * bytes);
  }
  return aligned;
}

inline Status check_hadamard(const HadamardArgs& args, const char* name) {
  const MultilinearPoolProblem& problem = args.problem;
  const InteractionSet& set = problem.interactions;
  bool known = problem.M >= 1 && problem.M <= kMaxFactors && set.count >= 1 && set.count <= kMaxInteractions;
  for (int q = 0; known && q < set.count; ++q) {
    known = set.degree[q] >= 1 && set.degree[q] <= kMaxDegree;
    for (int k = 0; known && k < set.degree[q]; ++k) known = set.factor[q][k] >= 0 && set.factor[q][k] < problem.M;
  }
  if (!known) return Status::error(std::string(name) + ": the interactions do not fit the number of factors");
  return Status();
}

}  // namespace c2f

// Interactions as the Hadamard kernels see them: a set is a type, so that for the named sets every index is a constant
// after unrolling and projections stay in registers. DynamicSet reads them from the kernel's arguments.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>

#include "c2f/multilinear_pool.h"

namespace c2f {

struct MlpSet {  // (0,1) (0,2) (1,2) (0,1,2)
  static constexpr int kM = 3, kQ = 4;
  __host__ __device__ static constexpr int count() { return 4; }
  __host__ __device__ static constexpr int factors() { return 3; }
  __host__ __device__ static constexpr int degree(int q) { return q == 3 ? 3 : 2; }
  __host__ __device__ static constexpr int factor(int q, int k) { return q == 1 ? 2 * k : q == 2 ? k + 1 : k; }
};

struct HbpSet : MlpSet {  // (0,1) (0,2) (1,2)
  static constexpr int kQ = 3;
  __host__ __device__ static constexpr int count() { return 3; }
};

struct FbpSet {  // (0,1)
  static constexpr int kM = 2, kQ = 1;
  __host__ __device__ static constexpr int count() { return 1; }
  __host__ __device__ static constexpr int factors() { return 2; }
  __host__ __device__ static constexpr int degree(int) { return 2; }
  __host__ __device__ static constexpr int factor(int, int k) { return k; }
};

struct TrilinearSet {  // (0,1,2)
  static constexpr int kM = 3, kQ = 1;
  __host__ __device__ static constexpr int count() { return 1; }
  __host__ __device__ static constexpr int factors() { return 3; }
  __host__ __device__ static constexpr int degree(int) { return 3; }
  __host__ __device__ static constexpr int factor(int, int k) { return k; }
};

// Any set of at most kMaxQ interactions.
template <int kMaxQ>
struct DynamicSet {
  static constexpr int kM = kMaxFactors, kQ = kMaxQ;
  InteractionSet set;
  int M;
  __device__ int count() const { return set.count; }
  __device__ int factors() const { return M; }
  __device__ int degree(int q) const { return set.degree[q]; }
  __device__ int factor(int q, int k) const { return set.factor[q][k]; }
};

// values[m] without indexing registers at run time.
template <int kM, int kVec>
__device__ __forceinline__ float pick(const float (&values)[kM][kVec], int m, int j) {
  float value = values[0][j];
#pragma unroll
  for (int other = 1; other < kM; ++other) value = m == other ? values[other][j] : value;
  return value;
}

__device__ __forceinline__ float activate(float u, Activation activation) {
  if (activation == Activation::kRelu) return u <= 0.f ? 0.f : u;  // NaN stays
  return activation == Activation::kTanh ? tanhf(u) : u;
}

// dLoss/du before the activation, from its result u.
__device__ __forceinline__ float activation_grad(float u, float grad, Activation activation) {
  if (activation == Activation::kRelu) return u <= 0.f ? 0.f : grad;
  return activation == Activation::kTanh ? grad * (1.f - u * u) : grad;
}

// Whether `problem` asks for exactly this set; the order of factors inside a tuple has no meaning.
template <class Set>
bool matches(const MultilinearPoolProblem& problem) {
  const InteractionSet& set = problem.interactions;
  if (problem.M != Set::kM || set.count != Set::kQ) return false;
  for (int q = 0; q < Set::kQ; ++q) {
    if (set.degree[q] != Set::degree(q)) return false;
    int32_t sorted[kMaxDegree];
    std::copy(set.factor[q], set.factor[q] + set.degree[q], sorted);
    std::sort(sorted, sorted + set.degree[q]);
    for (int k = 0; k < set.degree[q]; ++k) {
      if (sorted[k] != Set::factor(q, k)) return false;
    }
  }
  return true;
}

// Runs `body(set)` with the type that fits at most four interactions best: a named set, else one that is read at run
// time.
template <class Body>
auto with_set(const MultilinearPoolProblem& problem, Body body) {
  if (matches<MlpSet>(problem)) return body(MlpSet{});
  if (matches<HbpSet>(problem)) return body(HbpSet{});
  if (matches<FbpSet>(problem)) return body(FbpSet{});
  if (matches<TrilinearSet>(problem)) return body(TrilinearSet{});
  return body(DynamicSet<4>{problem.interactions, problem.M});
}

}  // namespace c2f

// p[b,q,first+j] = sum_i w[b,i] * prod_k U_{T_q[k]}[b,i,j] for one chunk of projections. Memory bound: every projection
// is read once.
#include "cuda/hadamard.cuh"

namespace c2f {
namespace {

// grid: (sample, column tile) flattened; block: 256 threads; shared: kHadamardWarps * Q * tile floats.
// A thread owns kVec columns at every (256 / kLanes)-th position and sums them in order; then a fixed tree over the
// block.
template <class T, int kVec, int kLanes, class Set>
__global__ void __launch_bounds__(kHadamardThreads) hadamard_reduce_kernel(const HadamardArgs args, const Set set) {
  using Tile = HadamardTile<kVec, kLanes>;
  __shared__ float shared[kHadamardWarps * Set::kQ * Tile::kColumns];
  const Tile tile(args.width);
  const int64_t L = args.problem.L;

  float sum[Set::kQ][kVec] = {};
  if (tile.column < args.width) {
    float bias[Set::kM][kVec];
    load_biases(args, set.factors(), tile.column, bias);
    for (int64_t i = tile.position; i < L; i += Tile::kPositions) {
      const int64_t row = tile.b * L + i;
      if (is_excluded(args, row)) continue;
      float u[Set::kM][kVec];
      load_projections<T>(args, set.factors(), row, tile.column, bias, u);
      const float weight = position_weight(args, row);
#pragma unroll
      for (int q = 0; q < Set::kQ; ++q) {
        if (q >= set.count()) break;
#pragma unroll
        for (int j = 0; j < kVec; ++j) {
          float product = weight;
#pragma unroll
          for (int k = 0; k < kMaxDegree; ++k) {
            if (k < set.degree(q)) product *= pick(u, set.factor(q, k), j);
          }
          sum[q][j] += product;
        }
      }
    }
  }

  block_column_sums<Set::kQ, kVec, kLanes, kHadamardWarps>(sum, shared);
  for (int index = threadIdx.x; index < set.count() * Tile::kColumns; index += kHadamardThreads) {
    const int q = index / Tile::kColumns;
    const int64_t column = tile.first + index % Tile::kColumns;
    if (column < args.width) {
      args.p[(tile.b * set.count() + q) * args.problem.D + args.first + column] = shared[index];
    }
  }
}

template <class T, int kVec, int kLanes, class Set>
Status launch_tile(const HadamardArgs& args, const Set& set, void* stream) {
  const int64_t blocks = HadamardTile<kVec, kLanes>::blocks(args.problem.B, args.width);
  return launch("hadamard_reduce", hadamard_reduce_kernel<T, kVec, kLanes, Set>, blocks, kHadamardThreads, 0, stream,
                args, set);
}

template <class T>
Status launch_typed(const HadamardArgs& args, void* stream) {
  const MultilinearPoolProblem& problem = args.problem;
  constexpr int kVec = 16 / sizeof(T);  // 16-byte loads of 64-byte rows
  if (problem.interactions.count <= 4 && is_vectorisable(args, kVec)) {
    return with_set(problem, [&](const auto& set) { return launch_tile<T, kVec, 4>(args, set, stream); });
  }
  return launch_tile<T, 1, 32>(args, DynamicSet<kMaxInteractions>{problem.interactions, problem.M}, stream);
}

}  // namespace

Status launch_hadamard_reduce(const HadamardArgs& args, void* stream) {
  const Status status = check_hadamard(args, "hadamard_reduce");
  if (!status.ok() || args.problem.B == 0 || args.width == 0) return status;
  return with_type(args.dtype, "hadamard_reduce", [&](auto type) { return launch_typed<decltype(type)>(args, stream); });
}

}  // namespace c2f

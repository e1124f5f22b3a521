// G_m[b,i,j] = act'(U_m) * w[b,i] * sum over (q,k) with T_q[k] = m of d_p[b,q,first+j] * prod_{k' != k}
// U_{T_q[k']}[b,i,j] for all factors of one chunk, and d_bias_m[b,j] = sum_i G_m[b,i,j] before rounding. Memory bound:
// reads every projection once, writes every G once.
#include "cuda/hadamard.cuh"

namespace c2f {
namespace {

// grid: (sample, column tile) flattened; block: 256 threads; shared: kHadamardWarps * M * tile floats.
// A thread owns kVec columns at every (256 / kLanes)-th position: their d_p stays in registers, as do the sums for
// d_bias.
template <class T, int kVec, int kLanes, class Set>
__global__ void __launch_bounds__(kHadamardThreads) hadamard_grad_kernel(const HadamardArgs args, const Set set) {
  using Tile = HadamardTile<kVec, kLanes>;
  __shared__ float shared[kHadamardWarps * Set::kM * Tile::kColumns];
  const Tile tile(args.width);
  const int64_t L = args.problem.L;

  float d_bias[Set::kM][kVec] = {};
  if (tile.column < args.width) {
    float bias[Set::kM][kVec], d_p[Set::kQ][kVec], scale[Set::kM];
    load_biases(args, set.factors(), tile.column, bias);
#pragma unroll
    for (int q = 0; q < Set::kQ; ++q) {
#pragma unroll
      for (int j = 0; j < kVec; ++j) {
        const int64_t offset = (tile.b * set.count() + q) * args.problem.D + args.first + tile.column + j;
        d_p[q][j] = q < set.count() ? args.d_p[offset] : 0.f;
      }
    }
#pragma unroll
    for (int m = 0; m < Set::kM; ++m) scale[m] = args.grad_scale && m < set.factors() ? args.grad_scale[m] : 1.f;

    for (int64_t i = tile.position; i < L; i += Tile::kPositions) {
      const int64_t row = tile.b * L + i;
      float g[Set::kM][kVec] = {};
      if (!is_excluded(args, row)) {
        float u[Set::kM][kVec];
        load_projections<T>(args, set.factors(), row, tile.column, bias, u);
        const float weight = position_weight(args, row);
#pragma unroll
        for (int q = 0; q < Set::kQ; ++q) {
#pragma unroll
          for (int k = 0; k < kMaxDegree; ++k) {
            if (q < set.count() && k < set.degree(q)) {
#pragma unroll
              for (int j = 0; j < kVec; ++j) {
                float product = d_p[q][j];
#pragma unroll
                for (int other = 0; other < kMaxDegree; ++other) {
                  if (other < set.degree(q) && other != k) product *= pick(u, set.factor(q, other), j);
                }
#pragma unroll
                for (int m = 0; m < Set::kM; ++m) {
                  g[m][j] += m == set.factor(q, k) ? product : 0.f;
                }
              }
            }
          }
        }
#pragma unroll
        for (int m = 0; m < Set::kM; ++m) {
#pragma unroll
          for (int j = 0; j < kVec; ++j) {
            g[m][j] = activation_grad(u[m][j], g[m][j] * weight, args.problem.activation);
            d_bias[m][j] += g[m][j];
          }
        }
      }
#pragma unroll
      for (int m = 0; m < Set::kM; ++m) {
        if (m < set.factors() && args.grads[m] != nullptr) {
#pragma unroll
          for (int j = 0; j < kVec; ++j) g[m][j] *= scale[m];
          store_vec<kVec>(static_cast<T*>(args.grads[m]) + row * args.width + tile.column, g[m]);
        }
      }
    }
  }

  block_column_sums<Set::kM, kVec, kLanes, kHadamardWarps>(d_bias, shared);
  for (int index = threadIdx.x; index < set.factors() * Tile::kColumns; index += kHadamardThreads) {
    const int m = index / Tile::kColumns;
    const int64_t column = tile.first + index % Tile::kColumns;
    if (args.d_biases[m] != nullptr && column < args.width)
      args.d_biases[m][tile.b * args.width + column] = shared[index];
  }
}

template <class T, int kVec, int kLanes, class Set>
Status launch_tile(const HadamardArgs& args, const Set& set, void* stream) {
  const int64_t blocks = HadamardTile<kVec, kLanes>::blocks(args.problem.B, args.width);
  return launch("hadamard_grad", hadamard_grad_kernel<T, kVec, kLanes, Set>, blocks, kHadamardThreads, 0, stream, args,
                set);
}

template <class T>
Status launch_typed(const HadamardArgs& args, void* stream) {
  const MultilinearPoolProblem& problem = args.problem;
  constexpr int kVec = 4;  // not 16 bytes of a 16-bit type: d_p, bias, U, G and the sums for d_bias are live at once
  constexpr int kLanes = 32 / sizeof(T);
  if (problem.interactions.count <= 4 && is_vectorisable(args, kVec)) {
    return with_set(problem, [&](const auto& set) { return launch_tile<T, kVec, kLanes>(args, set, stream); });
  }
  return launch_tile<T, 1, 32>(args, DynamicSet<kMaxInteractions>{problem.interactions, problem.M}, stream);
}

}  // namespace

Status launch_hadamard_grad(const HadamardArgs& args, void* stream) {
  const Status status = check_hadamard(args, "hadamard_grad");
  if (!status.ok() || args.problem.B == 0 || args.width == 0) return status;
  return with_type(args.dtype, "hadamard_grad", [&](auto type) { return launch_typed<decltype(type)>(args, stream); });
}

}  // namespace c2f

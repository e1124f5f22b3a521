#include <algorithm>

#include "c2f/multilinear_pool.h"
#include "plan/fused_sm80_tile.h"
#include "plan/fused_sm90_tile.h"

namespace c2f {
namespace {

// The M buffers of one chunk take at most this share of L2; the rest is for weights, features and what leaves.
constexpr double kL2Share = 2.0 / 3.0;
constexpr int64_t kColumnStep = 64;  // chunks are multiples of it
constexpr int64_t kFullColumns =
    512;  // below this the GEMMs of a chunk lose more than L2 gives: take fewer samples instead

int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

// The largest chunk of columns that fits, cut so that all chunks of D are about equally wide.
int64_t columns_that_fit(int64_t D, int64_t most) {
  if (most >= D) return D;
  most = std::max(most / kColumnStep * kColumnStep, kColumnStep);
  const int64_t chunks = (D + most - 1) / most;
  return std::min(round_up((D + chunks - 1) / chunks, kColumnStep), D);
}

void plan_chunks(const MultilinearPoolProblem& problem, const CudaDevice& device, MultilinearPoolCudaPlan* plan) {
  const double budget = kL2Share * static_cast<double>(device.l2_bytes);
  const double per_cell = static_cast<double>(problem.M) * static_cast<double>(std::max<int64_t>(problem.L, 1)) *
                          static_cast<double>(size_of(problem.dtype));  // bytes of one column of one sample
  const double cells = std::min(budget / per_cell, 9e18);
  const int64_t D = std::max<int64_t>(problem.D, 1), B = std::max<int64_t>(problem.B, 1);
  const int64_t full = std::min(D, kFullColumns);
  plan->chunk_b = std::clamp<int64_t>(static_cast<int64_t>(cells / static_cast<double>(full)), 1, B);
  plan->chunk_d = columns_that_fit(D, static_cast<int64_t>(cells / static_cast<double>(plan->chunk_b)));
}

// Why no fused kernel can take the problem; null: the device decides.
const char* fused_obstacle(const MultilinearPoolProblem& problem, Layout layout) {
  if (problem.dtype == DType::kFloat32) {
    return "the fused kernels take 16-bit types: tensor cores read transposed operands of no other, TF32 included";
  }
  if (problem.M != 2 && problem.M != 3) return "the fused kernels take two or three factors";
  for (int q = 0; q < problem.interactions.count; ++q) {
    const int32_t degree = problem.interactions.degree[q];
    const int32_t* factor = problem.interactions.factor[q];
    if (degree < 2) return "the fused kernels take products of at least two factors";
    for (int k = 1; k < degree; ++k) {
      if (std::find(factor, factor + k, factor[k]) != factor + k)
        return "the fused kernels take products of distinct factors";
    }
  }
  if (layout == Layout::kStrided) return "the fused kernels read features whose positions or channels are contiguous";
  int64_t smallest = problem.L, largest = std::max({problem.B, problem.L, problem.D});
  for (int m = 0; m < problem.M; ++m) {
    smallest = std::min(smallest, problem.C[m]);
    largest = std::max(largest, problem.C[m]);
  }
  if (smallest <= 0 || problem.B == 0 || problem.D == 0) return "nothing to fuse: a size is 0";
  static_assert(fused_sm80::kMaxSize == fused_sm90::kMaxSize);
  if (largest > fused_sm80::kMaxSize) return "the fused kernels count sizes in 32 bits";
  return nullptr;
}

// Why the sm_80 kernel cannot take the problem; null: it can. Sets the fused fields of the plan.
const char* plan_fused_sm80(const MultilinearPoolProblem& problem, Layout layout, const CudaDevice& device,
                            MultilinearPoolCudaPlan* plan) {
  if (device.major < 8) return "the fused kernels need compute capability 8.0";
  // Positions are computed in whole tiles; loading a tile's weights costs about as much as 16 more positions.
  int best = 0;
  for (const int block_l : fused_sm80::kBlockL) {
    const auto cost = [&](int64_t tile) { return (problem.L + tile - 1) / tile * (tile + 16); };
    if (best == 0 || cost(block_l) < cost(best)) best = block_l;
  }
  const int64_t shared_bytes = fused_sm80::shared_bytes(best, layout);
  if (shared_bytes > device.shared_bytes_per_block)
    return "the fused kernel needs more shared memory than a block can have";
  const int64_t grid = fused_sm80::blocks(problem);
  if (grid > INT32_MAX) return "the fused kernel would need more than 2^31 - 1 blocks";

  plan->fused = CudaKernel::kFusedSm80;
  plan->block_l = best;
  plan->block_d = fused_sm80::kBlockD;
  plan->block_c = fused_sm80::kBlockC;
  plan->stages = fused_sm80::kStages;
  plan->threads = fused_sm80::kThreads;
  plan->grid = grid;
  plan->shared_bytes = shared_bytes;
  return nullptr;
}

// Why the sm_90a kernel cannot take what a fused kernel can; null: it can. Sets the fused fields of the plan.
const char* plan_fused_sm90(const MultilinearPoolProblem& problem, Layout layout, const CudaDevice& device,
                            const FusedWish& wish, MultilinearPoolCudaPlan* plan) {
  using namespace fused_sm90;
  if (device.major != 9) return "sm_80 kernel: that of sm_90a needs compute capability 9.0";
  if (!device.sm90a) return "sm_80 kernel: that of sm_90a is not built in or not to be taken";
  if (problem.activation == Activation::kTanh) return "sm_80 kernel: that of sm_90a has no tanh";
  // The copy engine needs strides of 16 bytes.
  if (problem.D % 8 != 0) return "sm_80 kernel: that of sm_90a needs a width that is a multiple of 8";
  if (layout == Layout::kPositions && problem.L % 8 != 0)
    return "sm_80 kernel: that of sm_90a needs a multiple of 8 positions where they are contiguous";
  for (int m = 0; m < problem.M; ++m) {
    if (layout == Layout::kChannels && problem.C[m] % 8 != 0)
      return "sm_80 kernel: that of sm_90a needs multiples of 8 channels where they are contiguous";
  }

  double least = 0;
  for (const Tile tile : kTiles) {
    for (const Cluster cluster : kClusters) {
      const bool wanted = wish.block_l == 0 || (wish.block_l == tile.block_l && wish.live == tile.live &&
                                                wish.cluster_b == cluster.b && wish.cluster_d == cluster.d);
      if (!wanted || blocks(problem, cluster) > INT32_MAX) continue;
      if (shared_bytes(tile.block_l, layout) > device.shared_bytes_per_block) continue;
      const Forecast forecast = forecast_of(problem, tile, cluster, device.num_sms);
      if (least > 0 && forecast.clocks >= least) continue;
      least = forecast.clocks;
      plan->block_l = tile.block_l;
      plan->live = tile.live;
      plan->cluster_b = cluster.b;
      plan->cluster_d = cluster.d;
      plan->limit = forecast.limit;
      plan->bound = forecast.bound;
      plan->grid = blocks(problem, cluster);
    }
  }
  if (least == 0) return "sm_80 kernel: that of sm_90a has no tile that fits";
  plan->fused = CudaKernel::kFusedSm90;
  plan->block_d = kBlockD;
  plan->block_c = kBlockC;
  plan->stages = stages(plan->block_l, layout);
  plan->threads = kThreads;
  plan->shared_bytes = shared_bytes(plan->block_l, layout);
  return nullptr;
}

}  // namespace

Status plan_multilinear_pool_cuda(const MultilinearPoolProblem& problem, Layout layout, const CudaDevice& device,
                                  const FusedWish& wish, MultilinearPoolCudaPlan* plan) {
  if (problem.M < 1 || problem.M > kMaxFactors) return Status::error("plan_multilinear_pool_cuda: M must be 1 to 4");
  if (problem.interactions.count < 1 || problem.interactions.count > kMaxInteractions) {
    return Status::error("plan_multilinear_pool_cuda: there must be 1 to 16 interactions");
  }
  if (device.num_sms < 1 || device.l2_bytes < 1)
    return Status::error("plan_multilinear_pool_cuda: device facts are missing");
  *plan = MultilinearPoolCudaPlan();
  plan_chunks(problem, device, plan);
  const char* reason = fused_obstacle(problem, layout);
  if (reason == nullptr) {
    reason = plan_fused_sm90(problem, layout, device, wish, plan);
    if (reason != nullptr && wish.block_l > 0) return Status::error(reason);
    if (reason != nullptr) {
      const char* obstacle = plan_fused_sm80(problem, layout, device, plan);
      if (obstacle != nullptr || device.major != 9) reason = obstacle;
    }
  }
  if (plan->fused != CudaKernel::kChunked && plan->grid < device.num_sms) {
    reason = "the fused kernel would leave multiprocessors idle";
  } else {
    plan->kernel = plan->fused;
  }
  plan->reason = reason == nullptr ? "16-bit products of distinct factors, enough tiles for the device" : reason;
  return Status();
}

}  // namespace c2f

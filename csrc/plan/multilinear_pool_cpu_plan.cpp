// Blocking of multilinear_pool on the CPU, from sizes and that of L2. The number of threads changes how work is cut,
// never the order of a sum: unit_d, fwd_chunk_d and the sizes of tasks (product_*) may follow it; block_rows, chunk_d
// and chunk_b must not.
#include <algorithm>
#include <numeric>
#include <string>

#include "cpu/cpu_features.h"
#include "cpu/multilinear_pool_cpu.h"
#include "cpu/thread_pool.h"

namespace c2f {
namespace {

// Staged: a block's features, all channels of all factors, stay in L2 beside its projections by a narrow unit, and
// every panel of weights is used by all the rows of the block. Where too few rows would fit, wide units of part of the
// channels: the projections of a block by a unit stay in L2, longer blocks stream the weights less often, wider units
// the features. Wide units too where projections are saved, for memory takes and gives long pieces of their rows
// faster. The order of sums is the same.
//
// Where one block has all positions, each panel of weights is used by one task, which packs it itself: that stays in
// L2, where weights packed in advance were written to memory and read again. Features are packed anew for each unit, so
// this is for fewer rows than half the columns of one.
constexpr double kCacheShare = 0.73;  // of L2 for a block
constexpr int64_t kStagedUnit = 32;
constexpr int64_t kBlockRows = 224, kUnitColumns = 512;  // float32
constexpr int64_t kAmxMostRows = 416, kAmxLeastStagedRows = 96, kAmxUnitColumns = 256;
constexpr int64_t kWeightBytes = int64_t{16} << 20;  // packed weights of one chunk of the forward
constexpr int64_t kChunkColumns = 512, kLeastChunk = 128;
constexpr int64_t kProductChannels = 280;
constexpr int64_t kAmxChunkBytes = 2048, kAmxProductChannels = 512;
constexpr int64_t kPlaneProductColumns = 256;  // where a task packs its part of G anew
// Gradients of one pass of the backward. With 16-bit operands a second pass needs float32 sums of d_weight, as large.
constexpr int64_t kPassBytes = int64_t{48} << 20, kNarrowPassBytes = int64_t{96} << 20;

}  // namespace

Status plan_multilinear_pool_cpu(const MultilinearPoolProblem& problem, bool saves, int num_threads,
                                 MultilinearPoolCpuPlan* plan) {
  if (num_threads < 1 || num_threads > kMaxThreads) {
    return Status::error("num_threads must be 1.." + std::to_string(kMaxThreads) + ", got " +
                         std::to_string(num_threads));
  }
  const Kernels& kernels = cpu_kernels(problem.dtype, problem.precision);
  const int64_t nr = kernels.nr;
  *plan = MultilinearPoolCpuPlan();
  plan->isa = kernels.isa;
  plan->block_l = kernels.mr;
  plan->block_d = kernels.nr;

  const int64_t channels = std::accumulate(problem.C, problem.C + problem.M, int64_t{0});
  const auto cache = static_cast<int64_t>(kCacheShare * static_cast<double>(l2_bytes()));
  const auto fitting_rows = [&](int64_t k, int64_t unit) {
    const int64_t row_bytes = k * kernels.operand_bytes + problem.M * unit * static_cast<int64_t>(sizeof(float));
    return cache / row_bytes / kernels.mr * kernels.mr;
  };
  const bool amx = kernels.enter != nullptr;
  const int64_t least = amx ? kAmxLeastStagedRows : kBlockRows;
  const int64_t wide = amx ? kAmxUnitColumns : kUnitColumns;
  const auto block_rows = [&](int64_t k, int64_t columns) {
    const int64_t rows = amx ? std::min(kAmxMostRows, fitting_rows(k, columns)) : kBlockRows / kernels.mr * kernels.mr;
    return std::min(rows, kMaxBlockTiles * int64_t{kernels.mr});
  };
  // Tiles of all samples: several samples share one where they fit.
  const int64_t shared = std::max<int64_t>(1, kernels.mr / std::max<int64_t>(1, problem.L));
  const int64_t tiles = ceil_div(problem.B, shared) * ceil_div(problem.L, int64_t{kernels.mr});
  plan->packs_units = tiles <= std::min(block_rows(kernels.block_k, wide), wide / 2) / kernels.mr;
  plan->staged = !plan->packs_units && !saves && fitting_rows(channels, kStagedUnit) >= least;
  const int64_t unit = plan->staged ? kStagedUnit : wide;
  plan->block_rows = block_rows(plan->staged ? channels : kernels.block_k, unit);
  // Narrow problems are cut finer, so that every thread has columns.
  plan->unit_d = std::clamp(ceil_div(ceil_div(problem.D, num_threads), nr) * nr, nr, unit);

  const int64_t column_bytes = std::max(int64_t{1}, channels) * kernels.operand_bytes;
  const int64_t units = std::max(int64_t{1}, ceil_div(problem.D, plan->unit_d));
  const int64_t fitting = std::max<int64_t>(num_threads, kWeightBytes / column_bytes / plan->unit_d);
  const int64_t most = plan->packs_units ? units : std::min(units, fitting);
  plan->fwd_chunk_d = std::max<int64_t>(std::min<int64_t>(num_threads, units), ceil_div(units, ceil_div(units, most)));
  plan->fwd_chunk_d *= plan->unit_d;

  const auto sample_bytes = [&](int64_t chunk_d) {  // G, d_feature and prepacked features of one sample
    int64_t bytes = problem.M * chunk_d * kernels.operand_bytes;
    for (int m = 0; m < problem.M; ++m) {
      const int64_t element = sizeof(float) + (kernels.pack_grad != nullptr ? kernels.operand_bytes : 0);
      bytes += ceil_div(problem.C[m], nr) * nr * element;
    }
    return std::max<int64_t>(1, bytes * problem.L);
  };
  plan->chunk_d =
      std::clamp(ceil_div(problem.D, nr) * nr, nr, amx ? kAmxChunkBytes / kernels.operand_bytes : kChunkColumns);
  const int64_t pass_bytes = problem.dtype == DType::kFloat32 ? kPassBytes : kNarrowPassBytes;
  while (plan->chunk_d > kLeastChunk && sample_bytes(plan->chunk_d) > pass_bytes) {
    plan->chunk_d = ceil_div(plan->chunk_d / 2, nr) * nr;
  }
  const int64_t batch = std::max(int64_t{1}, problem.B);
  const int64_t most_samples = std::clamp(pass_bytes / sample_bytes(plan->chunk_d), int64_t{1}, batch);
  plan->chunk_b = ceil_div(batch, ceil_div(batch, most_samples));

  // The more channels a task of d_weight has, the less often G is read; they are shared out evenly.
  const int64_t widest = *std::max_element(problem.C, problem.C + problem.M);
  const int64_t channel_tiles = std::max(int64_t{1}, ceil_div(widest, kernels.mr));
  const int64_t most_tiles = ceil_div(amx ? kAmxProductChannels : kProductChannels, kernels.mr);
  plan->product_rows = amx ? plan->block_rows : ceil_div(plan->block_rows / kernels.mr, 2) * kernels.mr;
  plan->product_channels = ceil_div(channel_tiles, ceil_div(channel_tiles, most_tiles)) * kernels.mr;
  plan->product_d = std::min(plan->chunk_d, kernels.pack_grad ? kPlaneProductColumns : kUnitColumns);
  const auto tasks = [&] {  // of d_weight, a chunk
    int64_t count = 0;
    for (int m = 0; m < problem.M; ++m) count += ceil_div(problem.C[m], plan->product_channels);
    return count * ceil_div(plan->chunk_d, plan->product_d);
  };
  const int64_t least_tasks = tasks_wanted(num_threads) / 4;
  while (tasks() < least_tasks && plan->product_d > nr) plan->product_d = ceil_div(plan->product_d / 2, nr) * nr;
  while (tasks() < least_tasks && plan->product_channels > kernels.mr) {
    plan->product_channels = ceil_div(plan->product_channels / 2, kernels.mr) * kernels.mr;
  }
  while (problem.M * ceil_div(plan->chunk_b * problem.L, plan->product_rows) < least_tasks &&
         plan->product_rows > kernels.mr) {
    plan->product_rows = ceil_div(plan->product_rows / 2, kernels.mr) * kernels.mr;
  }

  Arena forward(nullptr), backward(nullptr);
  FwdShared().take(forward, problem, *plan, kernels);
  BwdShared().take(backward, problem, *plan, kernels);
  for (int worker = 0; worker < num_threads; ++worker) {
    FwdWorker().take(forward, problem, *plan, kernels);
    BwdWorker().take(backward, problem, *plan, kernels);
  }
  plan->fwd_scratch_bytes = forward.used();
  plan->bwd_scratch_bytes = backward.used();
  return {};
}

}  // namespace c2f

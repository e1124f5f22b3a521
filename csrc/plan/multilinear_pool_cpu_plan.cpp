// Blocking of multilinear_pool on the CPU, from sizes alone. The number of threads changes how work is cut, never the
// order of a sum: columns are independent, so unit_d may follow it; chunk_d and chunk_b must not.
#include <algorithm>
#include <string>

#include "cpu/multilinear_pool_cpu.h"
#include "cpu/thread_pool.h"

namespace c2f {
namespace {

constexpr int64_t kUnitColumns = 512;
constexpr int64_t kChunkColumns = 512, kLeastChunk = 128;
constexpr int64_t kPassBytes = int64_t{96} << 20;  // gradients of one pass of the backward

}  // namespace

Status plan_multilinear_pool_cpu(const MultilinearPoolProblem& problem, int num_threads, MultilinearPoolCpuPlan* plan) {
  if (num_threads < 1 || num_threads > kMaxThreads) {
    return Status::error("num_threads must be 1.." + std::to_string(kMaxThreads) + ", got " +
                         std::to_string(num_threads));
  }
  const Kernels& kernels = cpu_kernels();
  const int64_t nr = kernels.nr;
  *plan = MultilinearPoolCpuPlan();
  plan->isa = kernels.isa;
  plan->block_l = kernels.mr;
  plan->block_d = kernels.nr;

  // Narrow problems are cut finer, so that every thread has columns.
  plan->unit_d = std::clamp(ceil_div(ceil_div(problem.D, num_threads), nr) * nr, nr, kUnitColumns);

  const auto sample_bytes = [&](int64_t chunk_d) {  // G and d_feature of one sample
    int64_t columns = problem.M * chunk_d;
    for (int m = 0; m < problem.M; ++m) columns += ceil_div(problem.C[m], nr) * nr;
    return std::max<int64_t>(1, columns * problem.L * static_cast<int64_t>(sizeof(float)));
  };
  plan->chunk_d = std::clamp(ceil_div(problem.D, nr) * nr, nr, kChunkColumns);
  while (plan->chunk_d > kLeastChunk && sample_bytes(plan->chunk_d) > kPassBytes) {
    plan->chunk_d = ceil_div(plan->chunk_d / 2, nr) * nr;
  }
  plan->chunk_b = std::clamp(kPassBytes / sample_bytes(plan->chunk_d), int64_t{1}, std::max(int64_t{1}, problem.B));

  Arena forward(nullptr), backward(nullptr);
  FwdShared().take(forward, problem, kernels, num_threads);
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

#include "plan/falcon_loss_cuda_plan.h"

#include <algorithm>
#include <utility>

namespace c2f {
namespace falcon_loss {
namespace {

// Enough blocks that the last wave costs little on 150 multiprocessors, few enough that their partial masses are small
// beside the rows.
constexpr int64_t kMaxBlocks = 1024;
constexpr int64_t kMostRowsAtOnce = 8;
constexpr int64_t kBlocksBeforeRows = 512;  // a small batch is spread over the multiprocessors first

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

CudaPlan plan_cuda(const FalconLossProblem& problem) {
  CudaPlan plan;
  for (const auto& [items, most] : {std::pair{kFewItems, kFewWarps}, std::pair{kManyItems, kMaxWarps}}) {
    const int64_t warps = std::max<int64_t>(ceil_div(problem.K_F, 32 * items), 1);
    if (plan.items == 0 && warps <= most) plan.items = items, plan.warps = static_cast<int32_t>(warps);
  }
  if (plan.warps == 1) {
    plan.rows_at_once =
        static_cast<int32_t>(std::clamp<int64_t>(ceil_div(problem.B, kBlocksBeforeRows), 1, kMostRowsAtOnce));
  }
  plan.steps = static_cast<int32_t>(std::max<int64_t>(ceil_div(problem.B, plan.rows_at_once * kMaxBlocks), 1));
  plan.blocks = ceil_div(problem.B, int64_t{plan.rows_at_once} * plan.steps);
  const int64_t items = int64_t{32} * plan.items * plan.warps * plan.rows_at_once;
  plan.shared_bytes = items * (4 + static_cast<int64_t>(size_of(problem.dtype)));
  plan.joint_offset = ceil_div(4 * plan.blocks * problem.K_F, 16) * 16;
  plan.scratch_bytes = plan.joint_offset + (plan.items > 0 ? 0 : 8 * plan.blocks * problem.L);
  return plan;
}

}  // namespace falcon_loss

int64_t falcon_loss_cuda_scratch(const FalconLossProblem& problem) {
  return falcon_loss::plan_cuda(problem).scratch_bytes;
}

}  // namespace c2f

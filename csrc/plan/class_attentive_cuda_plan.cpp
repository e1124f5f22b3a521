#include "plan/class_attentive_cuda_plan.h"

#include <algorithm>

namespace c2f {
namespace class_attentive {
namespace {

constexpr int64_t kFill = 264;  // blocks wanted: two on each of 132 multiprocessors
constexpr int64_t kMaxSplits = 16;
constexpr int64_t kMaxGradientSplits = 4;  // bounds the partial sums: 2 x 4 A d or 4 N d float32

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t aligned(int64_t bytes) { return ceil_div(bytes, 64) * 64; }

int32_t splits_of(int64_t blocks, int64_t tiles, int64_t most) {
  return static_cast<int32_t>(
      std::clamp<int64_t>(ceil_div(kFill, std::max<int64_t>(blocks, 1)), 1, std::clamp<int64_t>(tiles, 1, most)));
}

}  // namespace

CudaPlan plan_cuda(const ClassAttentiveProblem& problem) {
  CudaPlan plan;
  plan.tensor_cores = problem.dtype == DType::kBFloat16;
  const int64_t element = plan.tensor_cores ? 2 : 4, columns = kChunkBytes / element;
  plan.chunks = static_cast<int32_t>(std::max<int64_t>(ceil_div(problem.d, columns), 1));
  plan.width = plan.chunks * columns;
  plan.anchor_tiles = ceil_div(problem.A, kTile);
  plan.key_tiles = ceil_div(problem.N, kTile);
  plan.out_blocks = static_cast<int32_t>(ceil_div(plan.width, kOutColumns));
  plan.splits = splits_of(plan.anchor_tiles, plan.key_tiles, kMaxSplits);
  plan.anchor_splits = splits_of(plan.anchor_tiles * plan.out_blocks, plan.key_tiles, kMaxGradientSplits);
  plan.key_splits = splits_of(plan.key_tiles * plan.out_blocks, plan.anchor_tiles, kMaxGradientSplits);

  int64_t end = 0;
  const auto take = [&end](int64_t bytes) {
    const int64_t begin = end;
    end += aligned(bytes);
    return begin;
  };
  const int64_t anchors = plan.anchor_rows(), keys = plan.key_rows();
  plan.a = take(anchors * plan.width * element);
  plan.v = take(anchors * plan.width * element);
  plan.x = take(keys * plan.width * element);
  plan.anchors = take(anchors * static_cast<int64_t>(sizeof(Anchor)));
  plan.runs = take(anchors * static_cast<int64_t>(sizeof(Run)));
  plan.keys = take(keys * static_cast<int64_t>(sizeof(Key)));
  plan.labels = take(anchors * problem.K * 8);
  plan.first_tile = take(4);
  plan.partial = end;
  plan.fwd_scratch = end + aligned(plan.splits * anchors * 3 * 4);
  plan.bwd_scratch = end + aligned(std::max(plan.anchor_splits * anchors * (2 * plan.width + 1) * 4,
                                            plan.key_splits * keys * plan.width * 4));
  return plan;
}

Feeding choose_feeding(const CudaPlan& plan, Pass pass, int64_t shared_limit) {
  // Rows of the anchors are a and v, those of the keys x.
  const int64_t own = pass == Pass::kKeys ? 1 : 2, other = 3 - own;
  const int64_t anchor_facts = kTile * static_cast<int64_t>(sizeof(Anchor) + sizeof(Run) + 8 * kMaxLevels);
  const int64_t key_facts = kTile * static_cast<int64_t>(sizeof(Key) + 8 * kMaxLevels);
  const int64_t facts = pass == Pass::kKeys ? key_facts + 2 * anchor_facts : anchor_facts + 2 * key_facts;
  // Inverse norms; for gradients also T in the type of the operands, and F.
  const int64_t floats = kTile * kPitch * 4;
  const int64_t pairs = pass == Pass::kForward ? floats : 2 * floats + (plan.tensor_cores ? floats / 2 : floats);
  for (const auto& [resident, stages] : {std::pair{true, 2}, std::pair{false, 2}, std::pair{false, 1}}) {
    const int64_t tiles = resident ? (own + stages * other) * plan.chunks : int64_t{3} * stages;
    const int64_t bytes = tiles * kChunkTileBytes + facts + pairs;
    if (bytes <= shared_limit) return {resident, stages, bytes};
  }
  return {};
}

}  // namespace class_attentive

int64_t class_attentive_cuda_fwd_scratch(const ClassAttentiveProblem& problem) {
  return class_attentive::plan_cuda(problem).fwd_scratch;
}

int64_t class_attentive_cuda_bwd_scratch(const ClassAttentiveProblem& problem) {
  return class_attentive::plan_cuda(problem).bwd_scratch;
}

}  // namespace c2f

// d_z = d_value grad + p (d_mass - <p, d_mass>): z and grad are read once where a block holds a row, z twice beyond.
#include "cuda/falcon_loss.cuh"
#include "cuda/launch.cuh"

namespace c2f {
namespace falcon_loss {
namespace {

// grid: rows; block: plan.warps warps. A thread holds kItems classes of a tile at a time.
template <class T, int kVec, int kItems>
__global__ void __launch_bounds__((kItems == kFewItems ? kFewWarps : kMaxWarps) * kWarpSize)
    falcon_loss_bwd_kernel(const FalconLossBwdArgs args, const CudaPlan plan) {
  __shared__ float exchanged[Exchange::kFloats];
  Exchange exchange{exchanged, plan.warps};
  const int64_t row = blockIdx.x, K_F = args.problem.K_F, tile = int64_t{kItems} * kWarpSize * plan.warps;
  const T* const z_row = static_cast<const T*>(args.z) + row * args.z_stride;
  const float lse = args.lse[row], d_value = args.d_value[row];

  float p[kItems], other[kItems], dot = 0.f;
  const auto load_p = [&](int64_t begin) {
    const Columns<kVec, kItems> columns(threadIdx.x, K_F - begin);
    columns.load(z_row + begin + columns.first, p);
#pragma unroll
    for (int i = 0; i < kItems; ++i) p[i] = exp_of(p[i] - lse);
    return columns;
  };
#pragma unroll 1
  for (int64_t begin = 0; begin < K_F; begin += tile) {
    const auto columns = load_p(begin);
    columns.load(args.d_mass + begin + columns.first, other);
#pragma unroll
    for (int i = 0; i < kItems; ++i) dot += columns.has(i) ? p[i] * other[i] : 0.f;
  }
  dot = exchange.total(dot);
#pragma unroll 1
  for (int64_t begin = 0; begin < K_F; begin += tile) {
    const auto columns = K_F > tile ? load_p(begin) : Columns<kVec, kItems>(threadIdx.x, K_F);
    columns.load(args.d_mass + begin + columns.first, other);
#pragma unroll
    for (int i = 0; i < kItems; ++i) p[i] *= other[i] - dot;
    columns.load(args.grad + row * K_F + begin + columns.first, other);
#pragma unroll
    for (int i = 0; i < kItems; ++i) p[i] += d_value * other[i];
    columns.store(static_cast<T*>(args.d_z) + row * K_F + begin + columns.first, p);
  }
}

template <class T, int kItems>
Status launch_items(const FalconLossBwdArgs& args, const CudaPlan& plan, void* stream) {
  const int64_t size = sizeof(T);
  const bool vectors = args.problem.K_F % 4 == 0 &&
                       is_aligned(static_cast<const char*>(args.z), args.z_stride, size, 4 * size) &&
                       is_aligned(static_cast<const char*>(args.d_z), 0, size, 4 * size) &&
                       is_aligned(args.grad, 0, 4, 16) && is_aligned(args.d_mass, 0, 4, 16);
  return launch("falcon_loss_bwd",
                vectors ? falcon_loss_bwd_kernel<T, 4, kItems> : falcon_loss_bwd_kernel<T, 1, kItems>, args.problem.B,
                plan.warps * kWarpSize, 0, stream, args, plan);
}

template <class T>
Status launch_typed(const FalconLossBwdArgs& args, const CudaPlan& plan, void* stream) {
  return plan.items == kFewItems ? launch_items<T, kFewItems>(args, plan, stream)
                                 : launch_items<T, kManyItems>(args, plan, stream);
}

}  // namespace
}  // namespace falcon_loss

Status launch_falcon_loss_bwd(const FalconLossBwdArgs& args, void* stream) {
  using namespace falcon_loss;
  const FalconLossProblem& problem = args.problem;
  if (problem.K_F > kMaxClasses) return Status::error("falcon_loss_bwd: more than 2^30 fine classes");
  if (problem.B == 0 || problem.K_F == 0) return Status();
  const CudaPlan plan = plan_cuda(problem);
  return with_type(problem.dtype, "falcon_loss_bwd", [&](auto type) { return launch_typed<decltype(type)>(args, plan, stream); });
}

}  // namespace c2f

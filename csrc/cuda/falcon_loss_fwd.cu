#include "cuda/falcon_loss.cuh"
#include "cuda/launch.cuh"

namespace c2f {
namespace falcon_loss {
namespace {

// The items of the next row of t, on their way to shared memory while the current one is at work. Each thread waits for
// its own copies alone. Without vectors the row is loaded when it is taken.
template <class T, int kVec, int kItems>
struct NextRow {
  static constexpr bool kAsync = kVec > 1;
  T* slot;  // [kItems / kVec][32][kVec] of the warp, from this lane's first on
  const Columns<kVec, kItems>& columns;
  const T* row = nullptr;

  __device__ __forceinline__ void fetch(const T* from) {
    row = from;
    if constexpr (kAsync) {
      columns.each_vector([&](int, int offset) {
        constexpr int kBytes = kVec * sizeof(T);
        copy_async<kBytes>(slot + offset, row + offset, kBytes);
      });
      copy_async_commit();
    }
  }

  __device__ __forceinline__ void take(float (&items)[kItems]) const {
    if constexpr (kAsync) {
      copy_async_wait<0>();
      columns.load(slot, items);
    } else {
      columns.load(row, items);
    }
  }
};

// One row: z, the gradient and the row of t at work stay in registers.
// `mass` ([kItems][32] of the warp, from this lane's first on) gains this row's p.
template <class T, int kVec, int kItems>
__device__ __forceinline__ void forward_row(const FalconLossFwdArgs& args, int64_t row,
                                            const Columns<kVec, kItems>& columns, Exchange& exchange, float* mass,
                                            T* slot) {
  const T* const t = static_cast<const T*>(args.t) + columns.first;
  const int64_t* const labels = args.y + row * args.problem.D;
  const int first = first_labelled(labels, args.problem.D);
  const bool labelled = first < args.problem.D;
  const Neighbours neighbours(args, row);
  const auto row_of = [&](int l) { return t + neighbours.indices[l] * args.t_stride; };

  float z[kItems], x[kItems], grad[kItems];
  NextRow<T, kVec, kItems> next{slot, columns};
  columns.load(static_cast<const T*>(args.z) + columns.first + row * args.z_stride, z);
  if (labelled) columns.load(static_cast<const T*>(args.s) + columns.first + row * args.s_stride, x);
  int l = neighbours.next(0);
  if (l < neighbours.L) next.fetch(row_of(l));

  uint32_t bits = 0, bits_of_first = 0;  // item i in the group
#pragma unroll 1
  for (int d = first; d < args.problem.D; ++d) {
    const int64_t label = labels[d];
    if (label < 0) continue;
    const int32_t* const parents = args.g + columns.first + d * args.problem.K_F;
    uint32_t under = 0;
    columns.each_vector([&](int j, int offset) { under |= children<kVec>(parents + offset, label) << (j * kVec); });
    if (d == first) bits = bits_of_first = under;
    bits &= under;
  }
  if (args.problem.D > 1 && labelled && !exchange.any(bits != 0)) bits = bits_of_first;

  const float rate = 1.f / args.temperature;
  RowStatistics all;
  float max[3] = {-INFINITY, -INFINITY, -INFINITY}, sum[3] = {};
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    max[0] = fmaxf(max[0], z[i]);
    if (bits >> i & 1) max[1] = fmaxf(max[1], z[i]), max[2] = fmaxf(max[2], x[i]);
  }
#pragma unroll
  for (int k = 0; k < 3; ++k) max[k] = warp_max(max[k]);
  uint32_t hot = 0;
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    grad[i] = exp_of(z[i] - finite(max[0]));
    sum[0] += grad[i];
    const bool member = bits >> i & 1;
    hot |= static_cast<uint32_t>(member && x[i] == max[2]) << i;
    x[i] = member ? exp_of((x[i] - finite(max[2])) * rate) : 0.f;
    sum[1] += member ? exp_of(z[i] - finite(max[1])) : 0.f;
    sum[2] += x[i];
  }
  all.hottest = warp_min(columns.lowest(hot));
#pragma unroll
  for (int k = 0; k < 3; ++k) all.max[k] = max[k], all.sum[k] = warp_sum(sum[k]);
  exchange.join(all.max, all.sum, all.hottest, rate);
  hot = columns.bit(all.hottest);

  const bool empty = labelled && all.empty();
  const bool poisoned = empty || neighbours.beyond;
  const RowWeights weights(args.scale, labelled, neighbours.count > 0);
  const float p_factor = divide(exp_of(max[0] - all.max[0]), all.sum[0]);
  const float group_factor = divide(weights.coarse, all.sum[1]);
  const float q_factor = divide(args.tau * exp_of((max[2] - all.max[2]) * rate), all.sum[2]);
  const float log_z = logf(all.sum[0]);
  float conf = 0.f;
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const float p = grad[i] * p_factor;
    mass[i * kWarpSize] += p;
    grad[i] = weights.p() * p;
    if (bits >> i & 1) {
      const float q = x[i] * q_factor + (hot >> i & 1 ? 1.f - args.tau : 0.f);
      conf += q * (all.max[0] - z[i]);
      grad[i] -= exp_of(z[i] - all.max[1]) * group_factor + weights.conf * q;
    }
  }
  conf = exchange.total(conf) + log_z;
  float value = 0.f, nn = 0.f;
  if (columns.first == 0) {
    const float coarse = labelled ? all.coarse() : 0.f;
    conf = empty ? NAN : labelled ? conf : 0.f;
    value = args.scale[0] * coarse + args.scale[2] * conf;
    args.terms[3 * row] = coarse;
    args.terms[3 * row + 2] = conf;
    args.lse[row] = all.max[0] + log_z;
  }

#pragma unroll 1
  while (l < neighbours.L) {
    next.take(x);
    float top[2] = {-INFINITY, -INFINITY}, mine[2] = {};  // t, z + t
#pragma unroll
    for (int i = 0; i < kItems; ++i) top[0] = fmaxf(top[0], x[i]);
    top[0] = warp_max(top[0]);
    l = neighbours.next(l + 1);
    if (l < neighbours.L) next.fetch(row_of(l));  // after that maximum: every value of the slot has been read
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      mine[0] += exp_of(x[i] - finite(top[0]));
      x[i] += z[i];
      top[1] = fmaxf(top[1], x[i]);
    }
    top[1] = warp_max(top[1]);
    const float own = top[1];
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      x[i] = exp_of(x[i] - finite(own));
      mine[1] += x[i];
    }
#pragma unroll
    for (int k = 0; k < 2; ++k) mine[k] = warp_sum(mine[k]);
    exchange.join(top, mine);
    nn += all.max[0] + top[0] - top[1] + (log_z + logf(mine[0]) - logf(mine[1]));
    const float factor = divide(weights.nn * exp_of(own - top[1]), mine[1] * static_cast<float>(neighbours.count));
#pragma unroll
    for (int i = 0; i < kItems; ++i) grad[i] -= x[i] * factor;
  }

  if (args.grad != nullptr) {
    if (poisoned) {
#pragma unroll
      for (int i = 0; i < kItems; ++i) grad[i] = NAN;
    }
    columns.store(args.grad + columns.first + row * args.problem.K_F, grad);
  }
  if (columns.first == 0) {
    nn = neighbours.beyond ? NAN : divide(nn, fmaxf(static_cast<float>(neighbours.count), 1.f));
    args.terms[3 * row + 1] = nn;
    args.value[row] = value + args.scale[1] * nn;
  }
}

// grid: plan.blocks; block: rows_at_once rows of plan.warps warps; shared: kItems masses and items of t a thread.
// A thread owns kItems classes at most: vectors of kVec, 32 * warps vectors apart.
template <class T, int kVec, int kItems>
__global__ void __launch_bounds__((kItems == kFewItems ? kFewWarps : kMaxWarps) * kWarpSize,
                                  kItems == kFewItems ? 2 : 1)
    falcon_loss_fwd_kernel(const FalconLossFwdArgs args, const CudaPlan plan) {
  __shared__ float exchanged[Exchange::kFloats];
  constexpr int kWarpItems = kItems * kWarpSize;
  const int threads = plan.warps * kWarpSize, slot = threadIdx.x / threads, thread = threadIdx.x % threads;
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize, warps = plan.rows_at_once * plan.warps;
  const Columns<kVec, kItems> columns(thread, args.problem.K_F);
  Exchange exchange{exchanged, plan.warps};
  float* const masses = reinterpret_cast<float*>(dynamic_shared());   // [warps][kItems][32]
  T* const next = reinterpret_cast<T*>(masses + warps * kWarpItems);  // [warps][kItems / kVec][32][kVec]
  float* const mass = masses + warp * kWarpItems + lane;
#pragma unroll
  for (int i = 0; i < kItems; ++i) mass[i * kWarpSize] = 0.f;

#pragma unroll 1
  for (int step = 0; step < plan.steps; ++step) {
    const int64_t row = (static_cast<int64_t>(blockIdx.x) * plan.steps + step) * plan.rows_at_once + slot;
    if (row >= args.problem.B) break;
    forward_row<T>(args, row, columns, exchange, mass, next + warp * kWarpItems + lane * kVec);
  }

  __syncthreads();
  if (slot > 0) return;
  float total[kItems] = {};
  for (int other = 0; other < plan.rows_at_once; ++other) {
#pragma unroll
    for (int i = 0; i < kItems; ++i) total[i] += mass[(other * kItems + i) * kWarpSize];
  }
  columns.store(static_cast<float*>(args.scratch) + blockIdx.x * args.problem.K_F + columns.first, total);
}

constexpr int kMassWarps = 16;

// grid: 32 columns a block; block: 16 warps; a warp adds every 16th partial mass, the first one adds up theirs.
__global__ void __launch_bounds__(kMassWarps* kWarpSize)
    falcon_loss_mass_kernel(const float* __restrict__ partials, int64_t blocks, int64_t classes, float* mass) {
  __shared__ float shared[kMassWarps * kWarpSize];
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kWarpSize + lane;
  float total = 0.f;
  if (column < classes) {
#pragma unroll 8
    for (int64_t block = warp; block < blocks; block += kMassWarps) total += partials[block * classes + column];
  }
  shared[threadIdx.x] = total;
  __syncthreads();
  if (warp == 0 && column < classes) {
    for (int other = 1; other < kMassWarps; ++other) total += shared[other * kWarpSize + lane];
    mass[column] = total;
  }
}

template <class T, int kItems>
Status launch_items(const FalconLossFwdArgs& args, const CudaPlan& plan, bool vectors, void* stream) {
  const auto kernel = vectors ? falcon_loss_fwd_kernel<T, 4, kItems> : falcon_loss_fwd_kernel<T, 1, kItems>;
  return launch("falcon_loss_fwd", kernel, plan.blocks, plan.rows_at_once * plan.warps * kWarpSize, plan.shared_bytes,
                stream, args, plan);
}

template <class T>
Status launch_typed(const FalconLossFwdArgs& args, const CudaPlan& plan, bool vectors, void* stream) {
  return (plan.items == kFewItems ? launch_items<T, kFewItems> : launch_items<T, kManyItems>)(args, plan, vectors,
                                                                                              stream);
}

Status launch_held(const FalconLossFwdArgs& args, const CudaPlan& plan, bool vectors, void* stream) {
  return with_type(args.problem.dtype, "falcon_loss_fwd",
                   [&](auto type) { return launch_typed<decltype(type)>(args, plan, vectors, stream); });
}

// Whether all rows can be read and written in vectors of four.
bool is_vectorisable(const FalconLossFwdArgs& args) {
  const int64_t size = static_cast<int64_t>(size_of(args.problem.dtype));
  const auto aligned = [&](const void* rows, int64_t stride) {
    return is_aligned(static_cast<const char*>(rows), stride, size, 4 * size);
  };
  return args.problem.K_F % 4 == 0 && aligned(args.z, args.z_stride) && aligned(args.s, args.s_stride) &&
         aligned(args.t, args.t_stride) && is_aligned(args.g, 0, 4, 16) && is_aligned(args.grad, 0, 4, 16) &&
         is_aligned(static_cast<const char*>(args.scratch), 0, 1, 16);
}

}  // namespace
}  // namespace falcon_loss

Status launch_falcon_loss_fwd(const FalconLossFwdArgs& args, void* stream) {
  using namespace falcon_loss;
  const FalconLossProblem& problem = args.problem;
  if (problem.K_F > kMaxClasses) return Status::error("falcon_loss_fwd: more than 2^30 fine classes");
  if (problem.K_F == 0) return Status();
  const CudaPlan plan = plan_cuda(problem);
  if (problem.B > 0) {
    const auto launch_rows = plan.items > 0 ? launch_held : launch_long;
    const Status status = launch_rows(args, plan, is_vectorisable(args), stream);
    if (!status.ok()) return status;
  }
  const int64_t blocks = (problem.K_F + kWarpSize - 1) / kWarpSize;
  return launch("falcon_loss_mass", falcon_loss_mass_kernel, blocks, kMassWarps * kWarpSize, 0, stream,
                static_cast<const float*>(args.scratch), plan.blocks, problem.K_F, args.mass);
}

}  // namespace c2f

// attract and repel: a tile of anchors meets all keys; maxima and sums are kept as they come.
#include "cuda/class_attentive.cuh"

namespace c2f {
namespace class_attentive {
namespace {

struct Sums {
  float max, sum, attract;
};

// The sums of two sets of keys from those of each.
__device__ __forceinline__ void join(Sums& all, const Sums& more) {
  const float max = fmaxf(all.max, more.max), base = max == -INFINITY ? 0.f : max;
  all.sum = all.sum * exp_of(all.max - base) + more.sum * exp_of(more.max - base);
  all.max = max;
  all.attract += more.attract;
}

// grid: anchor tiles, then splits of the keys; block: 256 threads; shared: plan.
// A thread keeps maximum and sums of its rows over the columns that it sees; they are joined at the end.
template <class T>
__global__ void __launch_bounds__(kThreads, 1) class_attentive_fwd_kernel(const __grid_constant__ SweepArgs<T> args) {
  __shared__ float tables[2][kMaxLevels + 1];
  const int64_t tile = blockIdx.x % args.plan.anchor_tiles, split = blockIdx.x / args.plan.anchor_tiles;
  if (args.prepared.runs[tile * kTile].count == 0) return;
  const int64_t begin = split_point(0, args.plan.key_tiles, split, args.splits);
  const int64_t end = split_point(0, args.plan.key_tiles, split + 1, args.splits);
  share_tables(args.problem, tables);
  Feed<T, false> feed(args, tile, begin, end, 0, 0);
  const bool hinge = args.problem.form == Repulsion::kHinge;
  const float parameter = args.problem.parameter, rate = 1.f / parameter;

  constexpr int kSlots = Tile<T>::kSlots, kPairs = Tile<T>::kPairs;
  Sums sums[kSlots];
#pragma unroll
  for (int slot = 0; slot < kSlots; ++slot) sums[slot] = {hinge ? 0.f : -INFINITY, 0.f, 0.f};
#pragma unroll 1
  for (int64_t other = begin; other < end; ++other) {
    float c[kPairs], weights[kPairs], max[kSlots];
    multiply(args, feed, other, c);
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) max[slot] = sums[slot].max;
#pragma unroll
    for (int k = 0; k < kPairs; ++k) weights[k] = 0.f;
    each_pair(args, feed, other, c, [&](int k, int slot, const Anchor&, int agree, float sim, float) {
      sums[slot].attract += tables[0][agree] * sim;
      weights[k] = tables[1][agree];
      c[k] = hinge ? sim - parameter : sim * rate;
      if (!hinge && weights[k] > 0.f) max[slot] = fmaxf(max[slot], c[k]);
    });
    if (hinge) {
#pragma unroll
      for (int k = 0; k < kPairs; ++k) {
        if (weights[k] > 0.f) sums[Tile<T>::pair_slot(k)].sum += weights[k] * (c[k] < 0.f ? 0.f : c[k]);
      }
      continue;
    }
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) {
      max[slot] = max[slot] == -INFINITY ? 0.f : max[slot];
      sums[slot].sum *= exp_of(sums[slot].max - max[slot]);
    }
#pragma unroll
    for (int k = 0; k < kPairs; ++k) {
      const int slot = Tile<T>::pair_slot(k);
      if (weights[k] > 0.f) sums[slot].sum += weights[k] * exp_of(c[k] - max[slot]), sums[slot].max = max[slot];
    }
  }
  copy_async_wait<0>();
  __syncthreads();

  // The threads of a row, in shared memory, in the order of their numbers.
  constexpr int kOfRow = kThreads * kSlots / kTile;
  Sums* const shared = reinterpret_cast<Sums*>(dynamic_shared());  // [kTile][kOfRow]
#pragma unroll
  for (int slot = 0; slot < kSlots; ++slot) {
    shared[Tile<T>::slot_row(slot) * kOfRow + Tile<T>::place_in_row()] = sums[slot];
  }
  __syncthreads();
  if (threadIdx.x < kTile) {
    Sums all = shared[threadIdx.x * kOfRow];
    for (int k = 1; k < kOfRow; ++k) join(all, shared[threadIdx.x * kOfRow + k]);
    Sums* const partial = reinterpret_cast<Sums*>(args.prepared.partial);  // [splits, anchor rows]
    partial[(split * args.plan.anchor_tiles + tile) * kTile + threadIdx.x] = all;
  }
}

constexpr int kJoinThreads = 128;

// grid: 128 anchors a block.
template <class T>
__global__ void __launch_bounds__(kJoinThreads)
    class_attentive_join_kernel(const __grid_constant__ SweepArgs<T> args, float* attract, float* repel) {
  const int64_t p = static_cast<int64_t>(blockIdx.x) * kJoinThreads + threadIdx.x;
  if (p >= args.problem.A) return;
  const Anchor& anchor = args.prepared.anchors[p];
  const Sums* const partial = reinterpret_cast<const Sums*>(args.prepared.partial);
  const bool hinge = args.problem.form == Repulsion::kHinge;
  Sums all = {hinge ? 0.f : -INFINITY, 0.f, 0.f};
  if (anchor.run >= 0) {
    for (int64_t split = 0; split < args.splits; ++split) {
      join(all, partial[split * args.plan.anchor_tiles * kTile + p]);
    }
  }
  const float value = anchor.run < 0 ? 0.f : hinge ? all.sum : all.max + logf(all.sum);
  attract[anchor.row] = anchor.beyond != 0 ? NAN : all.attract;
  repel[anchor.row] = anchor.beyond != 0 ? NAN : value;
}

template <class T>
Status launch_typed(const ClassAttentiveFwdArgs& args, const CudaPlan& plan, void* stream) {
  constexpr char kName[] = "class_attentive_supcon_fwd";
  SweepArgs<T> sweep{args.problem, plan, {}, Prepared<T>(plan, args.scratch), args.x_labels, plan.splits, false};
  const Status fed = find_feeding(kName, plan, Pass::kForward, &sweep.feeding);
  if (!fed.ok()) return fed;
  const Status prepared = launch_prepare(args, nullptr, plan, args.scratch, stream);
  if (!prepared.ok()) return prepared;
  const Status swept = launch(kName, class_attentive_fwd_kernel<T>, plan.anchor_tiles * plan.splits, kThreads,
                              sweep.feeding.shared_bytes, stream, sweep);
  if (!swept.ok()) return swept;
  return launch("class_attentive_supcon_join", class_attentive_join_kernel<T>,
                (args.problem.A + kJoinThreads - 1) / kJoinThreads, kJoinThreads, 0, stream, sweep, args.attract, args.repel);
}

}  // namespace
}  // namespace class_attentive

Status launch_class_attentive_fwd(const ClassAttentiveFwdArgs& args, void* stream) {
  using namespace class_attentive;
  if (args.problem.A == 0) return Status();
  const CudaPlan plan = plan_cuda(args.problem);
  return plan.tensor_cores ? launch_typed<__nv_bfloat16>(args, plan, stream) : launch_typed<float>(args, plan, stream);
}

}  // namespace c2f

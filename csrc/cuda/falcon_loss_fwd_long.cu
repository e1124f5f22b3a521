// falcon_loss forward for rows that no block can hold: a sweep for the statistics of z and s, one of z and t for each
// neighbour, and a last one of everything for p and the gradient. The later sweeps find much of their rows in cache.
#include "cuda/falcon_loss.cuh"
#include "cuda/launch.cuh"

namespace c2f {
namespace falcon_loss {
namespace {

constexpr int kThreads = kLongWarps * kWarpSize;

// Maximum of the values seen by a thread, and their sum of exp(rate (x - maximum)).
struct Running {
  float max = -INFINITY, sum = 0.f;

  // Adds the values whose bit is set; true where the maximum rose.
  template <int kVec>
  __device__ __forceinline__ bool add(const float (&x)[kVec], uint32_t bits, float rate) {
    float top = -INFINITY;
#pragma unroll
    for (int v = 0; v < kVec; ++v) {
      if (bits >> v & 1) top = fmaxf(top, x[v]);
    }
    const bool rises = top > max;
    if (rises) sum *= exp_of((max - top) * rate), max = top;
#pragma unroll
    for (int v = 0; v < kVec; ++v) {
      if (bits >> v & 1) sum += exp_of((x[v] - finite(max)) * rate);
    }
    return rises;
  }
};

// body(column) for each vector of a row that this thread owns.
template <int kVec, class Body>
__device__ __forceinline__ void sweep(int64_t classes, Body body) {
  for (int64_t column = threadIdx.x * kVec; column < classes; column += kThreads * kVec) {
    body(static_cast<int>(column));
  }
}

// The group of one sample.
template <int kVec>
struct Group {
  const int64_t* __restrict__ labels;  // [D]
  const int32_t* __restrict__ g;       // [D, K_F]
  int64_t classes;
  int first, count;
  bool first_alone = false;  // no class is under all labels

  __device__ __forceinline__ Group(const FalconLossFwdArgs& args, int64_t row)
      : labels(args.y + row * args.problem.D),
        g(args.g),
        classes(args.problem.K_F),
        first(first_labelled(labels, args.problem.D)),
        count(static_cast<int>(args.problem.D)) {}

  __device__ __forceinline__ bool labelled() const { return first < count; }

  // Bit v: whether column + v is in the group of a labelled sample.
  __device__ __forceinline__ uint32_t members(int column) const {
    uint32_t bits = children<kVec>(g + first * classes + column, labels[first]);
    if (first_alone) return bits;
    for (int d = first + 1; d < count; ++d) {
      if (labels[d] >= 0) bits &= children<kVec>(g + d * classes + column, labels[d]);
    }
    return bits;
  }
};

// grid: plan.blocks; block: 16 warps, a row at a time. A thread owns every 512th vector of kVec columns, in mass too.
template <class T, int kVec>
__global__ void __launch_bounds__(kThreads)
    falcon_loss_fwd_long_kernel(const FalconLossFwdArgs args, const CudaPlan plan) {
  __shared__ float exchanged[Exchange::kFloats];
  Exchange exchange{exchanged, kLongWarps};
  const int64_t K_F = args.problem.K_F;
  constexpr uint32_t kAll = (1u << kVec) - 1;
  const float rate = 1.f / args.temperature;
  float* const mass = static_cast<float*>(args.scratch) + static_cast<int64_t>(blockIdx.x) * K_F;
  float2* const joint =
      reinterpret_cast<float2*>(static_cast<char*>(args.scratch) + plan.joint_offset) +
      static_cast<int64_t>(blockIdx.x) * args.problem.L;  // (max, sum) of z + t of this row's neighbours

#pragma unroll 1
  for (int step = 0; step < plan.steps; ++step) {
    const int64_t row = static_cast<int64_t>(blockIdx.x) * plan.steps + step;
    if (row >= args.problem.B) break;
    const T* const z_row = static_cast<const T*>(args.z) + row * args.z_stride;
    const T* const s_row = static_cast<const T*>(args.s) + row * args.s_stride;
    Group<kVec> group(args, row);
    const bool labelled = group.labelled();
    const Neighbours neighbours(args, row);
    const auto row_of = [&](int l) { return static_cast<const T*>(args.t) + neighbours.indices[l] * args.t_stride; };

    if (labelled && args.problem.D > 1) {
      bool member = false;
      sweep<kVec>(K_F, [&](int column) { member |= group.members(column) != 0; });
      group.first_alone = !exchange.any(member);
    }

    Running own[3];  // z, z in the group, s in the group
    RowStatistics all;
    all.hottest = INT_MAX;
    sweep<kVec>(K_F, [&](int column) {
      float z[kVec], s[kVec];
      load_vec<kVec>(z_row + column, z);
      own[0].add(z, kAll, 1.f);
      if (!labelled) return;
      const uint32_t bits = group.members(column);
      if (bits == 0) return;
      load_vec<kVec>(s_row + column, s);
      own[1].add(z, bits, 1.f);
      if (own[2].add(s, bits, rate)) {
#pragma unroll
        for (int v = kVec - 1; v >= 0; --v) {
          if ((bits >> v & 1) && s[v] == own[2].max) all.hottest = column + v;
        }
      }
    });
    const float hottest_of_thread = own[2].max;
#pragma unroll
    for (int k = 0; k < 3; ++k) {
      all.max[k] = own[k].max, all.sum[k] = own[k].sum;
      join_lanes(all.max[k], all.sum[k], k == 2 ? rate : 1.f);
    }
    all.hottest = warp_min(hottest_of_thread == all.max[2] ? all.hottest : INT_MAX);
    exchange.join(all.max, all.sum, all.hottest, rate);

    const float log_z = logf(all.sum[0]);
    float nn = 0.f;
#pragma unroll 1
    for (int l = neighbours.next(0); l < neighbours.L; l = neighbours.next(l + 1)) {
      const T* const t_row = row_of(l);
      Running pair[2];  // t, z + t
      sweep<kVec>(K_F, [&](int column) {
        float z[kVec], t[kVec];
        load_vec<kVec>(z_row + column, z);
        load_vec<kVec>(t_row + column, t);
        pair[0].add(t, kAll, 1.f);
#pragma unroll
        for (int v = 0; v < kVec; ++v) t[v] += z[v];
        pair[1].add(t, kAll, 1.f);
      });
      float max[2], sum[2];
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        max[k] = pair[k].max, sum[k] = pair[k].sum;
        join_lanes(max[k], sum[k], 1.f);
      }
      exchange.join(max, sum);
      nn += all.max[0] + max[0] - max[1] + (log_z + logf(sum[0]) - logf(sum[1]));
      if (threadIdx.x == 0) joint[l] = make_float2(max[1], sum[1]);
    }
    __syncthreads();

    const bool empty = labelled && all.empty(), poisoned = empty || neighbours.beyond;
    const RowWeights weights(args.scale, labelled, neighbours.count > 0);
    const float group_factor = divide(weights.coarse, all.sum[1]), p_factor = divide(1.f, all.sum[0]);
    const float q_factor = divide(args.tau, all.sum[2]);
    const float nn_factor = divide(weights.nn, fmaxf(static_cast<float>(neighbours.count), 1.f));
    float conf = 0.f;
    sweep<kVec>(K_F, [&](int column) {
      float z[kVec], s[kVec], t[kVec], grad[kVec], total[kVec] = {};
      load_vec<kVec>(z_row + column, z);
      if (step > 0) load_vec<kVec>(mass + column, total);
#pragma unroll
      for (int v = 0; v < kVec; ++v) {
        const float p = exp_of(z[v] - all.max[0]) * p_factor;
        total[v] += p;
        grad[v] = weights.p() * p;
      }
      store_vec<kVec>(mass + column, total);
      const uint32_t bits = labelled ? group.members(column) : 0;
      if (bits != 0) {
        load_vec<kVec>(s_row + column, s);
#pragma unroll
        for (int v = 0; v < kVec; ++v) {
          if (!(bits >> v & 1)) continue;
          const float q =
              exp_of((s[v] - all.max[2]) * rate) * q_factor + (column + v == all.hottest ? 1.f - args.tau : 0.f);
          conf += q * (all.max[0] - z[v]);
          grad[v] -= exp_of(z[v] - all.max[1]) * group_factor + weights.conf * q;
        }
      }
      if (args.grad == nullptr) return;
      for (int l = neighbours.next(0); l < neighbours.L; l = neighbours.next(l + 1)) {
        load_vec<kVec>(row_of(l) + column, t);
        const float2 stats = joint[l];
        const float factor = divide(nn_factor, stats.y);
#pragma unroll
        for (int v = 0; v < kVec; ++v) grad[v] -= exp_of(z[v] + t[v] - stats.x) * factor;
      }
#pragma unroll
      for (int v = 0; v < kVec; ++v) grad[v] = poisoned ? NAN : grad[v];
      store_vec<kVec>(args.grad + row * K_F + column, grad);
    });
    conf = exchange.total(conf) + log_z;

    if (threadIdx.x == 0) {
      float* const terms = args.terms + 3 * row;
      terms[0] = labelled ? all.coarse() : 0.f;
      terms[1] = neighbours.beyond ? NAN : divide(nn, fmaxf(static_cast<float>(neighbours.count), 1.f));
      terms[2] = empty ? NAN : labelled ? conf : 0.f;
      args.value[row] = args.scale[0] * terms[0] + args.scale[1] * terms[1] + args.scale[2] * terms[2];
      args.lse[row] = all.max[0] + log_z;
    }
  }
}

template <class T>
Status launch_typed(const FalconLossFwdArgs& args, const CudaPlan& plan, bool vectors, void* stream) {
  return launch("falcon_loss_fwd_long", vectors ? falcon_loss_fwd_long_kernel<T, 4> : falcon_loss_fwd_long_kernel<T, 1>,
                plan.blocks, kThreads, 0, stream, args, plan);
}

}  // namespace

Status launch_long(const FalconLossFwdArgs& args, const CudaPlan& plan, bool vectors, void* stream) {
  return with_type(args.problem.dtype, "falcon_loss_fwd",
                   [&](auto type) { return launch_typed<decltype(type)>(args, plan, vectors, stream); });
}

}  // namespace falcon_loss
}  // namespace c2f

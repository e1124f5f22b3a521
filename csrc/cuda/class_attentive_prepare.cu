// What the sweeps read: v o z, v and x as rows without gaps, scaled by powers of two so that no type's range is left, and what is known of
// each anchor, run and key.
#include "cuda/class_attentive.cuh"

namespace c2f {
namespace class_attentive {
namespace {

constexpr int kWarps = kThreads / kWarpSize;

// The power of two that brings `largest` to [1, 2), within [2^-50, 2^most].
__device__ __forceinline__ float scale_of(float largest, int most) {
  const int exponent = static_cast<int>(__float_as_uint(largest) >> 23) - 127;
  return __uint_as_float(static_cast<uint32_t>(127 + min(max(-exponent, -50), most)) << 23);
}

// Largest |value(e)| over the warp, NaN ignored.
template <class Value>
__device__ __forceinline__ float largest_of(int64_t d, Value value) {
  float largest = 0.f;
  for (int64_t e = threadIdx.x % kWarpSize; e < d; e += kWarpSize) largest = fmaxf(largest, fabsf(value(e)));
  return warp_max(largest);
}

// A warp writes a row of `width` elements: value(e), and zeros from d on.
template <class T, class Value>
__device__ __forceinline__ void write_row(T* row, int64_t d, int64_t width, Value value) {
  for (int64_t e = threadIdx.x % kWarpSize; e < width; e += kWarpSize) row[e] = from_float<T>(e < d ? value(e) : 0.f);
}

struct PrepareArgs {
  ClassAttentiveFwdArgs forward;
  const float* d_attract;  // null for the forward
  const float* d_repel;
  CudaPlan plan;
};

// grid: anchor tiles; block: 8 warps, a warp has every eighth anchor.
template <class From, class T>
__global__ void __launch_bounds__(kThreads)
    class_attentive_anchors_kernel(const __grid_constant__ PrepareArgs args, const Prepared<T> prepared) {
  const ClassAttentiveFwdArgs& forward = args.forward;
  const ClassAttentiveProblem& problem = forward.problem;
  __shared__ int64_t classes[kTile];  // negative: excluded
  __shared__ int32_t counts;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kTile, d = problem.d, width = args.plan.width;
  if (threadIdx.x < kTile) {
    const int64_t p = first + threadIdx.x;
    classes[threadIdx.x] = p < problem.A ? forward.classes[forward.order[p]] : -1;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    int count = 0;
    for (int i = 0; i < kTile; ++i) count += classes[i] >= 0 && (i == 0 || classes[i] != classes[i - 1]);
    counts = count;
    const bool before = first == 0 || forward.classes[forward.order[first - 1]] < 0;
    if (count > 0 && before) *prepared.first_tile = static_cast<int32_t>(blockIdx.x);
    if (count == 0 && first + kTile >= problem.A) *prepared.first_tile = static_cast<int32_t>(args.plan.anchor_tiles);
  }
  __syncthreads();
  const int count = counts, warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  if (count == 0 && threadIdx.x == 0) prepared.runs[first] = Run();

  int run = -1, seen = 0;  // run of anchor i, and anchors that have been counted for it
  for (int i = warp; i < kTile; i += kWarps) {
    const int64_t p = first + i, c = classes[i];
    for (; seen <= i; ++seen) run += classes[seen] >= 0 && (seen == 0 || classes[seen] != classes[seen - 1]);
    Anchor anchor;
    if (p < problem.A) anchor.row = forward.order[p];
    anchor.beyond = c >= problem.C;
    const bool valid = c >= 0 && c < problem.C;
    const From* const z = static_cast<const From*>(forward.z) + anchor.row * forward.z_stride;
    const float* const v = forward.v + (valid ? c : 0) * d;
    const int64_t used = valid ? d : 0;
    T* const a_row = prepared.a + p * width;
    float a_scale = 1.f;
    if (c >= 0) {
      anchor.run = run;
      anchor.self = problem.first < 0 ? -1 : problem.first + anchor.row;
      anchor.scale = scale_of(largest_of(used, [&](int64_t e) { return to_float(z[e]); }), 30);
      anchor.v_scale = scale_of(largest_of(used, [&](int64_t e) { return v[e]; }), 50);
      const auto product = [&](int64_t e) { return v[e] * anchor.v_scale * (to_float(z[e]) * anchor.scale); };
      float norm = 0.f;
      for (int64_t e = lane; e < used; e += kWarpSize) norm += product(e) * (to_float(z[e]) * anchor.scale);
      norm = warp_sum(norm);
      const float least =
          fmaxf(problem.eps * problem.eps * anchor.v_scale * (anchor.scale * anchor.scale), 1e-37f);
      const bool clamped = norm <= least;
      anchor.inverse = 1.f / sqrtf(clamped ? least : norm);
      anchor.square = clamped ? 0.f : anchor.inverse * anchor.inverse;
      a_scale = scale_of(largest_of(used, product), 50);
      anchor.alpha = anchor.beyond != 0 ? NAN : anchor.inverse / a_scale;
      if (args.d_attract != nullptr) {
        anchor.d_attract = args.d_attract[anchor.row];
        anchor.d_repel = args.d_repel[anchor.row];
        anchor.repel = forward.repel[anchor.row];
      }
    }
    const auto v_of = [&](int64_t e) { return v[e] * anchor.v_scale; };
    write_row(a_row, c >= 0 ? used : 0, width,
              [&](int64_t e) { return v_of(e) * (to_float(z[e]) * anchor.scale) * a_scale; });
    if (c >= 0 && (i == 0 || classes[i - 1] != c)) {
      write_row(prepared.v + (first + run) * width, used, width, v_of);
      if (lane == 0) {
        Run facts;
        facts.row = c;
        facts.scale = anchor.v_scale;
        int end = i + 1;
        while (end < kTile && classes[end] == c) ++end;
        facts.begin = static_cast<uint8_t>(i);
        facts.end = static_cast<uint8_t>(end);
        facts.count = static_cast<uint8_t>(count);
        prepared.runs[first + run] = facts;
      }
    }
    if (i >= count) write_row(prepared.v + p * width, 0, width, v_of);
    if (lane == 0) prepared.anchors[p] = anchor;
    if (lane < problem.K) {
      const int64_t label = p < problem.A ? forward.z_labels[anchor.row * problem.K + lane] : -1;
      prepared.labels[p * problem.K + lane] = label < 0 ? INT64_MIN : label;
    }
  }
}

// grid: 8 keys a block, a warp each.
template <class From, class T>
__global__ void __launch_bounds__(kThreads)
    class_attentive_keys_kernel(const __grid_constant__ PrepareArgs args, const Prepared<T> prepared) {
  const ClassAttentiveProblem& problem = args.forward.problem;
  const int64_t j = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarpSize;
  Key key;
  key.present = j < problem.N && args.forward.x_labels[j * problem.K] >= -1;
  const int64_t used = key.present != 0 ? problem.d : 0;
  const From* const x = static_cast<const From*>(args.forward.x) + (key.present != 0 ? j : 0) * args.forward.x_stride;
  key.scale = scale_of(largest_of(used, [&](int64_t e) { return to_float(x[e]); }), 30);
  key.least = problem.eps * problem.eps * (key.scale * key.scale);
  write_row(prepared.x + j * args.plan.width, used, args.plan.width,
            [&](int64_t e) { return to_float(x[e]) * key.scale; });
  if (threadIdx.x % kWarpSize == 0) prepared.keys[j] = key;
}

// The first tile of anchors where there are none; one warp.
__global__ void __launch_bounds__(kWarpSize) class_attentive_no_anchors_kernel(int32_t* first_tile) {
  if (threadIdx.x == 0) *first_tile = 0;
}

template <class From, class T>
Status launch_typed(const PrepareArgs& args, void* scratch, void* stream) {
  const Prepared<T> prepared(args.plan, scratch);
  const Status status =
      args.plan.anchor_tiles == 0
          ? launch("class_attentive_supcon_no_anchors", class_attentive_no_anchors_kernel, 1, kWarpSize, 0, stream,
                   prepared.first_tile)
          : launch("class_attentive_supcon_anchors", class_attentive_anchors_kernel<From, T>, args.plan.anchor_tiles,
                   kThreads, 0, stream, args, prepared);
  if (!status.ok() || args.plan.key_tiles == 0) return status;
  return launch("class_attentive_supcon_keys", class_attentive_keys_kernel<From, T>, args.plan.key_rows() / kWarps,
                kThreads, 0, stream, args, prepared);
}

}  // namespace

Status launch_prepare(const ClassAttentiveFwdArgs& forward, const ClassAttentiveBwdArgs* gradients, const CudaPlan& plan,
                      void* scratch, void* stream) {
  PrepareArgs args{forward, nullptr, nullptr, plan};
  if (gradients != nullptr) args.d_attract = gradients->d_attract, args.d_repel = gradients->d_repel;
  switch (forward.problem.dtype) {
    case DType::kFloat32:
      return launch_typed<float, float>(args, scratch, stream);
    case DType::kBFloat16:
      return launch_typed<__nv_bfloat16, __nv_bfloat16>(args, scratch, stream);
    case DType::kFloat16:
      return launch_typed<__half, float>(args, scratch, stream);
  }
  return Status::error("class_attentive_supcon: unknown dtype");
}

}  // namespace class_attentive
}  // namespace c2f

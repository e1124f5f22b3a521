// Gradients, each pair computed again: the anchors' side sums T x and F x^2, the keys' side T v z and F v. No atomics.
#include "cuda/class_attentive.cuh"

namespace c2f {
namespace class_attentive {
namespace {

// Behind the inverse norms, which the run sums of F take over once they are used.
template <class T, bool kOwnsKeys>
struct PairTiles {
  T* run_sums;  // [runs][kPitch] F summed over the anchors of a run
  float* f;     // [kTile][kPitch]
  T* t;         // [kTile][kPitch] T, scaled as the other operand asks

  __device__ explicit PairTiles(const Feed<T, kOwnsKeys>& feed)
      : run_sums(reinterpret_cast<T*>(feed.pairs)),
        f(feed.pairs + kTile * kPitch),
        t(reinterpret_cast<T*>(feed.pairs + 2 * kTile * kPitch)) {}
};

// T and the run sums of F of the pairs with `tile`; `e` gains S sim. Ends with a barrier.
template <class T, bool kOwnsKeys>
__device__ __forceinline__ void slopes(const SweepArgs<T>& args, Feed<T, kOwnsKeys>& feed, int64_t tile,
                                       const float (&tables)[2][kMaxLevels + 1], const PairTiles<T, kOwnsKeys>& tiles,
                                       float (&e)[Tile<T>::kSlots]) {
  constexpr int kPairs = Tile<T>::kPairs;
  float c[kPairs], t[kPairs] = {}, f[kPairs] = {};
  multiply(args, feed, tile, c);
  const bool hinge = args.problem.form == Repulsion::kHinge;
  const float parameter = args.problem.parameter, rate = 1.f / parameter;
  each_pair(args, feed, tile, c,
            [&](int k, int slot, const Anchor& anchor, int agree, float sim, float signed_inverse) {
              const float repel = tables[1][agree], inverse = fabsf(signed_inverse);
              float slope = 0.f;
              if (hinge) {
                slope = sim > parameter ? repel : 0.f;
              } else if (repel > 0.f) {
                slope = repel * exp_of(sim * rate - anchor.repel) * rate;
              }
              const float s = anchor.d_attract * tables[0][agree] + anchor.d_repel * slope;
              t[k] = s * inverse * (kOwnsKeys ? anchor.alpha : 1.f);
              e[slot] += s * sim;
              f[k] = signed_inverse > 0.f ? s * sim * inverse * inverse : 0.f;
            });
#pragma unroll
  for (int k = 0; k < kPairs; ++k) {
    tiles.f[Tile<T>::slot_row(Tile<T>::pair_slot(k)) * kPitch + Tile<T>::pair_column(k)] = f[k];
  }
  Tile<T>::store_pairs(tiles.t, t);
  __syncthreads();
  const AnchorFacts& anchors = feed.anchors(tile);
  const int count = anchors.runs[0].count, column = threadIdx.x % kTile;
#pragma unroll 1
  for (int run = threadIdx.x / kTile; run < round_up_16(count); run += kThreads / kTile) {
    float total = 0.f;
    if (run < count) {
#pragma unroll 4
      for (int i = anchors.runs[run].begin; i < anchors.runs[run].end; ++i) total += tiles.f[i * kPitch + column];
    }
    tiles.run_sums[run * kPitch + column] = from_float<T>(total);
  }
  __syncthreads();
}

template <class T>
inline constexpr int kOutChunks = kOutColumns / Tile<T>::kColumns;

// Blocks: own tiles, then blocks of features, then splits of the other side.
struct Place {
  int64_t tile, split;
  int out_begin, out_count;  // chunks of features

  template <class T>
  __device__ Place(const SweepArgs<T>& args, int64_t tiles) {
    tile = blockIdx.x % tiles;
    const int64_t rest = blockIdx.x / tiles;
    out_begin = static_cast<int>(rest % args.plan.out_blocks) * kOutChunks<T>;
    out_count = min(kOutChunks<T>, args.plan.chunks - out_begin);
    split = rest / args.plan.out_blocks;
  }
};

// Where in scratch the sums of the anchors' side are: Q [splits, rows, width], the run sums behind it, E [splits, rows].
template <class T>
__device__ __forceinline__ float* sums_of(const SweepArgs<T>& args, int which) {
  return args.prepared.partial + which * args.splits * args.plan.anchor_rows() * args.plan.width;
}

// grid: Place; block: 256 threads; shared: plan. Q_i n(z_i) = sum_j T x, sum over a run and j of F x^2, sum_j S sim.
template <class T>
__global__ void __launch_bounds__(kThreads)
    class_attentive_anchor_sums_kernel(const __grid_constant__ SweepArgs<T> args) {
  __shared__ float tables[2][kMaxLevels + 1];
  const Place place(args, args.plan.anchor_tiles);
  if (args.prepared.runs[place.tile * kTile].count == 0) return;
  const int64_t begin = split_point(0, args.plan.key_tiles, place.split, args.splits);
  const int64_t end = split_point(0, args.plan.key_tiles, place.split + 1, args.splits);
  share_tables(args.problem, tables);
  Feed<T, false> feed(args, place.tile, begin, end, place.out_begin, place.out_count);
  const PairTiles<T, false> tiles(feed);

  float q[kOutChunks<T>][Tile<T>::kOut] = {}, g[kOutChunks<T>][Tile<T>::kRuns] = {}, e[Tile<T>::kSlots] = {};
#pragma unroll 1
  for (int64_t other = begin; other < end; ++other) {
    slopes(args, feed, other, tables, tiles, e);
    const int count = feed.anchors(other).runs[0].count;
#pragma unroll
    for (int out = 0; out < kOutChunks<T>; ++out) {
      if (out < place.out_count) {
        if (!args.feeding.resident) feed.take();
        const T* const x = feed.x(place.out_begin + out);
        Tile<T>::template rows<false>(q[out], tiles.t, x, kTile);
        if (args.wants_v) Tile<T>::runs(g[out], tiles.run_sums, x, count);
      }
    }
  }
  copy_async_wait<0>();
  __syncthreads();

  const int64_t first = (place.split * args.plan.anchor_tiles + place.tile) * kTile, width = args.plan.width;
  const int count = feed.anchors(0).runs[0].count;
#pragma unroll
  for (int out = 0; out < kOutChunks<T>; ++out) {
    if (out < place.out_count) {
      const int64_t column = (place.out_begin + out) * Tile<T>::kColumns;
#pragma unroll
      for (int k = 0; k < Tile<T>::kOut; ++k) {
        const int row = Tile<T>::slot_row(Tile<T>::out_slot(k));
        sums_of(args, 0)[(first + row) * width + column + Tile<T>::out_column(k)] = q[out][k];
      }
#pragma unroll
      for (int k = 0; k < Tile<T>::kRuns; ++k) {
        const int run = Tile<T>::run_row(k);
        if (args.wants_v && run < count) {
          sums_of(args, 1)[(first + run) * width + column + Tile<T>::run_column(k)] = g[out][k];
        }
      }
    }
  }
  if (place.out_begin > 0) return;
  constexpr int kOfRow = kThreads * Tile<T>::kSlots / kTile;
  float* const shared = tiles.f;  // [kTile][kOfRow]
#pragma unroll
  for (int slot = 0; slot < Tile<T>::kSlots; ++slot) {
    shared[Tile<T>::slot_row(slot) * kOfRow + Tile<T>::place_in_row()] = e[slot];
  }
  __syncthreads();
  if (threadIdx.x < kTile) {
    float total = 0.f;
    for (int k = 0; k < kOfRow; ++k) total += shared[threadIdx.x * kOfRow + k];
    sums_of(args, 2)[first + threadIdx.x] = total;
  }
}

// grid: Place; block: 256 threads; shared: plan. d_x_j / scale = sum_i T v z - x o sum over runs of F v.
template <class T>
__global__ void __launch_bounds__(kThreads) class_attentive_key_sums_kernel(const __grid_constant__ SweepArgs<T> args) {
  __shared__ float tables[2][kMaxLevels + 1];
  const Place place(args, args.plan.key_tiles);
  const int64_t first_tile = *args.prepared.first_tile;
  const int64_t begin = split_point(first_tile, args.plan.anchor_tiles, place.split, args.splits);
  const int64_t end = split_point(first_tile, args.plan.anchor_tiles, place.split + 1, args.splits);
  share_tables(args.problem, tables);
  Feed<T, true> feed(args, place.tile, begin, end, place.out_begin, place.out_count);
  const PairTiles<T, true> tiles(feed);

  float direct[kOutChunks<T>][Tile<T>::kOut] = {}, norm[kOutChunks<T>][Tile<T>::kOut] = {}, e[Tile<T>::kSlots] = {};
#pragma unroll 1
  for (int64_t other = begin; other < end; ++other) {
    slopes(args, feed, other, tables, tiles, e);
    const int count = feed.anchors(other).runs[0].count;
#pragma unroll
    for (int out = 0; out < kOutChunks<T>; ++out) {
      if (out < place.out_count) {
        if (!args.feeding.resident) feed.take();
        Tile<T>::template rows<true>(direct[out], tiles.t, feed.a(place.out_begin + out), kTile);
        Tile<T>::template rows<true>(norm[out], tiles.run_sums, feed.v(place.out_begin + out), count);
      }
    }
  }
  copy_async_wait<0>();

  const int64_t width = args.plan.width;
#pragma unroll
  for (int out = 0; out < kOutChunks<T>; ++out) {
    if (out < place.out_count) {
      const int64_t column = (place.out_begin + out) * Tile<T>::kColumns;
#pragma unroll
      for (int k = 0; k < Tile<T>::kOut; ++k) {
        const int64_t row = place.tile * kTile + Tile<T>::slot_row(Tile<T>::out_slot(k));
        const int64_t at = row * width + column + Tile<T>::out_column(k);
        args.prepared.partial[place.split * args.plan.key_rows() * width + at] =
            direct[out][k] - to_float(args.prepared.x[at]) * norm[out][k];
      }
    }
  }
}

constexpr int kFinishColumns = 64;

// Adds up the splits of one element.
template <class T>
__device__ __forceinline__ float sum_of_splits(const SweepArgs<T>& args, const float* at, int64_t stride) {
  float total = 0.f;
  for (int split = 0; split < args.splits; ++split) total += at[split * stride];
  return total;
}

// grid: anchor tiles, then 64 features a block. A thread has one feature of all anchors of the tile: d_z, and in place of
// the first split of the run sums the tile's part of d_v.
template <class From, class T>
__global__ void __launch_bounds__(kFinishColumns, 1)
    class_attentive_d_z_kernel(const __grid_constant__ SweepArgs<T> args, const ClassAttentiveBwdArgs gradients) {
  const ClassAttentiveFwdArgs& forward = gradients.forward;
  const int64_t d = args.problem.d, width = args.plan.width, tiles = args.plan.anchor_tiles;
  const int64_t tile = blockIdx.x % tiles, column = blockIdx.x / tiles * kFinishColumns + threadIdx.x;
  if (column >= d) return;
  const int64_t rows = args.plan.anchor_rows(), first = tile * kTile;
  const int count = static_cast<int>(min(static_cast<int64_t>(kTile), args.problem.A - first));
  float sum = 0.f;
#pragma unroll 2
  for (int i = 0; i < count; ++i) {
    const Anchor anchor = args.prepared.anchors[first + i];
    float d_z = 0.f;
    if (anchor.run >= 0) {
      const Run run = args.prepared.runs[first + anchor.run];
      const float v = anchor.beyond != 0 ? NAN : forward.v[run.row * d + column] * run.scale;
      const float z = to_float(static_cast<const From*>(forward.z)[anchor.row * forward.z_stride + column]) * anchor.scale;
      const float q = sum_of_splits(args, sums_of(args, 0) + (first + i) * width + column, rows * width) * anchor.inverse;
      const float e = sum_of_splits(args, sums_of(args, 2) + first + i, rows) * anchor.square;
      d_z = anchor.scale * (v * (q - e * z));
      sum = (i == run.begin ? 0.f : sum) + z * (q - 0.5f * e * z);
      if (args.wants_v && i + 1 == run.end) {
        float* const norms = sums_of(args, 1) + (first + anchor.run) * width + column;
        *norms = run.scale * (sum - 0.5f * sum_of_splits(args, norms, rows * width));
      }
    }
    if (gradients.d_z != nullptr) static_cast<From*>(gradients.d_z)[anchor.row * d + column] = from_float<From>(d_z);
  }
}

constexpr int kClassThreads = 128;

// grid: anchor tiles, then 128 features a block. Of the classes that begin in the tile: their tiles' parts, in order.
template <class T>
__global__ void __launch_bounds__(kClassThreads)
    class_attentive_d_v_kernel(const __grid_constant__ SweepArgs<T> args, float* d_v) {
  const int64_t d = args.problem.d, tiles = args.plan.anchor_tiles, tile = blockIdx.x % tiles;
  const int64_t column = blockIdx.x / tiles * kClassThreads + threadIdx.x;
  if (column >= d) return;
  const Run* const runs = args.prepared.runs;
  const float* const parts = sums_of(args, 1) + column;
  const int count = runs[tile * kTile].count;
  int64_t before = -1;  // class at the end of the previous tile
  if (tile > 0 && runs[(tile - 1) * kTile].count > 0) {
    before = runs[(tile - 1) * kTile + runs[(tile - 1) * kTile].count - 1].row;
  }
  for (int run = 0; run < count; ++run) {
    const int64_t row = runs[tile * kTile + run].row;
    if (row == before || row >= args.problem.C) continue;
    float total = parts[(tile * kTile + run) * args.plan.width];
    bool goes_on = run + 1 == count;
    for (int64_t next = tile + 1; goes_on && next < tiles && runs[next * kTile].row == row; ++next) {
      total += parts[next * kTile * args.plan.width];
      goes_on = runs[next * kTile].count == 1;
    }
    d_v[row * d + column] = total;
  }
}

// grid: 128 elements a block.
__global__ void __launch_bounds__(kClassThreads) class_attentive_zero_kernel(float* target, int64_t count) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kClassThreads + threadIdx.x;
  if (at < count) target[at] = 0.f;
}

// grid: 128 elements a block.
template <class To, class T>
__global__ void __launch_bounds__(kClassThreads)
    class_attentive_d_x_kernel(const __grid_constant__ SweepArgs<T> args, To* d_x) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kClassThreads + threadIdx.x, d = args.problem.d;
  if (at >= args.problem.N * d) return;
  const int64_t key = at / d, width = args.plan.width;
  const float* const first = args.prepared.partial + key * width + at % d;
  d_x[at] = from_float<To>(args.prepared.keys[key].scale * sum_of_splits(args, first, args.plan.key_rows() * width));
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Runs the sweep of one side, then what is made of its sums.
template <class T, class Finish>
Status launch_side(const char* name, Pass pass, void (*kernel)(SweepArgs<T>), int64_t tiles, SweepArgs<T> sweep,
                   void* stream, Finish finish) {
  sweep.splits = pass == Pass::kKeys ? sweep.plan.key_splits : sweep.plan.anchor_splits;
  const Status fed = find_feeding(name, sweep.plan, pass, &sweep.feeding);
  if (!fed.ok()) return fed;
  const Status swept = launch(name, kernel, tiles * sweep.plan.out_blocks * sweep.splits, kThreads,
                              sweep.feeding.shared_bytes, stream, sweep);
  return swept.ok() ? finish(sweep) : swept;
}

template <class From, class T>
Status launch_anchor_side(const ClassAttentiveBwdArgs& args, const SweepArgs<T>& sides, void* stream) {
  const int64_t tiles = sides.plan.anchor_tiles, d = sides.problem.d;
  return launch_side("class_attentive_supcon_anchor_sums", Pass::kAnchors, class_attentive_anchor_sums_kernel<T>, tiles,
                     sides, stream, [&](const SweepArgs<T>& sweep) {
                       const Status status =
                           launch("class_attentive_supcon_d_z", class_attentive_d_z_kernel<From, T>,
                                  tiles * ceil_div(d, kFinishColumns), kFinishColumns, 0, stream, sweep, args);
                       if (!status.ok() || args.d_v == nullptr) return status;
                       return launch("class_attentive_supcon_d_v", class_attentive_d_v_kernel<T>,
                                     tiles * ceil_div(d, kClassThreads), kClassThreads, 0, stream, sweep, args.d_v);
                     });
}

template <class From, class T>
Status launch_key_side(const ClassAttentiveBwdArgs& args, const SweepArgs<T>& sides, void* stream) {
  return launch_side("class_attentive_supcon_key_sums", Pass::kKeys, class_attentive_key_sums_kernel<T>, sides.plan.key_tiles,
                     sides, stream, [&](const SweepArgs<T>& sweep) {
                       return launch("class_attentive_supcon_d_x", class_attentive_d_x_kernel<From, T>,
                                     ceil_div(sweep.problem.N * sweep.problem.d, kClassThreads), kClassThreads, 0, stream,
                                     sweep, static_cast<From*>(args.d_x));
                     });
}

template <class From, class T>
Status launch_typed(const ClassAttentiveBwdArgs& args, const CudaPlan& plan, void* stream) {
  const ClassAttentiveFwdArgs& forward = args.forward;
  const SweepArgs<T> sides{
      forward.problem, plan, {}, Prepared<T>(plan, args.scratch), forward.x_labels, 1, args.d_v != nullptr};
  const Status prepared = launch_prepare(forward, &args, plan, args.scratch, stream);
  if (!prepared.ok()) return prepared;
  if ((args.d_z != nullptr || args.d_v != nullptr) && forward.problem.A > 0) {
    const Status status = launch_anchor_side<From>(args, sides, stream);
    if (!status.ok()) return status;
  }
  return args.d_x != nullptr && forward.problem.N > 0 ? launch_key_side<From>(args, sides, stream) : Status();
}

}  // namespace
}  // namespace class_attentive

Status launch_class_attentive_bwd(const ClassAttentiveBwdArgs& args, void* stream) {
  using namespace class_attentive;
  const ClassAttentiveProblem& problem = args.forward.problem;
  if (problem.d == 0) return Status();
  const auto zero = [&](float* target, int64_t count) {
    if (target == nullptr || count == 0) return Status();
    return launch("class_attentive_supcon_zero", class_attentive_zero_kernel, ceil_div(count, kClassThreads), kClassThreads, 0,
                  stream, target, count);
  };
  const Status status = zero(args.d_v, problem.C * problem.d);  // of classes without an anchor
  if (!status.ok()) return status;
  const CudaPlan plan = plan_cuda(problem);
  switch (problem.dtype) {
    case DType::kFloat32:
      return launch_typed<float, float>(args, plan, stream);
    case DType::kBFloat16:
      return launch_typed<__nv_bfloat16, __nv_bfloat16>(args, plan, stream);
    case DType::kFloat16:
      return launch_typed<__half, float>(args, plan, stream);
  }
  return Status::error("class_attentive_supcon_bwd: unknown dtype");
}

}  // namespace c2f

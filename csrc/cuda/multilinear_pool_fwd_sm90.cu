// Fully fused forward of multilinear_pool for sm_90a: projections, bias, activation, products and the sum over
// positions in one kernel; no projection reaches memory.
//
//              positions (N of wgmma), one tile of kBlockL after the other
//            +----------------------------------+
//   128      | warpgroup 0: 64 x kBlockL of U_m |   for each tile of positions, each factor m, each 64 channels,
//   columns  +----------------------------------+   a stage: weights [64 channels][128 columns] and features
//   (M)      | warpgroup 1: 64 x kBlockL of U_m |   [64 channels][kBlockL] (NCHW) or [kBlockL][64 channels] (NLC),
//            +----------------------------------+   copied by warpgroup 2 through tensor maps, as they lie in memory
//
// A block owns a sample and 128 columns. Both operands come from shared memory by descriptor; W, whose columns are
// contiguous, and NCHW features are read transposed there (16-bit types only: float32 has no such form). A thread holds
// two columns and a quarter of the positions of a tile, so it sums products over positions in registers, a quad of
// lanes adds up, and p is written once, by one thread, in one order: no atomics. Blocks of a cluster copy slices of
// what they share to each other.
#include <iterator>

#include "c2f/multilinear_pool.h"
#include "cuda/fused_sm90_factors.cuh"
#include "cuda/interactions.cuh"
#include "cuda/launch.cuh"
#include "cuda/matrix_descriptor.h"
#include "cuda/products.cuh"
#include "cuda/reduce.cuh"
#include "cuda/sm90.cuh"
#include "plan/fused_sm90_tile.h"

namespace c2f {
namespace {

using namespace fused_sm90;

constexpr int kWarpgroup = 128;
constexpr int kConsumerWarps = 8;
// 384 threads start with 168 registers each; afterwards 128 x 24 + 256 x 240 = 64512 of the 65536.
constexpr int kCopyRegisters = 24, kMultiplyRegisters = 240;

struct FusedParams {
  MultilinearPoolFwdArgs args;
  Cluster cluster;
  int32_t product[kMaxInteractions];                                // which of the kProducts sums output q is
  TensorMap weights[kFactors], features[kFactors], last[kFactors];  // see cuda/tensor_view.h
};

// The stages and their barriers: `full` once all bytes have come, `empty` once all that read them, here and in the
// blocks that this one copies to, are done. Producer and consumers each walk it with their own index and parity.
template <int kBlockL, Layout kLayout>
struct Ring {
  static constexpr int kStages = stages(kBlockL, kLayout), kStageBytes = stage_bytes(kBlockL, kLayout);
  uint32_t first;
  int index = 0;
  uint32_t parity = 0;

  __device__ uint32_t weights() const { return first + index * kStageBytes; }
  __device__ uint32_t features() const { return weights() + kWeightBytes; }
  __device__ uint32_t full() const { return first + kStages * kStageBytes + index * 16; }
  __device__ uint32_t empty() const { return full() + 8; }
  __device__ void next() {
    if (++index < kStages) return;
    index = 0;
    parity ^= 1;
  }
};

// Copies this block's slices of every stage, to all blocks that share them. One thread.
template <int kBlockL, Layout kLayout>
__device__ __forceinline__ void copy_stages(const FusedParams& params, Ring<kBlockL, kLayout> ring, Place place,
                                            int rank) {
  constexpr bool kPositions = kLayout == Layout::kPositions;
  const MultilinearPoolProblem& problem = params.args.problem;
  const Cluster cluster = params.cluster;
  const int weight_rows = kBlockC / cluster.b, weight_slice = cluster.rank_b(rank) * weight_rows;
  const int feature_rows = fused_sm90::feature_rows(kBlockL, kLayout, cluster.d);
  const int feature_slice = cluster.rank_d(rank) * feature_rows;
  const uint32_t weight_blocks = cluster.sharing_weights(rank), feature_blocks = cluster.sharing_features(rank);
  const int whole = static_cast<int>(problem.L) / kBlockL;

  const auto load = [&](uint32_t blocks, uint32_t target, const TensorMap* map, const int (&x)[4]) {
    if ((blocks & (blocks - 1)) == 0) {
      load_box(target, map, ring.full(), x);
    } else {
      load_box_to(blocks, target, map, ring.full(), x);
    }
  };
#pragma unroll 1
  for (Step step; step.within(problem); step.next(problem, kBlockL)) {
    barrier_wait(ring.empty(), ring.parity ^ 1);  // at once in the first round
    barrier_expect(ring.full(), kWeightBytes + feature_bytes(kBlockL, kLayout, cluster.d));
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      load(weight_blocks, ring.weights() + half * kPanelBytes + weight_slice * 128, &params.weights[step.m],
           {place.d + half * 64, 0, step.channel + weight_slice, 0});
    }
    if constexpr (kPositions) {
      const int tile = step.position / kBlockL;
      const TensorMap* map = tile < whole ? &params.features[step.m] : &params.last[step.m];
#pragma unroll
      for (int panel = 0; panel < feature_panels(kBlockL, kLayout); ++panel) {
        load(feature_blocks, ring.features() + panel * kPanelBytes + feature_slice * 128, map,
             {panel * 64, tile < whole ? tile : 0, step.channel + feature_slice, place.b});
      }
    } else {
      load(feature_blocks, ring.features() + feature_slice * 128, &params.features[step.m],
           {step.channel, 0, step.position + feature_slice, place.b});
    }
    ring.next();
  }
  // Other blocks' last arrivals at these barriers: this block must still be there. Nothing else reaches it from
  // outside, because its own warps wait for all copies.
#pragma unroll 1
  for (int stage = 0; stage < ring.kStages; ++stage) {
    barrier_wait(ring.empty(), ring.parity ^ 1);
    ring.next();
  }
}

// One lane of every warp for every block of `blocks`: this warp has read the stage whose `empty` barrier this is.
__device__ __forceinline__ void release(uint32_t empty, uint32_t blocks) {
  const uint32_t lane = threadIdx.x % kWarpSize;
  if (blocks >> lane & 1) barrier_arrive(empty, lane);
}

// u = the warpgroup's 64 columns of W' X' for kBlockL positions.
template <class T, int kBlockL, Layout kLayout>
__device__ __forceinline__ void project(float (&u)[kBlockL / 2], Ring<kBlockL, kLayout>& ring, int channels,
                                        int warpgroup, uint32_t release_to) {
  constexpr bool kPositions = kLayout == Layout::kPositions;
  constexpr uint32_t kStepA = kMnMajorStep / 16, kStepB = (kPositions ? kMnMajorStep : kKMajorStep) / 16;
  uint32_t in_flight = 0;
#pragma unroll 1
  for (int channel = 0; channel < channels; channel += kBlockC) {
    barrier_wait(ring.full(), ring.parity);
    const uint64_t a = mn_major_descriptor(ring.weights() + warpgroup * kPanelBytes, kPanelBytes);
    const uint64_t b =
        kPositions ? mn_major_descriptor(ring.features(), kPanelBytes) : k_major_descriptor(ring.features());
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < kBlockC / 16; ++k) {
      // The first product replaces what is in u: zeroing it by instructions would serialise all wgmma.
      wgmma<T, kBlockL, kPositions>(u, a + k * kStepA, b + k * kStepB, channel + k > 0);
    }
    wgmma_commit();
    if (channel > 0) {
      wgmma_wait<1>();
      release(in_flight, release_to);
    }
    in_flight = ring.empty();
    ring.next();
  }
  wgmma_wait<0>();
  wgmma_arrived(u);
  release(in_flight, release_to);
}

// grid: clusters of blocks, see place_of; block: 384 threads; shared: the stages and their barriers. kLive: how the
// factors of a tile are kept, see Factors.
template <class T, int kBlockL, int kLive, Layout kLayout>
__global__ void __launch_bounds__(kThreads, 1)
    multilinear_pool_fwd_sm90_kernel(const __grid_constant__ FusedParams params) {
  const MultilinearPoolFwdArgs& args = params.args;
  const MultilinearPoolProblem& problem = args.problem;
  const int M = problem.M, rank = static_cast<int>(cluster_rank());
  const Place place = place_of(static_cast<int>(blockIdx.x), problem, params.cluster);
  Ring<kBlockL, kLayout> ring{(shared_window(dynamic_shared()) + kAtomBytes - 1) / kAtomBytes * kAtomBytes};
  const uint32_t sharing = params.cluster.sharing_features(rank) | params.cluster.sharing_weights(rank);

  if (threadIdx.x == 0) {
    for (auto each = ring; each.parity == 0; each.next()) {
      barrier_init(each.full(), 1);
      barrier_init(each.empty(), kConsumerWarps * (params.cluster.b + params.cluster.d - 1));
    }
    barrier_init_fence();
  }
  __syncwarp();
  cluster_sync();

  const int warpgroup = threadIdx.x / kWarpgroup;
  if (warpgroup == 2) {
    give_registers<kCopyRegisters>();
    if (threadIdx.x == 2 * kWarpgroup) copy_stages(params, ring, place, rank);
  } else {
    take_registers<kMultiplyRegisters>();
    const int b = min(place.b, static_cast<int>(problem.B) - 1);  // whose mask a block beyond the samples may read
    const int L = static_cast<int>(problem.L);
    const int lane = threadIdx.x % kWarpSize, d = place.d + threadIdx.x / kWarpSize * 16 + lane / 4;  // and d + 8
    float running[2] = {};  // of these two columns, the product that this lane of the quad keeps
#pragma unroll 1
    for (int position = 0; position < L; position += kBlockL) {
      Factors<T, kBlockL / 2, kLive> u;
#pragma unroll
      for (int m = 0; m < kFactors; ++m) {
        if (m >= M) continue;
        float (&now)[kBlockL / 2] = u.accumulator(m);
        project<T>(now, ring, static_cast<int>(problem.C[m]), warpgroup, sharing);
        float bias[2] = {};
#pragma unroll
        for (int row = 0; row < 2; ++row) {
          if (args.biases[m] != nullptr && d + 8 * row < problem.D) bias[row] = args.biases[m][d + 8 * row];
        }
#pragma unroll
        for (int k = 0; k < kBlockL / 2; ++k) now[k] += bias[k / 2 % 2];
        if (problem.activation == Activation::kRelu) {
#pragma unroll
          for (int k = 0; k < kBlockL / 2; ++k) now[k] = activate(now[k], Activation::kRelu);
        }
        u.finish(m, m + 1 == M);
      }

      float sums[2][kProducts] = {};
      const int first = position + lane % 4 * 2;
      const bool all = problem.mask == MaskKind::kNone && position + kBlockL <= L;
      if (M == 2) {
        all ? add_products<false, 2>(args, b, first, u, sums) : add_products<true, 2>(args, b, first, u, sums);
      } else {
        all ? add_products<false, 3>(args, b, first, u, sums) : add_products<true, 3>(args, b, first, u, sums);
      }
#pragma unroll
      for (int product = 0; product < kProducts; ++product) {
#pragma unroll
        for (int row = 0; row < 2; ++row) {
          const float sum = quad_sum(sums[row][product]);
          if (lane % 4 == product) running[row] += sum;
        }
      }
    }
    for (int q = 0; q < problem.interactions.count; ++q) {
      if (params.product[q] != lane % 4 || place.b >= problem.B) continue;
      float* row = args.p + (static_cast<int64_t>(b) * problem.interactions.count + q) * problem.D;
      if (d < problem.D) row[d] = running[0];
      if (d + 8 < problem.D) row[d + 8] = running[1];
    }
  }
}

// Encodes what `params` needs for this tile.
Status encode_operands(FusedParams* params, int block_l, Layout layout) {
  const MultilinearPoolProblem& problem = params->args.problem;
  const Cluster cluster = params->cluster;
  const bool whole = layout == Layout::kChannels || problem.L >= block_l;
  const bool rest = layout == Layout::kPositions && problem.L % block_l > 0;
  TensorView views[3 * kFactors];
  TensorMap* maps[3 * kFactors];
  int count = 0;
  const auto add = [&](const TensorView& view, TensorMap* map) {
    views[count] = view;
    maps[count++] = map;
  };
  for (int m = 0; m < problem.M; ++m) {
    const WeightView& w = params->args.weights[m];
    const FeatureView& x = params->args.features[m];
    add(weight_view(problem, m, w, cluster), &params->weights[m]);
    if (whole) add(feature_view(problem, m, x, block_l, layout, cluster), &params->features[m]);
    if (rest) add(last_view(problem, m, x, block_l, cluster), &params->last[m]);
  }
  for (int k = 0; k < count; ++k) {
    if (!can_map(views[k])) {
      return Status::error(
          "multilinear_pool_fwd_sm90: the copy engine reads addresses and strides that are multiples of 16 bytes");
    }
    const Status status = encode_tensor_map(views[k], problem.dtype, maps[k]);
    if (!status.ok()) return status;
  }
  return Status();
}

template <class T, int kBlockL, int kLive, Layout kLayout>
Status launch_tile(FusedParams& params, void* stream) {
  constexpr auto kKernel = multilinear_pool_fwd_sm90_kernel<T, kBlockL, kLive, kLayout>;
  constexpr const char* kName = "multilinear_pool_fwd_sm90";
  const int64_t grid = blocks(params.args.problem, params.cluster);
  // First, because it makes the device's context current, which the encoder of tensor maps needs.
  const Status prepared = prepare_launch(kName, kKernel, grid, shared_bytes(kBlockL, kLayout));
  if (!prepared.ok()) return prepared;
  const Status encoded = encode_operands(&params, kBlockL, kLayout);
  if (!encoded.ok()) return encoded;
  return launch_clusters(kName, kKernel, grid, kThreads, shared_bytes(kBlockL, kLayout), params.cluster.size(), stream,
                         params);
}

// Calls launch_tile for the tile that the plan names.
template <class T, Layout kLayout, size_t kIndex = 0>
Status launch_planned(FusedParams& params, const MultilinearPoolCudaPlan& plan, void* stream) {
  if constexpr (kIndex < std::size(kTiles)) {
    constexpr Tile kTile = kTiles[kIndex];
    if (plan.block_l == kTile.block_l && plan.live == kTile.live) {
      return launch_tile<T, kTile.block_l, kTile.live, kLayout>(params, stream);
    }
    return launch_planned<T, kLayout, kIndex + 1>(params, plan, stream);
  } else {
    return Status::error("multilinear_pool_fwd_sm90: the plan has no such tile");
  }
}

}  // namespace

Status launch_multilinear_pool_fwd_sm90(const MultilinearPoolFwdArgs& args, const MultilinearPoolCudaPlan& plan,
                                        void* stream) {
  const MultilinearPoolProblem& problem = args.problem;
  if (problem.B == 0 || problem.D == 0) return Status();
  FusedParams params{args, {plan.cluster_b, plan.cluster_d}, {}, {}, {}, {}};
  bool fits = (problem.M == 2 || problem.M == 3) && problem.L > 0 && problem.dtype != DType::kFloat32;
  bool positions = true, channels = true;
  for (int m = 0; fits && m < problem.M; ++m) {
    fits = problem.C[m] > 0 && args.weights[m].stride_d == 1 && args.projections[m] == nullptr;
    positions = positions && args.features[m].stride_l == 1;
    channels = channels && args.features[m].stride_c == 1;
  }
  for (int q = 0; fits && q < problem.interactions.count; ++q) {
    params.product[q] = product_of(problem.interactions, q);
    fits = params.product[q] >= 0;
  }
  if (!fits || !(positions || channels)) {
    return Status::error("multilinear_pool_fwd_sm90: the fused kernel cannot take these operands");
  }
  const auto launch_as = [&](auto type) {
    using T = decltype(type);
    return positions ? launch_planned<T, Layout::kPositions>(params, plan, stream)
                     : launch_planned<T, Layout::kChannels>(params, plan, stream);
  };
  return problem.dtype == DType::kFloat16 ? launch_as(__half{}) : launch_as(__nv_bfloat16{});
}

}  // namespace c2f

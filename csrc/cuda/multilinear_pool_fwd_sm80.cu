// Fully fused forward of multilinear_pool on the tensor cores of sm_80 and later: projections, bias, activation,
// products and the sum over positions in one kernel; no projection reaches memory.
#include <algorithm>

#include "c2f/multilinear_pool.h"
#include "cuda/interactions.cuh"
#include "cuda/launch.cuh"
#include "cuda/mma_sm80.cuh"
#include "cuda/products.cuh"
#include "cuda/reduce.cuh"
#include "cuda/vec.cuh"
#include "plan/fused_sm80_tile.h"

namespace c2f {
namespace {

using fused_sm80::kBlockC;
using fused_sm80::kBlockD;
using fused_sm80::kPad;
using fused_sm80::kStages;
using fused_sm80::kThreads;

constexpr int kWarpsD = 4, kWarpsL = 2;
constexpr int kWarpD = kBlockD / kWarpsD;  // columns of a warp
constexpr int kTilesD = kWarpD / 16;
constexpr int kSampleGroup = 8;  // samples that run together and share weights in L2

struct FusedParams {
  MultilinearPoolFwdArgs args;
  int32_t product[kMaxInteractions];    // which of the kProducts sums output q is
  int32_t feature_bytes, weight_bytes;  // widest aligned copy: 16, 8 or 2
};

// Copies a [kRows][kColumns] tile to shared memory, where rows are kColumns + kPad apart. What lies at or beyond `rows`
// or `columns` becomes zero and is not read.
template <int kRows, int kColumns, int kBytes, class T>
__device__ __forceinline__ void copy_tile(T* shared, const T* global, int64_t stride, int rows, int columns) {
  constexpr int kVec = kBytes / sizeof(T), kPerRow = kColumns / kVec;
  for (int index = threadIdx.x; index < kRows * kPerRow; index += kThreads) {
    const int row = index / kPerRow, column = index % kPerRow * kVec;
    const int valid = row < rows ? min(max(columns - column, 0), kVec) : 0;
    const T* source = valid > 0 ? global + row * stride + column : global;
    T* target = shared + row * (kColumns + kPad) + column;
    if constexpr (kVec > 1) {
      copy_async<kBytes>(target, source, valid * static_cast<int>(sizeof(T)));
    } else {
      *target = valid > 0 ? *source : from_float<T>(0.f);
    }
  }
}

template <int kRows, int kColumns, class T>
__device__ __forceinline__ void copy_tile(int bytes, T* shared, const T* global, int64_t stride, int rows,
                                          int columns) {
  if (bytes == 16) {
    copy_tile<kRows, kColumns, 16>(shared, global, stride, rows, columns);
  } else if (bytes == 8) {
    copy_tile<kRows, kColumns, 8>(shared, global, stride, rows, columns);
  } else {
    copy_tile<kRows, kColumns, 2>(shared, global, stride, rows, columns);
  }
}

// Fills the stages in the order in which they are consumed: positions, then factors, then channels.
template <class T, int kBlockL, Layout kLayout>
struct Loader {
  const FusedParams& params;
  T* shared;
  int b, d;
  int position = 0, m = 0, channel = 0, stage = 0;

  __device__ void next() {
    const MultilinearPoolProblem& problem = params.args.problem;
    const int L = static_cast<int>(problem.L);
    if (position < L) {
      const int channels = static_cast<int>(problem.C[m]) - channel, positions = L - position;
      T* weights = shared + stage * fused_sm80::stage_elements(kBlockL, kLayout);
      T* features = weights + kBlockC * (kBlockD + kPad);
      const WeightView& w = params.args.weights[m];
      const FeatureView& x = params.args.features[m];
      copy_tile<kBlockC, kBlockD>(params.weight_bytes, weights,
                                  static_cast<const T*>(w.data) + channel * w.stride_c + d, w.stride_c, channels,
                                  static_cast<int>(problem.D) - d);
      const T* first = static_cast<const T*>(x.data) + b * x.stride_b + position * x.stride_l + channel * x.stride_c;
      if constexpr (kLayout == Layout::kPositions) {
        copy_tile<kBlockC, kBlockL>(params.feature_bytes, features, first, x.stride_c, channels, positions);
      } else {
        copy_tile<kBlockL, kBlockC>(params.feature_bytes, features, first, x.stride_l, positions, channels);
      }
      channel += kBlockC;
      if (channel >= problem.C[m]) {
        channel = 0;
        if (++m == problem.M) {
          m = 0;
          position += kBlockL;
        }
      }
    }
    copy_async_commit();
    stage = stage + 1 == kStages ? 0 : stage + 1;
  }
};

// Rounds the accumulators of a warp's tile to the storage type, two neighbouring positions to a word.
template <class T, int kTilesL>
__device__ __forceinline__ void park(const float (&u)[kTilesD][kTilesL][4], uint32_t (&parked)[kTilesD][kTilesL][2]) {
#pragma unroll
  for (int td = 0; td < kTilesD; ++td) {
#pragma unroll
    for (int tl = 0; tl < kTilesL; ++tl) {
#pragma unroll
      for (int row = 0; row < 2; ++row) parked[td][tl][row] = pack2<T>(u[td][tl][2 * row], u[td][tl][2 * row + 1]);
    }
  }
}

// grid: (sample, 128 columns) flattened, groups of kSampleGroup samples one after the other, samples fastest inside a
// group; block: 256 threads, 4 warps along columns by 2 along positions; shared: kStages x (weights, features) and the
// running sums. Columns are the M side of the tensor core, positions the N side. A warp owns 32 columns by kBlockL / 2
// positions of U, one factor after the other; finished factors wait in registers, rounded to the storage type. A thread
// sums the products of its 4 columns over the positions it sees in a tile, a quad of lanes adds up, tile after tile;
// the two warps of a column finish the sum.
template <class T, int kBlockL, Layout kLayout>
__global__ void __launch_bounds__(kThreads, 1)
    multilinear_pool_fwd_sm80_kernel(const __grid_constant__ FusedParams params) {
  constexpr int kWarpL = kBlockL / kWarpsL, kTilesL = kWarpL / 8;
  constexpr bool kTranspose = kLayout == Layout::kPositions;
  constexpr int kFeaturePitch = (kLayout == Layout::kPositions ? kBlockL : kBlockC) + kPad;
  const MultilinearPoolFwdArgs& args = params.args;
  const MultilinearPoolProblem& problem = args.problem;
  const int L = static_cast<int>(problem.L), M = problem.M;
  T* const shared = reinterpret_cast<T*>(dynamic_shared());
  // Running sums [kWarpsL][kProducts][kBlockD] behind the stages; a cell belongs to one thread.
  float* const partial = reinterpret_cast<float*>(shared + kStages * fused_sm80::stage_elements(kBlockL, kLayout));

  const int blocks_per_group = kSampleGroup * static_cast<int>((problem.D + kBlockD - 1) / kBlockD);
  const int group = blockIdx.x / blocks_per_group, in_group = blockIdx.x % blocks_per_group;
  const int samples = min(kSampleGroup, static_cast<int>(problem.B) - group * kSampleGroup);
  const int b = group * kSampleGroup + in_group % samples, d0 = in_group / samples * kBlockD;

  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const int warp_d = warp % kWarpsD * kWarpD, warp_l = warp / kWarpsD * kWarpL;  // this warp's corner of the tile
  // Where in a 16 x 16 block of shared memory the row lies whose address this lane gives to load_matrix.
  const int row_low = lane % 8, half_low = lane / 8 % 2 * 8, half_high = lane / 16 * 8;

  Loader<T, kBlockL, kLayout> loader{params, shared, b, d0};
#pragma unroll 1
  for (int k = 0; k < kStages - 1; ++k) loader.next();

  uint32_t parked_0[kTilesD][kTilesL][2], parked_1[kTilesD][kTilesL][2];  // U_0 and U_1: two positions in a word
  int stage = 0;
  for (int position = 0; position < L; position += kBlockL) {
#pragma unroll 1
    for (int m = 0; m < M; ++m) {
      float u[kTilesD][kTilesL][4] = {};
#pragma unroll 1
      for (int channel = 0; channel < problem.C[m]; channel += kBlockC) {
        copy_async_wait<kStages - 2>();
        __syncthreads();  // the stage has arrived for all threads, and all have left the one that is filled next
        loader.next();
        const T* weights = shared + stage * fused_sm80::stage_elements(kBlockL, kLayout);
        const T* features = weights + kBlockC * (kBlockD + kPad);
        stage = stage + 1 == kStages ? 0 : stage + 1;
#pragma unroll
        for (int k = 0; k < kBlockC; k += 16) {
          uint32_t a[kTilesD][4];
#pragma unroll
          for (int td = 0; td < kTilesD; ++td) {
            load_matrix_x4<true>(a[td],
                                 weights + (k + half_high + row_low) * (kBlockD + kPad) + warp_d + td * 16 + half_low);
          }
#pragma unroll
          for (int tl = 0; tl + 1 < kTilesL; tl += 2) {
            uint32_t both[4];
            const int l = warp_l + tl * 8;
            load_matrix_x4<kTranspose>(both, kTranspose
                                                 ? features + (k + half_low + row_low) * kFeaturePitch + l + half_high
                                                 : features + (l + half_high + row_low) * kFeaturePitch + k + half_low);
            const uint32_t even[2] = {both[0], both[1]}, odd[2] = {both[2], both[3]};
#pragma unroll
            for (int td = 0; td < kTilesD; ++td) {
              mma_16816<T>(u[td][tl], a[td], even);
              mma_16816<T>(u[td][tl + 1], a[td], odd);
            }
          }
          if constexpr (kTilesL % 2 == 1) {
            uint32_t last[2];
            const int l = warp_l + (kTilesL - 1) * 8;
            load_matrix_x2<kTranspose>(last, kTranspose ? features + (k + half_low + row_low) * kFeaturePitch + l
                                                        : features + (l + row_low) * kFeaturePitch + k + half_low);
#pragma unroll
            for (int td = 0; td < kTilesD; ++td) mma_16816<T>(u[td][kTilesL - 1], a[td], last);
          }
        }
      }

#pragma unroll
      for (int td = 0; td < kTilesD; ++td) {
#pragma unroll
        for (int row = 0; row < 2; ++row) {
          const int d = d0 + warp_d + td * 16 + row * 8 + lane / 4;
          const float bias = args.biases[m] != nullptr && d < problem.D ? args.biases[m][d] : 0.f;
#pragma unroll
          for (int tl = 0; tl < kTilesL; ++tl) {
#pragma unroll
            for (int e = 0; e < 2; ++e) {
              u[td][tl][2 * row + e] = activate(u[td][tl][2 * row + e] + bias, problem.activation);
            }
          }
        }
      }

      if (m + 1 < M) {
        if (m == 0) {
          park<T>(u, parked_0);
        } else {
          park<T>(u, parked_1);
        }
        continue;
      }

      float sums[kProducts][kTilesD][2] = {};  // [product][tile][row g or g + 8 of the tile]
#pragma unroll
      for (int tl = 0; tl < kTilesL; ++tl) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int i = position + warp_l + tl * 8 + lane % 4 * 2 + e;
          const int64_t at = static_cast<int64_t>(b) * L + i;
          if (i >= L || (problem.mask == MaskKind::kBool && static_cast<const uint8_t*>(args.mask)[at] == 0)) continue;
          const float weight = problem.mask == MaskKind::kFloat ? static_cast<const float*>(args.mask)[at] : 1.f;
#pragma unroll
          for (int td = 0; td < kTilesD; ++td) {
#pragma unroll
            for (int row = 0; row < 2; ++row) {
              const float2 pair_0 = unpack2<T>(parked_0[td][tl][row]), pair_1 = unpack2<T>(parked_1[td][tl][row]);
              const float u_0 = weight * (e == 0 ? pair_0.x : pair_0.y), u_last = u[td][tl][2 * row + e];
              if (M == 2) {
                sums[0][td][row] += u_0 * u_last;
              } else {
                const float u_1 = e == 0 ? pair_1.x : pair_1.y;
                sums[0][td][row] += u_0 * u_1;
                sums[1][td][row] += u_0 * u_last;
                sums[2][td][row] += weight * u_1 * u_last;
                sums[3][td][row] += u_0 * u_1 * u_last;
              }
            }
          }
        }
      }
#pragma unroll
      for (int product = 0; product < kProducts; ++product) {
#pragma unroll
        for (int td = 0; td < kTilesD; ++td) {
#pragma unroll
          for (int row = 0; row < 2; ++row) {
            const float sum = quad_sum(sums[product][td][row]);
            float* cell =
                partial + (warp / kWarpsD * kProducts + product) * kBlockD + warp_d + td * 16 + row * 8 + lane / 4;
            if (lane % 4 == 0) *cell = position == 0 ? sum : *cell + sum;
          }
        }
      }
    }
  }

  __syncthreads();
  const int Q = problem.interactions.count;
  for (int index = threadIdx.x; index < Q * kBlockD; index += kThreads) {
    const int q = index / kBlockD, d = index % kBlockD;
    const float* column = partial + params.product[q] * kBlockD + d;
    if (d0 + d < problem.D)
      args.p[(static_cast<int64_t>(b) * Q + q) * problem.D + d0 + d] = column[0] + column[kProducts * kBlockD];
  }
}

// The widest of 16, 8 and 2 bytes to which `bytes` is aligned.
int widest(uint64_t bytes) { return bytes % 16 == 0 ? 16 : bytes % 8 == 0 ? 8 : 2; }

template <class T, int kBlockL, Layout kLayout>
Status launch_tile(const FusedParams& params, void* stream) {
  return launch("multilinear_pool_fwd_sm80", multilinear_pool_fwd_sm80_kernel<T, kBlockL, kLayout>,
                fused_sm80::blocks(params.args.problem), kThreads, fused_sm80::shared_bytes(kBlockL, kLayout), stream,
                params);
}

template <class T, Layout kLayout>
Status launch_block_l(const FusedParams& params, int block_l, void* stream) {
  switch (block_l) {
    case 64:
      return launch_tile<T, 64, kLayout>(params, stream);
    case 112:
      return launch_tile<T, 112, kLayout>(params, stream);
    case 128:
      return launch_tile<T, 128, kLayout>(params, stream);
  }
  return Status::error("multilinear_pool_fwd_sm80: the plan has no such block_l");
}

template <class T>
Status launch_layout(const FusedParams& params, Layout layout, int block_l, void* stream) {
  return layout == Layout::kPositions ? launch_block_l<T, Layout::kPositions>(params, block_l, stream)
                                      : launch_block_l<T, Layout::kChannels>(params, block_l, stream);
}

}  // namespace

Status launch_multilinear_pool_fwd_sm80(const MultilinearPoolFwdArgs& args, const MultilinearPoolCudaPlan& plan,
                                        void* stream) {
  const MultilinearPoolProblem& problem = args.problem;
  if (problem.B == 0 || problem.D == 0) return Status();
  bool fits = (problem.M == 2 || problem.M == 3) && problem.L > 0 &&
              std::max({problem.B, problem.L, problem.D}) <= fused_sm80::kMaxSize;
  uint64_t feature_bits = 16, weight_bits = 16;  // addresses and strides in bytes, or-ed
  bool positions = true, channels = true;
  for (int m = 0; fits && m < problem.M; ++m) {
    const FeatureView& x = args.features[m];
    const WeightView& w = args.weights[m];
    fits =
        problem.C[m] > 0 && problem.C[m] <= fused_sm80::kMaxSize && w.stride_d == 1 && args.projections[m] == nullptr;
    positions = positions && x.stride_l == 1;
    channels = channels && x.stride_c == 1;
    feature_bits |= reinterpret_cast<uintptr_t>(x.data) | 2 * x.stride_b;
    weight_bits |= reinterpret_cast<uintptr_t>(w.data) | 2 * w.stride_c;
  }
  fits = fits && (positions || channels);
  const Layout layout = positions ? Layout::kPositions : Layout::kChannels;
  for (int m = 0; fits && m < problem.M; ++m) {
    feature_bits |= 2 * (positions ? args.features[m].stride_c : args.features[m].stride_l);
  }

  FusedParams params{args, {}, widest(feature_bits), widest(weight_bits)};
  for (int q = 0; fits && q < problem.interactions.count; ++q) {
    params.product[q] = product_of(problem.interactions, q);
    fits = params.product[q] >= 0;
  }
  if (!fits) return Status::error("multilinear_pool_fwd: the fused kernel cannot take these operands");
  switch (problem.dtype) {
    case DType::kBFloat16:
      return launch_layout<__nv_bfloat16>(params, layout, plan.block_l, stream);
    case DType::kFloat16:
      return launch_layout<__half>(params, layout, plan.block_l, stream);
    case DType::kFloat32:
      break;
  }
  return Status::error("multilinear_pool_fwd: the fused kernel takes 16-bit types");
}

}  // namespace c2f

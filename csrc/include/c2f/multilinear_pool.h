// multilinear_pool: project M feature maps to a common width D, multiply them position by position, sum over positions.
//
//   U_m[b,i,j] = act( sum_c X_m[b,i,c] * W_m[c,j] + b_m[j] )
//   p[b,q,j]   = sum_i w[b,i] * prod_k U_{T_q[k]}[b,i,j]
//
// and, given d_p = dLoss/dp,
//
//   G_m[b,i,j] = act'(U_m) * sum over (q,k) with T_q[k] = m of  w[b,i] * d_p[b,q,j] * prod_{k' != k} U_{T_q[k']}[b,i,j]
//   d_feature_m[b,i,c] = sum_j G_m[b,i,j] * W_m[c,j]
//   d_weight_m[c,j]    = sum_{b,i} X_m[b,i,c] * G_m[b,i,j]          d_bias_m[j] = sum_{b,i} G_m[b,i,j]
//
// Signed square root and normalisation of p are the next op: signed_sqrt_normalize.h.
//
// Contract of every kernel behind this header
// - Features, weights, saved projections and their gradients share one storage type (problem.dtype); biases, float position
//   weights, p, d_p and d_bias are float32. Products, sums and GEMM accumulation are float32; gradients are rounded once, last.
//   A projection or G_m may be rounded to a 16-bit storage type before the products. Operands of a product are float32 as they
//   are unless `precision` allows less; float16 may be multiplied as a sum of two bfloat16.
// - A position that a boolean mask excludes is skipped by selection, never multiplied by zero: NaN there reaches neither p nor
//   a gradient, and its d_feature is 0. NaN in sample b reaches only sample b; other samples are bit-unchanged.
// - Sums have one fixed order: equal inputs give bit-equal outputs, on the CPU for any number of threads. No float atomics.
// - Leave-one-out products are formed by multiplication. d_feature is written only where its pointer is set, likewise d_weight
//   and d_bias; what is not asked for is not computed.
// - B, L, D and any C_m may be 0: outputs that exist are then filled (p = 0, or the bias alone when C_m = 0).
// - All offsets are 64-bit. The caller owns every buffer, scratch included. Alignment beyond the element type is never assumed
//   of inputs.
#pragma once

#include "c2f/common.h"

namespace c2f {

inline constexpr int kMaxFactors = 4;        // M
inline constexpr int kMaxDegree = 4;         // length of an interaction
inline constexpr int kMaxInteractions = 16;  // Q; more goes to the Python reference

enum class Activation : int32_t { kNone = 0, kRelu = 1, kTanh = 2 };
enum class MaskKind : int32_t { kNone = 0, kBool = 1, kFloat = 2 };

// T: which projections each output block multiplies. Repetition is allowed, (0, 0) is the squared projection.
struct InteractionSet {
  int32_t count = 0;                                 // Q
  int32_t degree[kMaxInteractions] = {};             // 1..kMaxDegree
  int32_t factor[kMaxInteractions][kMaxDegree] = {}; // factor[q][0..degree[q])
};

// Everything a plan may depend on: sizes and kinds, no pointers.
struct MultilinearPoolProblem {
  int64_t B = 0, L = 0, D = 0;
  int32_t M = 0;
  int64_t C[kMaxFactors] = {};
  DType dtype = DType::kFloat32;
  MatmulPrecision precision = MatmulPrecision::kHighest;  // of float32 operands on the CPU
  Activation activation = Activation::kNone;
  MaskKind mask = MaskKind::kNone;
  InteractionSet interactions;
};

// [B, L, C] in any strides (in elements, none negative): NCHW maps have stride_l = 1, channels-last maps and tokens stride_c = 1.
struct FeatureView {
  const void* data = nullptr;
  int64_t stride_b = 0, stride_l = 0, stride_c = 0;
};

// [C, D] in any strides (in elements).
struct WeightView {
  const void* data = nullptr;
  int64_t stride_c = 0, stride_d = 0;
};

// Writable [B, L, C], same strides as the feature it is the gradient of. Null: not wanted.
struct FeatureGradView {
  void* data = nullptr;
  int64_t stride_b = 0, stride_l = 0, stride_c = 0;
};

struct MultilinearPoolFwdArgs {
  MultilinearPoolProblem problem;
  FeatureView features[kMaxFactors];
  WeightView weights[kMaxFactors];
  const float* biases[kMaxFactors] = {};  // [D], null: no bias
  const void* mask = nullptr;             // [B, L] contiguous: uint8 (kBool) or float32 (kFloat)
  float* p = nullptr;                     // [B, Q, D] contiguous
  void* projections[kMaxFactors] = {};    // [B, L, D] contiguous, problem.dtype, after bias and activation; all null: not saved

  bool saves() const { return projections[0] != nullptr; }
};

struct MultilinearPoolBwdArgs {
  MultilinearPoolProblem problem;
  FeatureView features[kMaxFactors];
  WeightView weights[kMaxFactors];
  const float* biases[kMaxFactors] = {};
  const void* mask = nullptr;
  const void* projections[kMaxFactors] = {};  // as saved by the forward; all null: recomputed
  const float* d_p = nullptr;                 // [B, Q, D] contiguous
  FeatureGradView d_features[kMaxFactors];
  void* d_weights[kMaxFactors] = {};  // [C_m, D] contiguous, problem.dtype, null: not wanted
  float* d_biases[kMaxFactors] = {};  // [D], null: not wanted

  bool saved() const { return projections[0] != nullptr; }
};

// ---- CPU (csrc/cpu) ----------------------------------------------------------------------------------------------------

// How the CPU kernels will run a problem; printable, no side effects.
struct MultilinearPoolCpuPlan {
  const char* isa = "";        // "amx" | "amx split" | "amx exact" | "avx512_bf16" | "avx512" | "avx2" | "portable"
  int32_t block_l = 0;            // positions of one register tile
  int32_t block_d = 0;            // outputs of one register tile
  int64_t block_rows = 0;         // positions projected at a time
  int64_t unit_d = 0;             // outputs projected at a time: block_rows x unit_d projections stay in L2
  bool staged = false;            // all channels of block_rows positions are packed once and stay in L2
  bool packs_units = false;       // one block has all positions: who projects a unit packs its weights, into L2
  int64_t fwd_chunk_d = 0;        // outputs whose packed weights are in memory at a time
  int64_t chunk_d = 0;            // outputs of one step of the backward
  int64_t chunk_b = 0;            // samples of one pass of the backward
  int64_t product_rows = 0;       // positions of one task of d_feature
  int64_t product_channels = 0;   // channels of one task of d_weight
  int64_t product_d = 0;          // outputs of one task of d_weight
  int64_t fwd_scratch_bytes = 0;  // for the whole call, all threads
  int64_t bwd_scratch_bytes = 0;
};

// `saves`: the forward saves projections, the backward reads them.
Status plan_multilinear_pool_cpu(const MultilinearPoolProblem& problem, bool saves, int num_threads,
                                 MultilinearPoolCpuPlan* plan);

// `scratch` holds plan.fwd_scratch_bytes (or bwd), 64-byte aligned.
Status run_multilinear_pool_fwd(const MultilinearPoolFwdArgs& args, const MultilinearPoolCpuPlan& plan, void* scratch,
                                int num_threads);
Status run_multilinear_pool_bwd(const MultilinearPoolBwdArgs& args, const MultilinearPoolCpuPlan& plan, void* scratch,
                                int num_threads);

// ---- CUDA (csrc/cuda) --------------------------------------------------------------------------------------------------

struct CudaDevice {
  int32_t major = 0, minor = 0, num_sms = 0;
  int64_t shared_bytes_per_block = 0, l2_bytes = 0;
  bool sm90a = false;  // kernels of sm_90a may be taken: they are built in
};

// Which dimension of a feature [B, L, C] is contiguous: positions (NCHW maps), channels (NHWC maps, tokens), or neither.
enum class Layout : int32_t { kPositions = 0, kChannels = 1, kStrided = 2 };

// Which kernel forms the projections and their products in the forward.
enum class CudaKernel : int32_t { kChunked = 0, kFusedSm80 = 1, kFusedSm90 = 2 };

// How the CUDA kernels will run a problem: a pure host function of sizes, layout and device facts.
struct MultilinearPoolCudaPlan {
  CudaKernel kernel = CudaKernel::kChunked;  // recommended for the forward
  const char* reason = "";                   // why this kernel
  // fused, all 0 where none can run: a block computes block_l positions by block_d columns at a time, block_c channels per step
  CudaKernel fused = CudaKernel::kChunked;  // which fused kernel can run; kChunked: none
  int32_t block_l = 0, block_d = 0, block_c = 0, stages = 0, threads = 0;
  int64_t grid = 0, shared_bytes = 0;
  // sm_90a: factors with a float32 accumulator (the others wait in 16 bits), blocks of a cluster along samples and columns
  int32_t live = 0, cluster_b = 1, cluster_d = 1;
  // sm_90a: modelled share of the tensor cores' rate, and what keeps it below 1 most (plan/fused_sm90_tile.h)
  double limit = 0;
  const char* bound = "";
  // chunked forward, every backward: samples and columns of one chunk
  int64_t chunk_b = 0, chunk_d = 0;
};

// A tile of the sm_90a kernel to take instead of the planned one, for benchmarks and tests; block_l = 0: no wish.
struct FusedWish {
  int32_t block_l = 0, live = 0, cluster_b = 1, cluster_d = 1;
};

// `layout` is that of all features, kStrided where they differ.
Status plan_multilinear_pool_cuda(const MultilinearPoolProblem& problem, Layout layout, const CudaDevice& device,
                                  const FusedWish& wish, MultilinearPoolCudaPlan* plan);

// Fully fused forward, 16-bit storage types, M = 2 or 3, products of distinct factors: p is written, projections are not saved.
// Needs what the plan was made for, and weights with stride_d = 1; sm90 also addresses and strides that are multiples of 16
// bytes, an error otherwise. `stream` is a cudaStream_t. plan.fused says which one.
Status launch_multilinear_pool_fwd_sm80(const MultilinearPoolFwdArgs& args, const MultilinearPoolCudaPlan& plan,
                                        void* stream);
Status launch_multilinear_pool_fwd_sm90(const MultilinearPoolFwdArgs& args, const MultilinearPoolCudaPlan& plan,
                                        void* stream);

// Chunked path. The projections of one chunk (problem.B samples, `width` columns from column `first` on) were made by GEMM, before
// bias and activation when `raw`, after them otherwise (a saved slice).
struct HadamardArgs {
  MultilinearPoolProblem problem;        // B: samples of this chunk; D: the full width
  const void* projections[kMaxFactors] = {};  // [B, L, width], row stride `row_stride`, `dtype`
  DType dtype = DType::kFloat32;         // storage type of the projections and of G: float32 or problem.dtype
  int64_t row_stride = 0;
  int64_t first = 0, width = 0;
  bool raw = true;
  const float* biases[kMaxFactors] = {};  // [D]
  const void* mask = nullptr;             // [B, L]
  // reduce
  float* p = nullptr;                     // [B, Q, D]: columns first .. first + width are written
  // grad
  const float* d_p = nullptr;             // [B, Q, D]
  void* grads[kMaxFactors] = {};          // G_m, [B, L, width] contiguous, `dtype`, null: not wanted
  const float* grad_scale = nullptr;      // [M], in device memory: G_m is stored times grad_scale[m]; null: times 1
  float* d_biases[kMaxFactors] = {};      // [B, width] sums over positions, unscaled; the caller sums over b; null: not wanted
};
Status launch_hadamard_reduce(const HadamardArgs& args, void* stream);
Status launch_hadamard_grad(const HadamardArgs& args, void* stream);

}  // namespace c2f

// signed_sqrt_normalize: the epilogue of bilinear pooling, per sample.
//
//   s[b,q,j] = ssqrt(p[b,q,j])          z = s / n          n: L2 norm of s over the scope
//
//   mode      ssqrt(p)                                   slope used backward
//   none      p                                          1
//   shifted   sign(p) * (sqrt(|p| + eps^2) - eps)        1 / (2 sqrt(|p| + eps^2))
//   caffe     sign(p) * sqrt(|p|)                        1 / (2 (sqrt(|p|) + eps))         (not the derivative of its forward)
//   plus_eps  sign(p) * sqrt(|p| + eps)                  1 / (2 sqrt(|p| + eps)), 0 at p = 0
//   smooth    p * (p^2 + eps^2)^(-1/4)                   (p^2/2 + eps^2) * (p^2 + eps^2)^(-5/4)
//
//   scope     n
//   none      1
//   per interaction / joint (all q of a sample):   add: sqrt(sum s^2 + l2_eps)     clamp: max(sqrt(sum s^2), l2_eps)
//
// Backward: gamma = sum over the scope of z * d_out (0 where clamp is active), d_p = (d_out - z * gamma) / n * slope.
// shifted is computed as |p| / (sqrt(|p| + eps^2) + eps) for 0 < |p| < inf (no cancellation near 0) and as written at 0, inf and NaN
// (where the quotient would be 0/0 or inf/inf): an infinite p gives s = inf, z = NaN there and 0 at finite entries of its scope.
// smooth uses hypot(p, eps), which does not overflow, and s = p at infinity.
// float32 arithmetic, one fixed order of sums, NaN and Inf follow IEEE: no clamping. sign(0) = 0. B, Q, D may be 0.
#pragma once

#include "c2f/common.h"

namespace c2f {

enum class SqrtMode : int32_t { kNone = 0, kShifted = 1, kCaffe = 2, kPlusEps = 3, kSmooth = 4 };
enum class NormScope : int32_t { kNone = 0, kInteraction = 1, kJoint = 2 };
enum class L2Mode : int32_t { kAdd = 0, kClamp = 1 };

struct SignedSqrtNormalizeArgs {
  int64_t B = 0, Q = 0, D = 0;
  SqrtMode sqrt_mode = SqrtMode::kShifted;
  float sqrt_eps = 0.03f;
  NormScope norm_scope = NormScope::kInteraction;
  L2Mode l2_mode = L2Mode::kAdd;
  float l2_eps = 1e-7f;
  const float* p = nullptr;      // [B, Q, D]
  DType dtype = DType::kFloat32; // of out and d_out
  void* out = nullptr;           // [B, Q, D], forward only
  const void* d_out = nullptr;   // [B, Q, D], backward only
  float* d_p = nullptr;          // [B, Q, D], backward only
};

Status run_signed_sqrt_normalize_fwd(const SignedSqrtNormalizeArgs& args, int num_threads);
Status run_signed_sqrt_normalize_bwd(const SignedSqrtNormalizeArgs& args, int num_threads);

// One block a (sample, scope); `stream` is a cudaStream_t.
Status launch_signed_sqrt_normalize_fwd(const SignedSqrtNormalizeArgs& args, void* stream);
Status launch_signed_sqrt_normalize_bwd(const SignedSqrtNormalizeArgs& args, void* stream);

}  // namespace c2f

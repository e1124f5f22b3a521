#include "c2f/signed_sqrt_normalize.h"
#include "cuda/launch.cuh"
#include "cuda/reduce.cuh"
#include "cuda/vec.cuh"

namespace c2f {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / kWarpSize;

__device__ __forceinline__ float signed_sqrt(float p, SqrtMode mode, float eps) {
  const float a = fabsf(p);
  switch (mode) {
    case SqrtMode::kNone:
      return p;
    case SqrtMode::kShifted: {
      const float root = sqrtf(a + eps * eps);
      return copysignf(a > 0.f && a < INFINITY ? a / (root + eps) : root - eps, p);
    }
    case SqrtMode::kCaffe:
      return copysignf(sqrtf(a), p);
    case SqrtMode::kPlusEps:
      return p == 0.f ? p : copysignf(sqrtf(a + eps), p);
    case SqrtMode::kSmooth: {
      const float radius = hypotf(p, eps);
      return a < INFINITY ? p / sqrtf(radius > 0.f ? radius : 1.f) : p;
    }
  }
  return p;
}

__device__ __forceinline__ float signed_sqrt_slope(float p, SqrtMode mode, float eps) {
  const float a = fabsf(p);
  switch (mode) {
    case SqrtMode::kNone:
      return 1.f;
    case SqrtMode::kShifted:
      return 0.5f / sqrtf(a + eps * eps);
    case SqrtMode::kCaffe:
      return 0.5f / (sqrtf(a) + eps);
    case SqrtMode::kPlusEps:
      return p == 0.f ? 0.f : 0.5f / sqrtf(a + eps);
    case SqrtMode::kSmooth: {
      const float radius = hypotf(p, eps);
      const float x = p / radius, y = eps / radius;
      return (0.5f * x * x + y * y) / sqrtf(radius);
    }
  }
  return 1.f;
}

// The norm from the sum of squares, and whether clamp holds it at eps.
__device__ __forceinline__ float norm_of(float sum, const SignedSqrtNormalizeArgs& args, bool* clamped) {
  *clamped = false;
  if (args.norm_scope == NormScope::kNone) return 1.f;
  if (args.l2_mode == L2Mode::kAdd) return sqrtf(sum + args.l2_eps);
  *clamped = sum <= args.l2_eps * args.l2_eps;
  return *clamped ? args.l2_eps : sqrtf(sum);
}

// grid: one block a scope (B, or B * Q); block: 512 threads; shared: kWarps floats.
// A thread owns every 512th element of the scope; the second pass reads p from L1 or L2.
template <class T>
__global__ void __launch_bounds__(kThreads)
    signed_sqrt_normalize_fwd_kernel(const SignedSqrtNormalizeArgs args, int64_t size) {
  __shared__ float shared[kWarps];
  const float* __restrict__ p = args.p + blockIdx.x * size;
  T* __restrict__ out = static_cast<T*>(args.out) + blockIdx.x * size;
  float squares = 0.f;
  if (args.norm_scope != NormScope::kNone) {
    for (int64_t k = threadIdx.x; k < size; k += kThreads) {
      const float s = signed_sqrt(p[k], args.sqrt_mode, args.sqrt_eps);
      squares += s * s;
    }
    squares = block_sum<kWarps>(squares, shared);
  }
  bool clamped;
  const float n = norm_of(squares, args, &clamped);
  for (int64_t k = threadIdx.x; k < size; k += kThreads) {
    out[k] = from_float<T>(signed_sqrt(p[k], args.sqrt_mode, args.sqrt_eps) / n);
  }
}

// grid, block and ownership as forward.
template <class T>
__global__ void __launch_bounds__(kThreads)
    signed_sqrt_normalize_bwd_kernel(const SignedSqrtNormalizeArgs args, int64_t size) {
  __shared__ float shared[kWarps];
  const float* __restrict__ p = args.p + blockIdx.x * size;
  const T* __restrict__ d_out = static_cast<const T*>(args.d_out) + blockIdx.x * size;
  float* __restrict__ d_p = args.d_p + blockIdx.x * size;
  float squares = 0.f, dots = 0.f;
  if (args.norm_scope != NormScope::kNone) {
    for (int64_t k = threadIdx.x; k < size; k += kThreads) {
      const float s = signed_sqrt(p[k], args.sqrt_mode, args.sqrt_eps);
      squares += s * s;
      dots += s * to_float(d_out[k]);
    }
    squares = block_sum<kWarps>(squares, shared);
    dots = block_sum<kWarps>(dots, shared);
  }
  bool clamped;
  const float n = norm_of(squares, args, &clamped);
  const bool projects = args.norm_scope != NormScope::kNone && !clamped;
  const float gamma = dots / n;  // sum of z * d_out
  for (int64_t k = threadIdx.x; k < size; k += kThreads) {
    float h = to_float(d_out[k]);
    if (projects) h -= signed_sqrt(p[k], args.sqrt_mode, args.sqrt_eps) / n * gamma;
    d_p[k] = h / n * signed_sqrt_slope(p[k], args.sqrt_mode, args.sqrt_eps);
  }
}

// Elements and number of the scopes: without a norm any split works.
int64_t scope_size(const SignedSqrtNormalizeArgs& args) {
  return args.norm_scope == NormScope::kJoint ? args.Q * args.D : args.D;
}

bool is_empty(const SignedSqrtNormalizeArgs& args) { return args.B == 0 || args.Q == 0 || args.D == 0; }

}  // namespace

Status launch_signed_sqrt_normalize_fwd(const SignedSqrtNormalizeArgs& args, void* stream) {
  if (is_empty(args)) return Status();
  return with_type(args.dtype, "signed_sqrt_normalize_fwd", [&](auto type) {
    const int64_t size = scope_size(args);
    return launch("signed_sqrt_normalize_fwd", signed_sqrt_normalize_fwd_kernel<decltype(type)>,
                  args.B * args.Q * args.D / size, kThreads, 0, stream, args, size);
  });
}

Status launch_signed_sqrt_normalize_bwd(const SignedSqrtNormalizeArgs& args, void* stream) {
  if (is_empty(args)) return Status();
  return with_type(args.dtype, "signed_sqrt_normalize_bwd", [&](auto type) {
    const int64_t size = scope_size(args);
    return launch("signed_sqrt_normalize_bwd", signed_sqrt_normalize_bwd_kernel<decltype(type)>,
                  args.B * args.Q * args.D / size, kThreads, 0, stream, args, size);
  });
}

}  // namespace c2f

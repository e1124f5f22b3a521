// signed_sqrt_normalize on the CPU. Rows (one norm each) are independent tasks; a row is read two or three times from
// L2.
#include "c2f/signed_sqrt_normalize.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/half.h"
#include "cpu/thread_pool.h"

namespace c2f {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int64_t kFewValues = 1 << 14;  // so many take less time than it takes to wake another thread

// sqrt(p^2 + eps^2), safe from overflow.
inline float radius(float p, float eps) {
  const float a = std::max(std::fabs(p), eps), b = std::min(std::fabs(p), eps), ratio = a > 0 ? b / a : 0.0f;
  return p == p ? a * std::sqrt(1 + ratio * ratio) : p;
}

template <SqrtMode kMode>
inline float ssqrt(float p, float eps) {
  const float a = std::fabs(p);
  if constexpr (kMode == SqrtMode::kNone) return p;
  if constexpr (kMode == SqrtMode::kCaffe) return std::copysign(std::sqrt(a), p);
  if constexpr (kMode == SqrtMode::kPlusEps) return p == 0 ? p : std::copysign(std::sqrt(a + eps), p);
  if constexpr (kMode == SqrtMode::kShifted) {
    const float root = std::sqrt(a + eps * eps);
    return std::copysign(a > 0 && a < kInfinity ? a / (root + eps) : root - eps, p);
  }
  const float r = radius(p, eps);
  return a < kInfinity && r > 0 ? p / std::sqrt(r) : p;
}

template <SqrtMode kMode>
inline float slope(float p, float eps) {
  const float a = std::fabs(p);
  if constexpr (kMode == SqrtMode::kNone) return 1;
  if constexpr (kMode == SqrtMode::kCaffe) return 0.5f / (std::sqrt(a) + eps);
  if constexpr (kMode == SqrtMode::kPlusEps) return p == 0 ? 0 : 0.5f / std::sqrt(a + eps);
  if constexpr (kMode == SqrtMode::kShifted) return 0.5f / std::sqrt(a + eps * eps);
  const float r = radius(p, eps), x = p / r, y = eps / r;
  return (0.5f * x * x + y * y) / std::sqrt(r);
}

// Sum of term(i) over i < n: sixteen interleaved sums per block, blocks added in float64.
template <typename F>
float sum(int64_t n, F term) {
  constexpr int64_t kLanes = 16, kBlock = 1024;
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t end = std::min(n, begin + kBlock);
    float lane[kLanes] = {};
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
      for (int64_t k = 0; k < kLanes; ++k) lane[k] += term(i + k);
    }
    for (; i < end; ++i) lane[0] += term(i);
    for (float x : lane) total += x;
  }
  return static_cast<float>(total);
}

struct Norm {
  float n = 1;
  bool clamped = false;
};

template <SqrtMode kMode>
Norm norm(const SignedSqrtNormalizeArgs& args, const float* p, int64_t size) {
  if (args.norm_scope == NormScope::kNone) return {};
  const float total = sum(size, [&](int64_t i) {
    const float s = ssqrt<kMode>(p[i], args.sqrt_eps);
    return s * s;
  });
  if (args.l2_mode == L2Mode::kAdd) return {std::sqrt(total + args.l2_eps), false};
  const bool clamped = total <= args.l2_eps * args.l2_eps;
  return {clamped ? args.l2_eps : std::sqrt(total), clamped};
}

template <SqrtMode kMode, typename T>
void forward_row(const SignedSqrtNormalizeArgs& args, int64_t begin, int64_t size) {
  const float* p = args.p + begin;
  T* out = static_cast<T*>(args.out) + begin;
  const float n = norm<kMode>(args, p, size).n;
  for (int64_t i = 0; i < size; ++i) from_float(ssqrt<kMode>(p[i], args.sqrt_eps) / n, out + i);
}

template <SqrtMode kMode, typename T>
void backward_row(const SignedSqrtNormalizeArgs& args, int64_t begin, int64_t size) {
  const float* p = args.p + begin;
  const T* d_out = static_cast<const T*>(args.d_out) + begin;
  float* d_p = args.d_p + begin;
  const float eps = args.sqrt_eps;
  if (args.norm_scope == NormScope::kNone) {
    for (int64_t i = 0; i < size; ++i) d_p[i] = to_float(d_out[i]) * slope<kMode>(p[i], eps);
    return;
  }
  const Norm norm_of_row = norm<kMode>(args, p, size);
  const float n = norm_of_row.n;
  const auto z = [&](int64_t i) { return ssqrt<kMode>(p[i], eps) / n; };
  const float gamma = norm_of_row.clamped ? 0 : sum(size, [&](int64_t i) { return z(i) * to_float(d_out[i]); });
  for (int64_t i = 0; i < size; ++i) d_p[i] = (to_float(d_out[i]) - z(i) * gamma) / n * slope<kMode>(p[i], eps);
}

using RowFn = void (*)(const SignedSqrtNormalizeArgs&, int64_t begin, int64_t size);

template <SqrtMode kMode>
RowFn row_function(DType dtype, bool backward) {
  switch (dtype) {
    case DType::kBFloat16:
      return backward ? backward_row<kMode, BFloat16> : forward_row<kMode, BFloat16>;
    case DType::kFloat16:
      return backward ? backward_row<kMode, Float16> : forward_row<kMode, Float16>;
    default:
      return backward ? backward_row<kMode, float> : forward_row<kMode, float>;
  }
}

RowFn row_function(const SignedSqrtNormalizeArgs& args, bool backward) {
  switch (args.sqrt_mode) {
    case SqrtMode::kShifted:
      return row_function<SqrtMode::kShifted>(args.dtype, backward);
    case SqrtMode::kCaffe:
      return row_function<SqrtMode::kCaffe>(args.dtype, backward);
    case SqrtMode::kPlusEps:
      return row_function<SqrtMode::kPlusEps>(args.dtype, backward);
    case SqrtMode::kSmooth:
      return row_function<SqrtMode::kSmooth>(args.dtype, backward);
    default:
      return row_function<SqrtMode::kNone>(args.dtype, backward);
  }
}

Status run(const SignedSqrtNormalizeArgs& args, bool backward, int num_threads) {
  const bool joint = args.norm_scope == NormScope::kJoint;
  const int64_t rows = joint ? args.B : args.B * args.Q, size = joint ? args.Q * args.D : args.D;
  const RowFn row = row_function(args, backward);
  if (rows * size <= kFewValues) num_threads = 1;
  if (size > 0) parallel_for(rows, num_threads, [&](int64_t task, int) { row(args, task * size, size); });
  return {};
}

}  // namespace

Status run_signed_sqrt_normalize_fwd(const SignedSqrtNormalizeArgs& args, int num_threads) {
  return run(args, false, num_threads);
}

Status run_signed_sqrt_normalize_bwd(const SignedSqrtNormalizeArgs& args, int num_threads) {
  return run(args, true, num_threads);
}

}  // namespace c2f

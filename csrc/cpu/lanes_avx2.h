// Eight lanes: AVX2, FMA and F16C.
#pragma once

#include <immintrin.h>

#include "cpu/half.h"

namespace c2f {
namespace {

constexpr int kLanes = 8;

inline __m256 load_f16(const Float16* x) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x)));
}
inline void store_f16(__m256 x, Float16* out) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}
inline __m256 larger_of(__m256 a, __m256 b) { return _mm256_max_ps(a, b); }
inline float sum_of(__m256 x) {
  const __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  const __m128 pair = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
  return _mm_cvtss_f32(_mm_add_ss(pair, _mm_movehdup_ps(pair)));
}
inline float largest_of(__m256 x) {
  const __m128 quarter = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  const __m128 pair = _mm_max_ps(quarter, _mm_movehl_ps(quarter, quarter));
  return _mm_cvtss_f32(_mm_max_ss(pair, _mm_movehdup_ps(pair)));
}
// Pairs, quarters of 4 x 4, then the quarters themselves.
template <typename Vector>
void transpose(Vector* x) {
  __m256 y[8];
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    const __m256 a = _mm256_unpacklo_ps(x[i], x[i + 1]), b = _mm256_unpackhi_ps(x[i], x[i + 1]);
    const __m256 c = _mm256_unpacklo_ps(x[i + 2], x[i + 3]), d = _mm256_unpackhi_ps(x[i + 2], x[i + 3]);
    y[i] = _mm256_shuffle_ps(a, c, 0x44);
    y[i + 1] = _mm256_shuffle_ps(a, c, 0xee);
    y[i + 2] = _mm256_shuffle_ps(b, d, 0x44);
    y[i + 3] = _mm256_shuffle_ps(b, d, 0xee);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    x[i] = _mm256_permute2f128_ps(y[i], y[i + 4], 0x20);
    x[i + 4] = _mm256_permute2f128_ps(y[i], y[i + 4], 0x31);
  }
}
inline int append_equal(const int32_t* x, int32_t value, int32_t base, int32_t* out) {
  const __m256i equal =
      _mm256_cmpeq_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)), _mm256_set1_epi32(value));
  int count = 0;
  for (int mask = _mm256_movemask_ps(_mm256_castsi256_ps(equal)); mask != 0; mask &= mask - 1) {
    out[count++] = base + __builtin_ctz(static_cast<unsigned>(mask));
  }
  return count;
}

#include "cpu/lanes_body.h"

}  // namespace
}  // namespace c2f

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
inline int append_equal(const int32_t* x, int32_t value, int32_t base, int32_t* out) {
  const __m256i equal = _mm256_cmpeq_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)),
                                           _mm256_set1_epi32(value));
  int count = 0;
  for (int mask = _mm256_movemask_ps(_mm256_castsi256_ps(equal)); mask != 0; mask &= mask - 1) {
    out[count++] = base + __builtin_ctz(static_cast<unsigned>(mask));
  }
  return count;
}

#include "cpu/lanes_body.h"

}  // namespace
}  // namespace c2f

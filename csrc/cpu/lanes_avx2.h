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
inline unsigned equal_mask(const int32_t* x, int32_t value) {
  const __m256i equal = _mm256_cmpeq_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)),
                                           _mm256_set1_epi32(value));
  return static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(equal)));
}

#include "cpu/lanes_body.h"

}  // namespace
}  // namespace c2f

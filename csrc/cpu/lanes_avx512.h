// Sixteen lanes: AVX-512 F, BW, DQ, VL. Rows that end within a vector take masked loads and stores.
#pragma once

#include <immintrin.h>

#include "cpu/half.h"

namespace c2f {
namespace {

constexpr int kLanes = 16;

// The masked forms spare GCC 12's false "may be used uninitialized".
inline __m512 load_f16(const Float16* x) {
  return _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)));
}
inline void store_f16(__m512 x, Float16* out) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm512_maskz_cvtps_ph(0xffff, x, _MM_FROUND_TO_NEAREST_INT));
}
inline unsigned equal_mask(const int32_t* x, int32_t value) {
  return _mm512_cmpeq_epi32_mask(_mm512_loadu_si512(x), _mm512_set1_epi32(value));
}

inline __mmask16 lane_mask(int64_t n) { return static_cast<__mmask16>((1u << n) - 1); }

inline __m512 load_first(const float* x, int64_t n, float fill) {
  return _mm512_mask_loadu_ps(_mm512_set1_ps(fill), lane_mask(n), x);
}
inline __m512 load_first(const Float16* x, int64_t n, float fill) {
  return _mm512_mask_cvtph_ps(_mm512_set1_ps(fill), lane_mask(n), _mm256_maskz_loadu_epi16(lane_mask(n), x));
}
inline __m512 load_first(const BFloat16* x, int64_t n, float fill) {
  const __m512i wide = _mm512_maskz_cvtepu16_epi32(0xffff, _mm256_maskz_loadu_epi16(lane_mask(n), x));
  return _mm512_castsi512_ps(_mm512_mask_slli_epi32(_mm512_castps_si512(_mm512_set1_ps(fill)), lane_mask(n), wide, 16));
}
inline void store_first(__m512 x, int64_t n, float* out) { _mm512_mask_storeu_ps(out, lane_mask(n), x); }

#include "cpu/lanes_body.h"

}  // namespace
}  // namespace c2f

// Sixteen lanes: AVX-512 F, BW, DQ, VL. Rows that end within a vector take masked loads and stores.
#pragma once

#ifndef __clang__  // GCC 12 warns of its own headers: unmasked intrinsics pass an undefined register
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

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
inline __m512 larger_of(__m512 a, __m512 b) { return _mm512_maskz_max_ps(0xffff, a, b); }
inline float sum_of(__m512 x) {
  const __m256 half = _mm256_add_ps(_mm512_maskz_extractf32x8_ps(0xff, x, 0), _mm512_maskz_extractf32x8_ps(0xff, x, 1));
  const __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  const __m128 pair = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
  return _mm_cvtss_f32(_mm_add_ss(pair, _mm_movehdup_ps(pair)));
}
inline float largest_of(__m512 x) {
  const __m256 half = _mm256_max_ps(_mm512_maskz_extractf32x8_ps(0xff, x, 0), _mm512_maskz_extractf32x8_ps(0xff, x, 1));
  const __m128 quarter = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  const __m128 pair = _mm_max_ps(quarter, _mm_movehl_ps(quarter, quarter));
  return _mm_cvtss_f32(_mm_max_ss(pair, _mm_movehdup_ps(pair)));
}
// Pairs, quarters of 4 x 4, then the quarters themselves. `Vector`: 64 bytes of any kind, moved as 32-bit lanes.
template <typename Vector>
void transpose(Vector* x) {
  __m512i y[16];
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    const auto a = _mm512_unpacklo_epi32((__m512i)x[i], (__m512i)x[i + 1]);
    const auto b = _mm512_unpackhi_epi32((__m512i)x[i], (__m512i)x[i + 1]);
    const auto c = _mm512_unpacklo_epi32((__m512i)x[i + 2], (__m512i)x[i + 3]);
    const auto d = _mm512_unpackhi_epi32((__m512i)x[i + 2], (__m512i)x[i + 3]);
    y[i] = _mm512_unpacklo_epi64(a, c);
    y[i + 1] = _mm512_unpackhi_epi64(a, c);
    y[i + 2] = _mm512_unpacklo_epi64(b, d);
    y[i + 3] = _mm512_unpackhi_epi64(b, d);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const auto a = _mm512_shuffle_i32x4(y[i], y[i + 4], 0x88), b = _mm512_shuffle_i32x4(y[i], y[i + 4], 0xdd);
    const auto c = _mm512_shuffle_i32x4(y[i + 8], y[i + 12], 0x88);
    const auto d = _mm512_shuffle_i32x4(y[i + 8], y[i + 12], 0xdd);
    x[i] = (Vector)_mm512_shuffle_i32x4(a, c, 0x88);
    x[i + 4] = (Vector)_mm512_shuffle_i32x4(b, d, 0x88);
    x[i + 8] = (Vector)_mm512_shuffle_i32x4(a, c, 0xdd);
    x[i + 12] = (Vector)_mm512_shuffle_i32x4(b, d, 0xdd);
  }
}
inline int append_equal(const int32_t* x, int32_t value, int32_t base, int32_t* out) {
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __mmask16 equal = _mm512_cmpeq_epi32_mask(_mm512_loadu_si512(x), _mm512_set1_epi32(value));
  _mm512_storeu_si512(out, _mm512_maskz_compress_epi32(equal, _mm512_add_epi32(lane, _mm512_set1_epi32(base))));
  return __builtin_popcount(equal);
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

inline void store_first(Vec x, int64_t n, BFloat16* out) {
  alignas(32) BFloat16 lanes[kLanes];
  store(x, lanes);
  _mm256_mask_storeu_epi16(out, lane_mask(n), _mm256_load_si256(reinterpret_cast<const __m256i*>(lanes)));
}
inline void store_first(Vec x, int64_t n, Float16* out) {
  _mm256_mask_storeu_epi16(out, lane_mask(n), _mm512_maskz_cvtps_ph(0xffff, x, _MM_FROUND_TO_NEAREST_INT));
}

}  // namespace
}  // namespace c2f

// AVX2, FMA and F16C: 6 x 16 register tile, 12 accumulators, 2 registers of B, 2 of A.
#include <immintrin.h>

#include <utility>

#include "cpu/half.h"
#include "cpu/kernels.h"

namespace c2f {
namespace {

constexpr int kLanes = 8, kMr = 6;

__m256 load_f16(const Float16* x) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x))); }
void store_f16(__m256 x, Float16* out) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}

#include "cpu/kernels_body.h"

}  // namespace

const Kernels kKernelsAvx2 = make_kernels("avx2", std::make_integer_sequence<int, kMr>());

}  // namespace c2f

// AVX-512: 14 x 32 register tile, 28 accumulators, 2 registers of B, 2 of A.
#include <immintrin.h>

#include <utility>

#include "cpu/half.h"
#include "cpu/kernels.h"

namespace c2f {
namespace {

constexpr int kLanes = 16, kMr = 14;

// The masked forms spare GCC 12's false "may be used uninitialized".
__m512 load_f16(const Float16* x) {
  return _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)));
}
void store_f16(__m512 x, Float16* out) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm512_maskz_cvtps_ph(0xffff, x, _MM_FROUND_TO_NEAREST_INT));
}

#include "cpu/kernels_body.h"

}  // namespace

const Kernels kKernelsAvx512 = make_kernels("avx512", std::make_integer_sequence<int, kMr>());

}  // namespace c2f

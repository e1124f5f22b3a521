// AVX-512: 14 x 32 register tile, 28 accumulators, 2 registers of B, 2 of A.
#include <utility>

#include "cpu/kernels.h"
#include "cpu/lanes_avx512.h"

namespace c2f {
namespace {

constexpr int kMr = 14;

#include "cpu/products_body.h"
// Last: uses kNr and copy of products_body.h.
#include "cpu/kernels_body.h"

}  // namespace

const Kernels kKernelsAvx512 = make_kernels("avx512", std::make_integer_sequence<int, kMr>());

}  // namespace c2f

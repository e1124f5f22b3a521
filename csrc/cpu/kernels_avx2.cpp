// AVX2, FMA and F16C: 6 x 16 register tile, 12 accumulators, 2 registers of B, 2 of A.
#include <utility>

#include "cpu/kernels.h"
#include "cpu/lanes_avx2.h"

namespace c2f {
namespace {

constexpr int kMr = 6;

#include "cpu/products_body.h"
// Last: uses kNr and copy of products_body.h.
#include "cpu/kernels_body.h"

}  // namespace

const Kernels kKernelsAvx2 = make_kernels("avx2", std::make_integer_sequence<int, kMr>());

}  // namespace c2f

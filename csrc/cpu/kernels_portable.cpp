// Any processor: 4 x 8 register tile on four-wide vectors, which fits 16 registers (SSE2) and 32 (NEON).
#include <utility>

#include "cpu/half.h"
#include "cpu/kernels.h"

namespace c2f {
namespace {

constexpr int kLanes = 4, kMr = 4;
using Float4 = float __attribute__((vector_size(16), aligned(4), may_alias));

Float4 load_f16(const Float16* x) { return Float4{to_float(x[0]), to_float(x[1]), to_float(x[2]), to_float(x[3])}; }
void store_f16(Float4 x, Float16* out) {
  for (int i = 0; i < kLanes; ++i) from_float(x[i], out + i);
}

#include "cpu/kernels_body.h"

}  // namespace

const Kernels kKernelsPortable = make_kernels("portable", std::make_integer_sequence<int, kMr>());

}  // namespace c2f

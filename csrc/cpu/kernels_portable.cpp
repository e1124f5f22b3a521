// Any processor: 4 x 8 register tile on four-wide vectors, which fits 16 registers (SSE2) and 32 (NEON).
#include <utility>

#include "cpu/kernels.h"
#include "cpu/lanes_portable.h"

namespace c2f {
namespace {

constexpr int kMr = 4;

#include "cpu/products_body.h"
// Last: uses kNr and copy of products_body.h.
#include "cpu/kernels_body.h"

}  // namespace

const Kernels kKernelsPortable = make_kernels("portable", std::make_integer_sequence<int, kMr>());

}  // namespace c2f

// What the processor could do: the multiply-adds of a register tile of the CPU kernels, without memory.
#pragma once

#include "c2f/common.h"

namespace c2f {

// Multiplies in registers on every thread, `rounds` times a tile, as multilinear_pool would multiply operands of this type. Returns
// the flops done: of several products that make one, only one counts.
double run_cpu_peak(DType dtype, MatmulPrecision precision, int64_t rounds, int num_threads);

}  // namespace c2f

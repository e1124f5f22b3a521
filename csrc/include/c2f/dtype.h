// Kinds of numbers in kernel contracts. No functions: tables of CPU kernels include this (cpu/kernels.h).
#pragma once

#include <cstdint>

namespace c2f {

// Storage types a kernel reads and writes. Arithmetic is float32 throughout; float64 belongs to the Python reference.
enum class DType : int32_t { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2 };

// How exactly products of float32 matrices are wanted, the values of torch.get_float32_matmul_precision(): to float32,
// to three products of bfloat16 or TF32, to bfloat16. Where there is no such faster way, to float32.
enum class MatmulPrecision : int32_t { kHighest = 0, kHigh = 1, kMedium = 2 };

}  // namespace c2f

#include "cpu/kernels.h"

#include "cpu/cpu_features.h"

namespace c2f {

const Kernels& cpu_kernels() {
#if C2F_HAS_AVX512
  if (cpu_isa() >= Isa::kAvx512) return kKernelsAvx512;
#endif
#if C2F_HAS_AVX2
  if (cpu_isa() >= Isa::kAvx2) return kKernelsAvx2;
#endif
  return kKernelsPortable;
}

const Kernels& cpu_kernels([[maybe_unused]] DType dtype, [[maybe_unused]] MatmulPrecision precision) {
  [[maybe_unused]] const bool wide = dtype == DType::kFloat32;
  [[maybe_unused]] const bool one_plane = dtype == DType::kBFloat16 || (wide && precision == MatmulPrecision::kMedium);
#if C2F_HAS_AMX
  if (cpu_isa() >= Isa::kAmx) {
    if (one_plane) return kKernelsAmx;
    if (wide && precision == MatmulPrecision::kHigh) return kKernelsAmxSplit;
    if (dtype == DType::kFloat16) return kKernelsAmxExact;
  }
#endif
#if C2F_HAS_AVX512_BF16
  if (cpu_isa() >= Isa::kAvx512Bf16 && one_plane) return kKernelsAvx512Bf16;
#endif
  return cpu_kernels();
}

}  // namespace c2f

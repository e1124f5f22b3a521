// bfloat16 and float16 with the conversions of the CPU kernels.
#pragma once

#include <cstdint>
#include <cstring>

namespace emulation {
#include "cpu/half.h"
}  // namespace emulation

struct __nv_bfloat16 {
  uint16_t bits;
};
struct __half {
  uint16_t bits;
};

inline float __bfloat162float(__nv_bfloat16 x) { return emulation::c2f::to_float(emulation::c2f::BFloat16{x.bits}); }
inline float __half2float(__half x) { return emulation::c2f::to_float(emulation::c2f::Float16{x.bits}); }
inline __nv_bfloat16 __float2bfloat16(float x) {
  emulation::c2f::BFloat16 rounded;
  emulation::c2f::from_float(x, &rounded);
  return {rounded.bits};
}
inline __half __float2half(float x) {
  emulation::c2f::Float16 rounded;
  emulation::c2f::from_float(x, &rounded);
  return {rounded.bits};
}
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return x.bits; }
inline unsigned short __half_as_ushort(__half x) { return x.bits; }
inline __half __ushort_as_half(unsigned short bits) { return {bits}; }

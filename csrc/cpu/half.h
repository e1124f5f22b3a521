// Scalar conversions between float32 and the 16-bit storage types, to nearest even. They give the bits that F16C and
// AVX-512 give, NaN payloads apart, and hold under any denormal mode. Internal linkage: the copies compiled for an
// instruction set stay in their object.
#pragma once

#include <cstdint>
#include <cstring>

namespace c2f {

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

static inline uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}

static inline float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

static inline float to_float(float x) { return x; }

static inline float to_float(BFloat16 x) { return float_of(uint32_t{x.bits} << 16); }

static inline float to_float(Float16 x) {
  const uint32_t sign = uint32_t{x.bits & 0x8000u} << 16, exponent = (x.bits >> 10) & 31, mantissa = x.bits & 1023;
  if (exponent == 0) return float_of(sign | bits_of(static_cast<float>(mantissa) * 0x1p-24f));
  return float_of(sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | mantissa << 13);
}

static inline void from_float(float x, float* out) { *out = x; }

static inline void from_float(float x, BFloat16* out) {
  const uint32_t bits = bits_of(x);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  out->bits = static_cast<uint16_t>(x == x ? rounded : (bits >> 16) | 0x40);
}

static inline void from_float(float x, Float16* out) {
  const uint32_t sign = (bits_of(x) >> 16) & 0x8000, magnitude = bits_of(x) & 0x7fffffff;
  uint32_t half;
  if (magnitude > 0x7f800000) {
    half = 0x7e00;
  } else if (magnitude >= bits_of(65520.0f)) {
    half = 0x7c00;
  } else if (magnitude < bits_of(0x1p-14f)) {  // one float32 addition rounds to multiples of 2^-24
    half = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
  } else {
    half = (magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  }
  out->bits = static_cast<uint16_t>(sign | half);
}

}  // namespace c2f

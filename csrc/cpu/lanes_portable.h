// Four lanes: SSE2, NEON, or whatever the compiler makes of them.
#pragma once

#include "cpu/half.h"

namespace c2f {
namespace {

constexpr int kLanes = 4;
using Float4 = float __attribute__((vector_size(16), aligned(4), may_alias));

inline Float4 load_f16(const Float16* x) {
  return Float4{to_float(x[0]), to_float(x[1]), to_float(x[2]), to_float(x[3])};
}
inline void store_f16(Float4 x, Float16* out) {
  for (int i = 0; i < kLanes; ++i) from_float(x[i], out + i);
}
inline unsigned equal_mask(const int32_t* x, int32_t value) {
  unsigned mask = 0;
  for (int i = 0; i < kLanes; ++i) mask |= unsigned{x[i] == value} << i;
  return mask;
}

#include "cpu/lanes_body.h"

}  // namespace
}  // namespace c2f

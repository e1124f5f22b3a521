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
inline Float4 larger_of(Float4 a, Float4 b) { return a > b ? a : b; }
inline float sum_of(Float4 x) { return (x[0] + x[2]) + (x[1] + x[3]); }
inline float largest_of(Float4 x) {
  float largest = x[0];
  for (int i = 1; i < kLanes; ++i) largest = x[i] > largest ? x[i] : largest;
  return largest;
}
inline void transpose(Float4* x) {
  for (int i = 0; i < kLanes; ++i) {
    for (int j = 0; j < i; ++j) {
      const float below = x[i][j];
      x[i][j] = x[j][i];
      x[j][i] = below;
    }
  }
}
inline int append_equal(const int32_t* x, int32_t value, int32_t base, int32_t* out) {
  int count = 0;
  for (int i = 0; i < kLanes; ++i) {
    out[count] = base + i;
    count += x[i] == value;
  }
  return count;
}

#include "cpu/lanes_body.h"

}  // namespace
}  // namespace c2f

// What a tensor map describes. Plain C++.
#pragma once

#include <cstdint>

namespace c2f {

// A 16-bit operand as four dimensions, the first one contiguous; strides of the others in bytes. A box is box[0] = 64
// elements (the 128 bytes of the swizzle) by 1 by `rows` by 1.
struct TensorView {
  const void* data;
  int64_t size[4];
  int64_t stride[3];
  int rows;
};

// What the driver demands: 16-byte aligned address and strides, sizes of at least 1.
inline bool can_map(const TensorView& view) {
  bool fits = reinterpret_cast<uintptr_t>(view.data) % 16 == 0;
  for (const int64_t size : view.size) fits = fits && 1 <= size && size <= int64_t{1} << 32;
  for (const int64_t stride : view.stride) fits = fits && stride % 16 == 0 && 0 < stride && stride < int64_t{1} << 40;
  return fits;
}

}  // namespace c2f

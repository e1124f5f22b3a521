// What copies (hopper.cpp) and products (wgmma.cpp) know of each other: the shared memory that they use.
#pragma once

#include <cstdint>

namespace emulation {

constexpr uint32_t kRowBytes = 128, kAtomBytes = 1024;  // of the 128-byte swizzle
inline uint32_t swizzled(uint32_t address) { return address ^ (address / kRowBytes % 8) << 4; }

// Bytes of a block's shared memory.
struct Range {
  uint32_t begin, end;
  bool meets(Range other) const { return begin < other.end && other.begin < end; }
};

bool leaves_out(const char* step);  // see sabotage

// Whether a copy into some of the range has not landed, a product that reads some of it has not been waited for.
bool arriving(int block, Range range);
bool being_read(int block, Range range);

void begin_products();
void end_products();

}  // namespace emulation

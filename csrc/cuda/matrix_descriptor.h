// How wgmma finds a 16-bit operand in shared memory: the 64-bit descriptor (PTX ISA, "Matrix descriptor" of wgmma), for
// rows of 128 bytes with the 128-byte swizzle that the tensor map writes (16-byte unit u of row r lies at u ^ r % 8).
//
// An operand is K (16 channels) by M or N. Either the elements of a row run along M or N ("MN-major": weights; features
// with contiguous positions) or along K ("K-major": features with contiguous channels).
//
//   bits  0-13  address / 16 of the first row; atoms of 8 rows start at multiples of 1024 bytes, so that the base
//               offset (bits 49-51) is 0, also after a step along K inside an atom
//   bits 16-29  leading dimension byte offset / 16. MN-major: from one 64 of M or N to the next.
//               K-major with a swizzle: not used (1)
//   bits 32-45  stride dimension byte offset / 16. MN-major: from 8 channels to the next 8.
//               K-major: from 8 rows of M or N to the next 8. Both 1024 here
//   bits 62-63  1: 128-byte swizzle
#pragma once

#include <cstdint>

namespace c2f {

inline constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;

constexpr uint64_t matrix_descriptor(uint32_t address, uint32_t leading_bytes, uint32_t stride_bytes) {
  return kSwizzle128 | uint64_t{stride_bytes >> 4} << 32 | uint64_t{leading_bytes >> 4} << 16 |
         (address & 0x3ffffu) >> 4;
}

// Rows of 64 elements of M or N, one row a channel; the next 64 elements `panel_bytes` further. N may end inside the
// last 64: the operand is made of 8 x 8 matrices, each with its own address. The manual draws whole spans only; the
// tests of NVIDIA's Fuser run every N with a padded last span on hardware.
constexpr uint64_t mn_major_descriptor(uint32_t address, uint32_t panel_bytes) {
  return matrix_descriptor(address, panel_bytes, 1024);
}
// Rows of 64 channels, one row an element of M or N.
constexpr uint64_t k_major_descriptor(uint32_t address) { return matrix_descriptor(address, 16, 1024); }

// What 16 channels further means for the address: 16 rows, or 32 bytes inside the rows (the swizzle is a function of
// the address, so it needs no more than that).
inline constexpr uint32_t kMnMajorStep = 16 * 128, kKMajorStep = 32;

}  // namespace c2f

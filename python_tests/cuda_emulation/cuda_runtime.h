// Stands in for CUDA's header: a block of CUDA threads as fibers of one CPU thread.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)

namespace emulation {
[[noreturn]] void fail(const char* what);
}

struct float2 {
  float x, y;
};
struct alignas(8) uint2 {
  uint32_t x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct EmulatedIndex {
  unsigned x;
};

inline int __ffs(int x) { return __builtin_ffs(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
template <class T>
void __stwb(T* target, T value) {
  if (reinterpret_cast<uintptr_t>(target) % sizeof(T) != 0) emulation::fail("misaligned vector store");
  *target = value;
}
template <class T>
T min(T a, T b) {
  return a < b ? a : b;
}
template <class T>
T max(T a, T b) {
  return a < b ? b : a;
}
inline float __uint_as_float(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}
inline uint32_t __float_as_uint(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}

inline int __float_as_int(float x) { return static_cast<int>(__float_as_uint(x)); }
inline float __int_as_float(int bits) { return __uint_as_float(static_cast<uint32_t>(bits)); }

namespace emulation {

inline constexpr int kWarpSize = 32;
inline constexpr int kPayloadBytes = 64;

// The 32 lanes of a warp meet in `operation`: the last to arrive calls combine(inputs of all lanes, outputs of all
// lanes). Every lane waits, then finds its output in `payload`. `operation` must be the same for all lanes.
using Combine = void (*)(const unsigned char (*inputs)[kPayloadBytes], unsigned char (*outputs)[kPayloadBytes]);
void meet_warp(const char* operation, Combine combine, void* payload, int bytes);
void meet_block();

// Runs body(argument) on `threads` fibers of each of the `cluster` blocks from `first_block` on.
void run_cluster(unsigned first_block, int cluster, int threads, int64_t shared_bytes, void (*body)(void*),
                 void* argument);

unsigned char* dynamic_shared();

extern int64_t shared_limit;  // bytes of shared memory that a block can have

// Asynchronous copies of the running thread.
void copy_later(void* target, const void* source, int bytes, int filled);
void commit();
void wait(int pending);

}  // namespace emulation

extern EmulatedIndex threadIdx, blockIdx;

inline void __syncthreads() { emulation::meet_block(); }
inline void __syncwarp() {
  char nothing = 0;
  emulation::meet_warp(
      "syncwarp", [](const unsigned char (*)[emulation::kPayloadBytes], unsigned char (*)[emulation::kPayloadBytes]) {},
      &nothing, 1);
}

// T: float or int.
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int offset) {
  if (mask != 0xffffffffu) emulation::fail("only full warps are emulated");
  struct Payload {
    T value;
    int offset;
  } payload{value, offset};
  emulation::meet_warp(
      "shfl_xor",
      [](const unsigned char (*inputs)[emulation::kPayloadBytes], unsigned char (*outputs)[emulation::kPayloadBytes]) {
        for (int lane = 0; lane < emulation::kWarpSize; ++lane) {
          Payload own;
          std::memcpy(&own, inputs[lane], sizeof(own));
          std::memcpy(outputs[lane], inputs[lane ^ own.offset], sizeof(own));
        }
      },
      &payload, sizeof(payload));
  return payload.value;
}

// Replaces csrc/cuda/mma_sm80.cuh: the same functions, by the element layouts that the PTX manual gives.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace c2f {

using Inputs = const unsigned char (*)[emulation::kPayloadBytes];
using Outputs = unsigned char (*)[emulation::kPayloadBytes];

inline float exp2_approx(float x) { return exp2f(x); }

template <int kBytes>
void copy_async(void* shared, const void* global, int bytes) {
  static_assert(kBytes == 8 || kBytes == 16);
  if (reinterpret_cast<uintptr_t>(shared) % kBytes != 0) emulation::fail("cp.async: misaligned shared address");
  if (reinterpret_cast<uintptr_t>(global) % kBytes != 0) emulation::fail("cp.async: misaligned global address");
  if (bytes < 0 || bytes > kBytes) emulation::fail("cp.async: more bytes than the copy has");
  emulation::copy_later(shared, global, bytes, kBytes);
}

inline void copy_async_commit() { emulation::commit(); }

template <int kPending>
void copy_async_wait() {
  emulation::wait(kPending);
}

// Tile k of kTiles: row r is at the address that lane 8 k + r gave.
template <int kTiles, bool kTranspose>
void load_matrix(uint32_t* out, const void* row) {
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0) emulation::fail("ldmatrix: misaligned row");
  unsigned char payload[16] = {};
  std::memcpy(payload, &row, sizeof(row));
  emulation::meet_warp(
      kTranspose ? "ldmatrix.trans" : "ldmatrix",
      [](Inputs inputs, Outputs outputs) {
        for (int lane = 0; lane < emulation::kWarpSize; ++lane) {
          for (int tile = 0; tile < kTiles; ++tile) {
            uint16_t pair[2];
            for (int e = 0; e < 2; ++e) {
              const int across = lane % 4 * 2 + e, down = lane / 4;
              const int r = kTranspose ? across : down, c = kTranspose ? down : across;
              const uint16_t* source;
              std::memcpy(&source, inputs[tile * 8 + r], sizeof(source));
              pair[e] = source[c];
            }
            std::memcpy(outputs[lane] + 4 * tile, pair, 4);
          }
        }
      },
      payload, sizeof(payload));
  std::memcpy(out, payload, 4 * kTiles);
}

template <bool kTranspose>
void load_matrix_x4(uint32_t (&out)[4], const void* row) {
  load_matrix<4, kTranspose>(out, row);
}
template <bool kTranspose>
void load_matrix_x2(uint32_t (&out)[2], const void* row) {
  load_matrix<2, kTranspose>(out, row);
}

inline uint32_t square_bf16x2(uint32_t x) {
  uint32_t result = 0;
  for (int shift = 0; shift < 32; shift += 16) {
    const float value = __bfloat162float(__nv_bfloat16{static_cast<uint16_t>(x >> shift)});
    result |= static_cast<uint32_t>(__float2bfloat16(value * value).bits) << shift;
  }
  return result;
}

template <class T>
void mma_16816(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  struct Payload {
    float c[4];
    uint32_t a[4], b[2];
  } payload;
  std::memcpy(payload.c, c, sizeof(c));
  std::memcpy(payload.a, a, sizeof(a));
  std::memcpy(payload.b, b, sizeof(b));
  static_assert(sizeof(payload) <= emulation::kPayloadBytes);
  emulation::meet_warp(
      "mma",
      [](Inputs inputs, Outputs outputs) {
        float a[16][16], b[16][8];
        const auto value = [](uint32_t word, int e) {
          T x;
          x.bits = static_cast<uint16_t>(e == 0 ? word : word >> 16);
          if constexpr (sizeof(T) == sizeof(__half) && std::is_same_v<T, __half>) {
            return __half2float(x);
          } else {
            return __bfloat162float(x);
          }
        };
        for (int lane = 0; lane < emulation::kWarpSize; ++lane) {
          Payload in;
          std::memcpy(&in, inputs[lane], sizeof(in));
          const int g = lane / 4, t = lane % 4;
          for (int e = 0; e < 2; ++e) {
            a[g][2 * t + e] = value(in.a[0], e);
            a[g + 8][2 * t + e] = value(in.a[1], e);
            a[g][2 * t + 8 + e] = value(in.a[2], e);
            a[g + 8][2 * t + 8 + e] = value(in.a[3], e);
            b[2 * t + e][g] = value(in.b[0], e);
            b[2 * t + 8 + e][g] = value(in.b[1], e);
          }
        }
        for (int lane = 0; lane < emulation::kWarpSize; ++lane) {
          Payload in;
          std::memcpy(&in, inputs[lane], sizeof(in));
          for (int r = 0; r < 2; ++r) {
            for (int e = 0; e < 2; ++e) {
              float sum = in.c[2 * r + e];
              for (int k = 0; k < 16; ++k) sum += a[lane / 4 + 8 * r][k] * b[k][lane % 4 * 2 + e];
              in.c[2 * r + e] = sum;
            }
          }
          std::memcpy(outputs[lane], &in, sizeof(in));
        }
      },
      &payload, sizeof(payload));
  std::memcpy(c, payload.c, sizeof(c));
}

}  // namespace c2f

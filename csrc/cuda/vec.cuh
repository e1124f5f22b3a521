// Storage types and vector access: arithmetic is float32, memory is float32, bfloat16 or float16.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <string>

#include "c2f/common.h"

namespace c2f {

// Calls launch_as(T{}) for the storage type T of `dtype`.
template <class LaunchAs>
Status with_type(DType dtype, const char* op, LaunchAs launch_as) {
  switch (dtype) {
    case DType::kFloat32:
      return launch_as(float{});
    case DType::kBFloat16:
      return launch_as(__nv_bfloat16{});
    case DType::kFloat16:
      return launch_as(__half{});
  }
  return Status::error(std::string(op) + ": unknown dtype");
}

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }

template <class T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float x) {
  return __float2bfloat16(x);
}
template <>
__device__ __forceinline__ __half from_float<__half>(float x) {
  return __float2half(x);
}

// Two 16-bit values in one 32-bit word, the first in the low half.
template <class T>
__device__ __forceinline__ uint32_t pack2(float low, float high);
template <>
__device__ __forceinline__ uint32_t pack2<__nv_bfloat16>(float low, float high) {
  return static_cast<uint32_t>(__bfloat16_as_ushort(__float2bfloat16(low))) |
         static_cast<uint32_t>(__bfloat16_as_ushort(__float2bfloat16(high))) << 16;
}
template <>
__device__ __forceinline__ uint32_t pack2<__half>(float low, float high) {
  return static_cast<uint32_t>(__half_as_ushort(__float2half(low))) |
         static_cast<uint32_t>(__half_as_ushort(__float2half(high))) << 16;
}

template <class T>
__device__ __forceinline__ float2 unpack2(uint32_t word);
template <>
__device__ __forceinline__ float2 unpack2<__nv_bfloat16>(uint32_t word) {
  return make_float2(__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u));
}
template <>
__device__ __forceinline__ float2 unpack2<__half>(uint32_t word) {
  return make_float2(__half2float(__ushort_as_half(static_cast<unsigned short>(word & 0xffffu))),
                     __half2float(__ushort_as_half(static_cast<unsigned short>(word >> 16))));
}

// One access of kBytes.
template <int kBytes>
struct Words;
template <>
struct Words<4> {
  using Type = uint32_t;
};
template <>
struct Words<8> {
  using Type = uint2;
};
template <>
struct Words<16> {
  using Type = uint4;
};

// kVec consecutive values as floats; one access, aligned to its size, where kVec > 1.
template <int kVec, class T>
__device__ __forceinline__ void load_vec(const T* __restrict__ source, float (&out)[kVec]) {
  if constexpr (kVec == 1) {
    out[0] = to_float(*source);
  } else {
    using Access = typename Words<kVec * sizeof(T)>::Type;
    const Access access = *reinterpret_cast<const Access*>(source);
    uint32_t words[sizeof(Access) / 4];
    memcpy(words, &access, sizeof(Access));
#pragma unroll
    for (int k = 0; k < static_cast<int>(sizeof(Access) / 4); ++k) {
      if constexpr (sizeof(T) == 4) {
        out[k] = __uint_as_float(words[k]);
      } else {
        const float2 pair = unpack2<T>(words[k]);
        out[2 * k] = pair.x;
        out[2 * k + 1] = pair.y;
      }
    }
  }
}

template <int kVec, class T>
__device__ __forceinline__ void store_vec(T* __restrict__ target, const float (&in)[kVec]) {
  if constexpr (kVec == 1) {
    *target = from_float<T>(in[0]);
  } else {
    using Access = typename Words<kVec * sizeof(T)>::Type;
    uint32_t words[sizeof(Access) / 4];
#pragma unroll
    for (int k = 0; k < static_cast<int>(sizeof(Access) / 4); ++k) {
      if constexpr (sizeof(T) == 4) {
        words[k] = __float_as_uint(in[k]);
      } else {
        words[k] = pack2<T>(in[2 * k], in[2 * k + 1]);
      }
    }
    // The intrinsic, because the compiler takes a plain assignment apart into words.
    if constexpr (sizeof(Access) == 16) {
      __stwb(reinterpret_cast<uint4*>(target), make_uint4(words[0], words[1], words[2], words[3]));
    } else if constexpr (sizeof(Access) == 8) {
      __stwb(reinterpret_cast<uint2*>(target), make_uint2(words[0], words[1]));
    } else {
      *reinterpret_cast<uint32_t*>(target) = words[0];
    }
  }
}

// Whether every kBytes access to rows of `stride` elements that start at `pointer` is aligned.
template <class T>
bool is_aligned(const T* pointer, int64_t stride, int64_t element_bytes, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0 && stride * element_bytes % bytes == 0;
}

}  // namespace c2f

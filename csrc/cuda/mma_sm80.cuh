// Instructions of sm_80 and later that CUDA has no function for: tensor cores, asynchronous copies, 2^x without
// denormals. The only inline assembly.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace c2f {

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// 2^x within 2 ulp; 0 where it is below 2^-126.
__device__ __forceinline__ float exp2_approx(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

// Starts a copy of kBytes (8 or 16, both sides aligned to it) to shared memory: `bytes` <= kBytes are read, the rest is
// zero.
template <int kBytes>
__device__ __forceinline__ void copy_async(void* shared, const void* global, int bytes) {
  static_assert(kBytes == 8 || kBytes == 16);
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(bytes)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(bytes)
                 : "memory");
  }
}

// Closes the group of copies that this thread started since the last commit.
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most kPending of this thread's groups are still in flight.
template <int kPending>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Four 8 x 8 tiles of 16-bit values. Lane l gives the address of row l % 8 of tile l / 8 (16 bytes, aligned) and
// receives of tile k in out[k] the elements (l / 4, l % 4 * 2 + {0, 1}); kTranspose: (l % 4 * 2 + {0, 1}, l / 4).
template <bool kTranspose>
__device__ __forceinline__ void load_matrix_x4(uint32_t (&out)[4], const void* row) {
  if constexpr (kTranspose) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(shared_address(row))
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(shared_address(row))
                 : "memory");
  }
}

// The same for two tiles; the addresses of lanes 16 to 31 are not used, but must be valid.
template <bool kTranspose>
__device__ __forceinline__ void load_matrix_x2(uint32_t (&out)[2], const void* row) {
  if constexpr (kTranspose) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(out[0]), "=r"(out[1])
                 : "r"(shared_address(row))
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(out[0]), "=r"(out[1])
                 : "r"(shared_address(row))
                 : "memory");
  }
}

// Squares of two bfloat16 in one word, rounded to bfloat16.
__device__ __forceinline__ uint32_t square_bf16x2(uint32_t x) {
  uint32_t result;
  asm("fma.rn.bf16x2 %0, %1, %1, %2;" : "=r"(result) : "r"(x), "r"(0x80008000u));  // x x + (-0)
  return result;
}

// c += a b with a 16 x 16, b 16 x 8, c 16 x 8 float32. With g = lane / 4 and t = lane % 4 a lane holds
//   a[0] (g, 2t + {0, 1})   a[1] (g + 8, 2t + {0, 1})   a[2] (g, 2t + 8 + {0, 1})   a[3] (g + 8, 2t + 8 + {0, 1})
//   b[0] (2t + {0, 1}, g)   b[1] (2t + 8 + {0, 1}, g)   c[0], c[1] (g, 2t + {0, 1})   c[2], c[3] (g + 8, 2t + {0, 1})
template <class T>
__device__ __forceinline__ void mma_16816(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);

template <>
__device__ __forceinline__ void mma_16816<__nv_bfloat16>(float (&c)[4], const uint32_t (&a)[4],
                                                         const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

template <>
__device__ __forceinline__ void mma_16816<__half>(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

}  // namespace c2f

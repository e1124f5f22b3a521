// Instructions of sm_90a that CUDA has no function for: transaction barriers, tensor-map copies, clusters, wgmma, the
// split of registers between warpgroups. Addresses of shared memory are 32-bit, in the window of the block; what
// another block of the cluster has at the same place is named by its rank. The manual is the PTX ISA; the sections are
// in the comments.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "cuda/tensor_map.cuh"

namespace c2f {

__device__ __forceinline__ uint32_t shared_window(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Barriers ("mbarrier"). A phase of a barrier ends when `arrivals` threads have arrived and all bytes that were
// announced have come. Phases have the parities 0, 1, 0, ...; before the first one ends, a wait for parity 1 (the phase
// "before") returns at once.

__device__ __forceinline__ void barrier_init(uint32_t barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

// After all barrier_init, before the cluster_sync that lets others use them.
__device__ __forceinline__ void barrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// Arrives and announces `bytes` more for this phase. Bytes may come before they are announced.
__device__ __forceinline__ void barrier_expect(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

// Arrives at the barrier that block `rank` of the cluster has at the same address. Says that operands have been read,
// which wgmma_wait completes; no memory that threads write is handed over, hence no release at cluster scope, which
// would be a fence of all memory for every stage. The same holds for the acquire of barrier_wait: copies are seen
// through the barrier they complete.
__device__ __forceinline__ void barrier_arrive(uint32_t barrier, uint32_t rank) {
  asm volatile(
      "{\n.reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [remote];\n}" ::"r"(barrier),
      "r"(rank)
      : "memory");
}

// Waits until the phase of this parity has ended. try_wait suspends the thread for a while, not for ever. A wait of 10
// seconds, where microseconds are usual, ends the kernel with an error instead of never.
__device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred done, late;\n.reg .b64 begin, passed;\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra ended;\n"
      "mov.u64 begin, %%globaltimer;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra ended;\n"
      "mov.u64 passed, %%globaltimer;\n"
      "sub.u64 passed, passed, begin;\n"
      "setp.gt.u64 late, passed, 10000000000;\n"
      "@!late bra again;\n"
      "trap;\n"
      "ended:\n}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

// Tensor-map copies ("cp.async.bulk.tensor"). Copies the box of `map` whose first element is at `x` to shared memory,
// 128-byte aligned, and counts its bytes at `barrier`, zeros for what lies outside the tensor included. One thread
// issues it.

__device__ __forceinline__ void load_box(uint32_t shared, const TensorMap* map, uint32_t barrier, const int (&x)[4]) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], "
      "[%2];" ::"r"(shared),
      "l"(map), "r"(barrier), "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3])
      : "memory");
}

// The same, to this address of every block of the cluster whose bit is set in `blocks`; each counts the bytes at its
// own barrier.
__device__ __forceinline__ void load_box_to(uint32_t blocks, uint32_t shared, const TensorMap* map, uint32_t barrier,
                                            const int (&x)[4]) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
      "[%0], [%1, {%3, %4, %5, %6}], [%2], %7;" ::"r"(shared),
      "l"(map), "r"(barrier), "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "h"(static_cast<uint16_t>(blocks))
      : "memory");
}

// Clusters ("barrier.cluster"). This block's place in its own; the bits of load_box_to and the ranks of barrier_arrive
// count the same way.
__device__ __forceinline__ uint32_t cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

// Meeting of all threads of all blocks of the cluster, whole warps. Barriers initialised before barrier_init_fence are
// seen after it; other memory is not ordered.
__device__ __forceinline__ void cluster_sync() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// Registers of a warpgroup ("setmaxnreg"); all its warps.
template <int kRegisters>
__device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
// Waits until they have been given.
template <int kRegisters>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// wgmma ("Asynchronous warpgroup level matrix instructions"); all warps of a warpgroup. The fence comes before the
// first wgmma, and before one whose accumulators other instructions have touched.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

// Closes the group of wgmma since the last commit.
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until at most kPending groups are in flight: the others have read their operands and written their
// accumulators.
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Keeps what reads `values` behind the wgmma_wait before it: to the compiler a wait has nothing to do with registers.
template <int kCount>
__device__ __forceinline__ void wgmma_arrived(float (&values)[kCount]) {
#pragma unroll
  for (int k = 0; k < kCount; ++k) asm volatile("" : "+f"(values[k])::"memory");
}

// The lists of registers of an accumulator: names %0, %1, ... in the text, and their operands.
#define C2F_T10(t) "%" t "0, %" t "1, %" t "2, %" t "3, %" t "4, %" t "5, %" t "6, %" t "7, %" t "8, %" t "9, "
#define C2F_T30 C2F_T10("") C2F_T10("1") C2F_T10("2")
#define C2F_T60 C2F_T30 C2F_T10("3") C2F_T10("4") C2F_T10("5")
#define C2F_T90 C2F_T60 C2F_T10("6") C2F_T10("7") C2F_T10("8")
#define C2F_R4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define C2F_R16(i) C2F_R4(i), C2F_R4(i + 4), C2F_R4(i + 8), C2F_R4(i + 12)
#define C2F_R32(i) C2F_R16(i), C2F_R16(i + 16)
#define C2F_R96 C2F_R32(0), C2F_R32(32), C2F_R32(64)

// `a`, `b`, `keep`, `trans`: the names of the operands that follow the accumulator's.
#define C2F_WGMMA(n, type, text, a, b, keep, trans, ...)                                               \
  asm volatile("{\n.reg .pred keep;\nsetp.ne.b32 keep, " keep                                          \
               ", 0;\n"                                                                                \
               "wgmma.mma_async.sync.aligned.m64n" n "k16.f32." type "." type " {" text "}, " a ", " b \
               ", keep, 1, 1, 1, " trans ";\n}"                                                        \
               : __VA_ARGS__                                                                           \
               : "l"(descriptor_a), "l"(descriptor_b), "r"(accumulate), "n"(kTransposeB))

#define C2F_WGMMA_SIZE(n, size, text, a, b, keep, trans, ...)     \
  if constexpr (kN == size) {                                     \
    if constexpr (std::is_same_v<T, __half>) {                    \
      C2F_WGMMA(n, "f16", text, a, b, keep, trans, __VA_ARGS__);  \
    } else {                                                      \
      C2F_WGMMA(n, "bf16", text, a, b, keep, trans, __VA_ARGS__); \
    }                                                             \
  }

// Starts d = a b + (accumulate ? d : 0) for a warpgroup, with a 64 x 16 (MN-major), b 16 x kN (kTransposeB 1: MN-major,
// 0: K-major) by descriptor, and d 64 x kN in float32: with g = lane / 4 and t = lane % 4, lane of warp w holds
//   d[4 j + 2 r + e]   row 16 w + g + 8 r, column 8 j + 2 t + e
template <class T, int kN, int kTransposeB>
__device__ __forceinline__ void wgmma(float (&d)[kN / 2], uint64_t descriptor_a, uint64_t descriptor_b,
                                      int accumulate) {
  C2F_WGMMA_SIZE("64", 64, C2F_T30 "%30, %31", "%32", "%33", "%34", "%35", C2F_R32(0))
  C2F_WGMMA_SIZE("112", 112, C2F_T30 C2F_T10("3") C2F_T10("4") "%50, %51, %52, %53, %54, %55", "%56", "%57", "%58",
                 "%59", C2F_R32(0), C2F_R16(32), C2F_R4(48), C2F_R4(52))
  C2F_WGMMA_SIZE("128", 128, C2F_T60 "%60, %61, %62, %63", "%64", "%65", "%66", "%67", C2F_R32(0), C2F_R32(32))
  C2F_WGMMA_SIZE("192", 192, C2F_T90 "%90, %91, %92, %93, %94, %95", "%96", "%97", "%98", "%99", C2F_R96)
  C2F_WGMMA_SIZE("200", 200, C2F_T90 "%90, %91, %92, %93, %94, %95, %96, %97, %98, %99", "%100", "%101", "%102", "%103",
                 C2F_R96, C2F_R4(96))
  C2F_WGMMA_SIZE("208", 208, C2F_T90 C2F_T10("9") "%100, %101, %102, %103", "%104", "%105", "%106", "%107", C2F_R96,
                 C2F_R4(96), C2F_R4(100))
  static_assert(kN == 64 || kN == 112 || kN == 128 || kN == 192 || kN == 200 || kN == 208);
}

#undef C2F_T10
#undef C2F_T30
#undef C2F_T60
#undef C2F_T90
#undef C2F_R4
#undef C2F_R16
#undef C2F_R32
#undef C2F_R96
#undef C2F_WGMMA
#undef C2F_WGMMA_SIZE

}  // namespace c2f

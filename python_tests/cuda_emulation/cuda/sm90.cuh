// Replaces csrc/cuda/sm90.cuh: the same functions on emulated threads (hopper.h).
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <type_traits>

#include "cuda/tensor_map.cuh"
#include "hopper.h"

namespace c2f {

using emulation::barrier_arrive;
using emulation::barrier_expect;
using emulation::barrier_init;
using emulation::barrier_init_fence;
using emulation::barrier_wait;
using emulation::cluster_sync;
using emulation::shared_window;
using emulation::wgmma_commit;
using emulation::wgmma_fence;

inline uint32_t cluster_rank() { return static_cast<uint32_t>(emulation::cluster_rank()); }

inline void load_box(uint32_t shared, const TensorMap* map, uint32_t barrier, const int (&x)[4]) {
  emulation::load_box(1u << cluster_rank(), shared, map, barrier, x);
}
inline void load_box_to(uint32_t blocks, uint32_t shared, const TensorMap* map, uint32_t barrier, const int (&x)[4]) {
  emulation::load_box(blocks, shared, map, barrier, x);
}

template <int kRegisters>
void give_registers() {
  emulation::set_registers(kRegisters, false);
}
template <int kRegisters>
void take_registers() {
  emulation::set_registers(kRegisters, true);
}

template <int kPending>
void wgmma_wait() {
  emulation::wgmma_wait(kPending);
}

template <int kCount>
void wgmma_arrived(float (&)[kCount]) {}

template <class T, int kN, int kTransposeB>
void wgmma(float (&d)[kN / 2], uint64_t descriptor_a, uint64_t descriptor_b, int accumulate) {
  emulation::wgmma(std::is_same_v<T, __half>, kN, kTransposeB == 1, d, descriptor_a, descriptor_b, accumulate != 0);
}

}  // namespace c2f

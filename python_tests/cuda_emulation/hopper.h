// Hopper's instructions on emulated threads: barriers with transaction counts, tensor-map copies, clusters, wgmma.
// After the PTX ISA; what it leaves undefined is an error. cuda/sm90.cuh gives them the project's names.
#pragma once

#include <cstdint>
#include <string>

#include "cuda/tensor_view.h"

namespace emulation {

// Names one kind of step that is left out from now on, so that tests see it missed: "full wait", "empty wait", "wgmma
// wait", "wgmma fence", "meeting" (of the cluster), "init fence", "release", "expect".
void sabotage(const std::string& step);

extern int64_t fetched_bytes;

// What an encoded tensor map holds here, in the place of the 128 bytes of the real one.
struct alignas(64) TensorMap {
  ::c2f::TensorView view;
  bool encoded = false;
};

uint32_t shared_window(const void* pointer);

void barrier_init(uint32_t barrier, uint32_t arrivals);
void barrier_init_fence();
void barrier_expect(uint32_t barrier, uint32_t bytes);
void barrier_arrive(uint32_t barrier, uint32_t rank);
void barrier_wait(uint32_t barrier, uint32_t parity);

// To the blocks of the cluster whose bits are set in `blocks`.
void load_box(uint32_t blocks, uint32_t shared, const TensorMap* map, uint32_t barrier, const int (&x)[4]);

int cluster_rank();
void cluster_sync();
// Sets the registers of the running thread's warpgroup; `more`: by taking, else by giving.
void set_registers(int registers, bool more);

void wgmma_fence();
void wgmma_commit();
void wgmma_wait(int pending);
// d [n / 2] of the running thread; `half`: float16, else bfloat16; `transpose_b`: B is MN-major, else K-major. A is
// MN-major.
void wgmma(bool half, int n, bool transpose_b, float* d, uint64_t descriptor_a, uint64_t descriptor_b, bool accumulate);

}  // namespace emulation

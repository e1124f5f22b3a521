// How the CUDA kernels of falcon_loss share out rows and classes: a pure function of sizes, the same on every GPU, so
// that mass is summed in the same order on all of them. Plain C++.
#pragma once

#include "c2f/falcon_loss.h"

namespace c2f::falcon_loss {

// Fine classes of a thread, in registers: few where a row is short, so that many rows are in flight.
inline constexpr int kFewItems = 8, kManyItems = 20;
inline constexpr int kFewWarps = 8,
                     kMaxWarps = 16;   // of the block that holds a row: up to 2048 and up to 10240 classes
inline constexpr int kLongWarps = 16;  // of a block that streams a longer one
inline constexpr int64_t kMaxClasses = int64_t{1} << 30;  // columns are counted in 32 bits

// Blocks own consecutive rows: rows_at_once beside each other, `steps` times. Each leaves its sum of p, one row of
// partial masses.
struct CudaPlan {
  int32_t items = 0;           // of a thread; 0: rows are too long to stay in registers and are swept twice
  int32_t warps = kLongWarps;  // of one row
  int32_t rows_at_once = 1;    // more than 1 only where one warp holds a row
  int32_t steps = 1;
  int64_t blocks = 0;
  int64_t shared_bytes = 0;
  int64_t joint_offset =
      0;  // where in scratch the statistics of z + t are, (max, sum) [blocks, L]; behind the partial masses
  int64_t scratch_bytes = 0;
};

CudaPlan plan_cuda(const FalconLossProblem& problem);

}  // namespace c2f::falcon_loss

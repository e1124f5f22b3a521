// Tile of the fused sm_80 forward: what the plan and the kernel must agree on. Plain C++.
#pragma once

#include "c2f/multilinear_pool.h"

namespace c2f::fused_sm80 {

inline constexpr int kThreads = 256;  // 8 warps: 4 along columns by 2 along positions
inline constexpr int kBlockD = 128;
inline constexpr int kBlockC = 32;
inline constexpr int kStages = 4;
inline constexpr int kBlockL[] = {64, 112, 128};  // 112 divides 784 = 28 x 28

// Shared-memory rows are an odd number of 16-byte units long: the eight rows of an 8 x 8 matrix then lie in different
// banks.
inline constexpr int kPad = 8;

// 16-bit elements of one stage: weights [kBlockC][kBlockD], features [kBlockC][block_l] or [block_l][kBlockC].
constexpr int64_t stage_elements(int block_l, Layout layout) {
  return kBlockC * (kBlockD + kPad) +
         (layout == Layout::kPositions ? kBlockC * (block_l + kPad) : block_l * (kBlockC + kPad));
}

// The stages, and float32 sums [2 warps][4 products][kBlockD].
constexpr int64_t shared_bytes(int block_l, Layout layout) {
  return kStages * 2 * stage_elements(block_l, layout) + 2 * 4 * kBlockD * 4;
}

constexpr int64_t blocks(const MultilinearPoolProblem& problem) {
  return problem.B * ((problem.D + kBlockD - 1) / kBlockD);
}

// Sizes that the kernel counts in 32 bits.
inline constexpr int64_t kMaxSize = int64_t{1} << 30;

}  // namespace c2f::fused_sm80

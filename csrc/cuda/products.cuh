// Interactions as the fused kernels see them: they always sum the products of two or three distinct factors.
#pragma once

#include "c2f/multilinear_pool.h"

namespace c2f {

inline constexpr int kProducts = 4;  // (0,1) (0,2) (1,2) (0,1,2), asked for or not; with two factors only the first

// Which of the kProducts sums an interaction is; -1: none.
inline int product_of(const InteractionSet& set, int q) {
  int factors = 0;
  for (int k = 0; k < set.degree[q]; ++k) {
    const int bit = 1 << set.factor[q][k];
    if (factors & bit) return -1;
    factors |= bit;
  }
  return factors == 3 ? 0 : factors == 5 ? 1 : factors == 6 ? 2 : factors == 7 ? 3 : -1;
}

}  // namespace c2f

// One row of falcon_loss, one table of functions per instruction set: falcon_loss_body.h is compiled into
// falcon_loss_portable.cpp, falcon_loss_avx2.cpp and falcon_loss_avx512.cpp. No inline function stands here (kernels.h
// says why).
#pragma once

#include <cstdint>

#include "c2f/falcon_loss.h"

namespace c2f {

// What was wrong with the arguments, seen by one thread. Such rows are computed as if the label or neighbour were absent.
struct FalconFault {
  int64_t empty_row = INT64_MAX;  // the first row whose label has no fine class
  int64_t neighbour = -1;         // the largest neighbour that is not below N
};

// Floats of one row of scratch: a multiple of every vector length and of a cache line.
constexpr int64_t falcon_row_floats(int64_t K_F) { return (K_F + 15) / 16 * 16; }

// Rows of scratch of one thread: FalconScratch in falcon_loss_body.h.
inline constexpr int kFalconScratchRows = 7;

// Row i of every output. mass += p, or = p where `first`; `scratch` and `mass` have whole rows of scratch, aligned to 64 bytes.
using FalconForwardFn = void (*)(const FalconLossFwdArgs& args, int64_t i, bool first, float* scratch, float* mass,
                                 FalconFault* fault);
using FalconBackwardFn = void (*)(const FalconLossBwdArgs& args, int64_t i, float* scratch);

struct FalconRows {
  FalconForwardFn forward[3];  // by DType
  FalconBackwardFn backward[3];
};

extern const FalconRows kFalconRowsPortable;
extern const FalconRows kFalconRowsAvx2;
extern const FalconRows kFalconRowsAvx512;

}  // namespace c2f

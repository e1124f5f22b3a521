// falcon_loss on the CPU: blocks of rows are the tasks, and each leaves its own column sums of p; those are added in the order
// of the blocks. Neither depends on the number of threads.
#include <algorithm>
#include <string>
#include <vector>

#include "c2f/falcon_loss.h"
#include "cpu/cpu_features.h"
#include "cpu/falcon_loss_rows.h"
#include "cpu/thread_pool.h"

namespace c2f {
namespace {

constexpr int64_t kMostRowsOfBlock = 32, kColumnsOfTask = 1024;

int64_t rows_of_block(int64_t B) { return std::clamp<int64_t>((B + 63) / 64, 1, kMostRowsOfBlock); }

int64_t blocks(int64_t B) { return (B + rows_of_block(B) - 1) / rows_of_block(B); }

const FalconRows& rows() {
#if C2F_HAS_AVX512
  if (cpu_isa() >= Isa::kAvx512) return kFalconRowsAvx512;
#endif
#if C2F_HAS_AVX2
  if (cpu_isa() >= Isa::kAvx2) return kFalconRowsAvx2;
#endif
  return kFalconRowsPortable;
}

Status first_fault(const FalconLossFwdArgs& args, const std::vector<FalconFault>& faults) {
  FalconFault worst;
  for (const FalconFault& fault : faults) {
    worst.empty_row = std::min(worst.empty_row, fault.empty_row);
    worst.neighbour = std::max(worst.neighbour, fault.neighbour);
  }
  if (worst.empty_row != INT64_MAX) {
    const int64_t* y = args.y + worst.empty_row * args.problem.D;
    const int64_t d = std::find_if(y, y + args.problem.D, [](int64_t label) { return label >= 0; }) - y;
    return Status::error("falcon_loss: g must give each class in y a fine class, got none for class " +
                         std::to_string(y[d]) + " of data set " + std::to_string(d));
  }
  if (worst.neighbour >= 0) {
    return Status::error("falcon_loss: idx must be below " + std::to_string(args.problem.N) +
                         ", the rows of t, got " + std::to_string(worst.neighbour));
  }
  return {};
}

}  // namespace

int64_t falcon_loss_cpu_scratch(const FalconLossProblem& problem, int num_threads) {
  const int64_t threads = std::max(1, std::min(num_threads, kMaxThreads));
  return falcon_row_floats(problem.K_F) * 4 * (threads * kFalconScratchRows + blocks(problem.B));
}

Status run_falcon_loss_fwd(const FalconLossFwdArgs& args, int num_threads) {
  const int64_t B = args.problem.B, K_F = args.problem.K_F, stride = falcon_row_floats(K_F);
  const int64_t block_rows = rows_of_block(B), block_count = blocks(B);
  const int threads = std::max(1, std::min(num_threads, kMaxThreads));
  const FalconForwardFn row = rows().forward[static_cast<int>(args.problem.dtype)];
  float* scratch = static_cast<float*>(args.scratch);
  float* partial = scratch + threads * kFalconScratchRows * stride;  // [blocks, stride]
  std::vector<FalconFault> faults(threads);

  parallel_for(block_count, threads, [&](int64_t block, int worker) {
    const int64_t begin = block * block_rows, end = std::min(B, begin + block_rows);
    for (int64_t i = begin; i < end; ++i) {
      row(args, i, i == begin, scratch + worker * kFalconScratchRows * stride, partial + block * stride,
          &faults[worker]);
    }
  });

  parallel_for((K_F + kColumnsOfTask - 1) / kColumnsOfTask, threads, [&](int64_t task, int) {
    const int64_t begin = task * kColumnsOfTask, size = std::min(K_F - begin, kColumnsOfTask);
    double sum[kColumnsOfTask] = {};
    for (int64_t block = 0; block < block_count; ++block) {
      const float* from = partial + block * stride + begin;
      for (int64_t k = 0; k < size; ++k) sum[k] += from[k];
    }
    for (int64_t k = 0; k < size; ++k) args.mass[begin + k] = static_cast<float>(sum[k]);
  });
  return first_fault(args, faults);
}

Status run_falcon_loss_bwd(const FalconLossBwdArgs& args, int num_threads) {
  const int64_t B = args.problem.B, block_rows = rows_of_block(B), stride = falcon_row_floats(args.problem.K_F);
  const int threads = std::max(1, std::min(num_threads, kMaxThreads));
  const FalconBackwardFn row = rows().backward[static_cast<int>(args.problem.dtype)];
  std::vector<float> scratch(threads * stride);
  parallel_for(blocks(B), threads, [&](int64_t block, int worker) {
    for (int64_t i = block * block_rows; i < std::min(B, (block + 1) * block_rows); ++i) {
      row(args, i, scratch.data() + worker * stride);
    }
  });
  return {};
}

}  // namespace c2f

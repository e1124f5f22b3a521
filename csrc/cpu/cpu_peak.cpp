#include "c2f/cpu_peak.h"

#include <algorithm>
#include <numeric>

#include "cpu/kernels.h"
#include "cpu/thread_pool.h"

namespace c2f {

double run_cpu_peak(DType dtype, MatmulPrecision precision, int64_t rounds, int num_threads) {
  const Kernels& kernels = cpu_kernels(dtype, precision);
  double done[kMaxThreads] = {};
  parallel_for(num_threads, num_threads, [&](int64_t, int worker) {
    alignas(64) float operands[kPeakFloats];
    std::fill_n(operands, kPeakFloats, 0.5f);
    done[worker] += kernels.peak(rounds, operands);
  });
  return std::accumulate(done, done + num_threads, 0.0);
}

}  // namespace c2f

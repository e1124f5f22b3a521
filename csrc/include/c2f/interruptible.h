// How a long run on the CPU is left in the middle.
#pragma once

#include <chrono>

namespace c2f {

// While one lives, parallel_for (cpu/thread_pool.h) on its thread asks `stop` between tasks, every 50 ms. Once the
// answer is true, no task begins any more, there or in later calls, so outputs and scratch may hold anything: only for
// kernels that read no sizes or indices from what tasks have written.
class Interruptible {
 public:
  explicit Interruptible(bool (*stop)());
  ~Interruptible();
  Interruptible(const Interruptible&) = delete;
  Interruptible& operator=(const Interruptible&) = delete;

  bool stopped() const { return stopped_; }
  bool ask();

 private:
  bool (*stop_)();
  Interruptible* outer_;
  bool stopped_ = false;
  std::chrono::steady_clock::time_point next_;
};

}  // namespace c2f

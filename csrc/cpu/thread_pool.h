// The threads of the CPU kernels: those that torch computes on where the process has an OpenMP runtime. After an operator
// they wait for the next one by spinning, some milliseconds long, in which threads of ours would get half of their
// cores. Else, and in a forked child, one pool per process.
#pragma once

#include <cstdint>
#include <functional>

namespace c2f {

inline constexpr int kMaxThreads = 256;

// Runs body(task, worker) once for every task in [0, tasks) on up to `num_threads` threads, the caller among them, and
// returns when all are done. Tasks are handed out in order as threads become free; worker is in [0, num_threads) and no
// two tasks with the same worker overlap. The body does not throw. Workers take over the caller's floating-point
// environment (rounding, denormals). While another thread is inside, the call runs on its own thread alone: nobody
// waits for a stranger's work.
void parallel_for(int64_t tasks, int num_threads, const std::function<void(int64_t task, int worker)>& body);

}  // namespace c2f

#include "cpu/openmp_team.h"

#include <dlfcn.h>
#include <pthread.h>

#include <atomic>

namespace c2f {
namespace {

// The entry of a parallel region that GCC's OpenMP and LLVM's have in common.
using ParallelFn = void (*)(void (*body)(void*), void* data, unsigned num_threads, unsigned flags);

ParallelFn find_parallel() {
#if defined(__SANITIZE_THREAD__)
  return nullptr;  // ThreadSanitizer does not see how a runtime that it did not compile synchronises
#else
  return reinterpret_cast<ParallelFn>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
#endif
}

// A forked child waits for ever for the threads that its parent had.
std::atomic<bool> g_forked{false};
[[maybe_unused]] const int g_fork_handler = pthread_atfork(nullptr, nullptr, [] { g_forked = true; });

}  // namespace

bool run_on_team(int num_threads, const std::function<void()>& body) {
  static const ParallelFn parallel = find_parallel();
  if (parallel == nullptr || g_forked) return false;
  const auto call = [](void* data) { (*static_cast<const std::function<void()>*>(data))(); };
  parallel(call, const_cast<std::function<void()>*>(&body), static_cast<unsigned>(num_threads), 0);
  return true;
}

}  // namespace c2f

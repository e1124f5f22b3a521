// Replaces csrc/cuda/launch.cuh: runs the blocks of a grid one after the other.
#pragma once

#include <cuda_runtime.h>

#include <string>
#include <tuple>

#include "c2f/common.h"

namespace c2f {

inline Status shared_limit(const char*, int64_t* bytes) {
  *bytes = emulation::shared_limit;
  return Status();
}

template <class... Params, class... Args>
Status launch(const char*, void (*kernel)(Params...), int64_t blocks, int threads, int64_t shared_bytes, void*,
              const Args&... args) {
  struct Call {
    void (*kernel)(Params...);
    std::tuple<Args...> args;
  } call{kernel, {args...}};
  for (int64_t block = 0; block < blocks; ++block) {
    emulation::run_block(
        static_cast<unsigned>(block), threads, shared_bytes,
        [](void* argument) {
          Call* c = static_cast<Call*>(argument);
          std::apply(c->kernel, c->args);
        },
        &call);
  }
  return Status();
}

inline unsigned char* dynamic_shared() { return emulation::dynamic_shared(); }

}  // namespace c2f

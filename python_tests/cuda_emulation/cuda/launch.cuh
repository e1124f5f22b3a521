// Replaces csrc/cuda/launch.cuh: runs the blocks of a grid one after the other, those of a cluster together.
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

template <class... Params>
Status prepare_launch(const char*, void (*)(Params...), int64_t, int64_t) {
  return Status();
}

template <class... Params, class... Args>
Status launch_clusters(const char*, void (*kernel)(Params...), int64_t blocks, int threads, int64_t shared_bytes,
                       int cluster, void*, const Args&... args) {
  if (blocks % cluster != 0) return Status::error("the grid is not made of whole clusters");
  struct Call {
    void (*kernel)(Params...);
    std::tuple<Args...> args;
  } call{kernel, {args...}};
  for (int64_t block = 0; block < blocks; block += cluster) {
    emulation::run_cluster(
        static_cast<unsigned>(block), cluster, threads, shared_bytes,
        [](void* argument) {
          Call* c = static_cast<Call*>(argument);
          std::apply(c->kernel, c->args);
        },
        &call);
  }
  return Status();
}

template <class... Params, class... Args>
Status launch(const char* name, void (*kernel)(Params...), int64_t blocks, int threads, int64_t shared_bytes,
              void* stream, const Args&... args) {
  return launch_clusters(name, kernel, blocks, threads, shared_bytes, 1, stream, args...);
}

inline unsigned char* dynamic_shared() { return emulation::dynamic_shared(); }

}  // namespace c2f

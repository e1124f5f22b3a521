// The only place where a kernel is launched and where dynamic shared memory is declared.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <string>

#include "c2f/common.h"

namespace c2f {

inline Status cuda_status(cudaError_t error, const char* what) {
  return error == cudaSuccess ? Status() : Status::error(std::string(what) + ": " + cudaGetErrorString(error));
}

// Bytes of shared memory that a block can have on the current device.
inline Status shared_limit(const char* what, int64_t* bytes) {
  int device = 0, value = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&value, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  *bytes = value;
  return cuda_status(error, what);
}

// Lets `kernel` have `shared_bytes`, and refuses a grid that CUDA cannot launch.
template <class... Params>
Status prepare_launch(const char* name, void (*kernel)(Params...), int64_t blocks, int64_t shared_bytes) {
  if (blocks > INT32_MAX) return Status::error(std::string(name) + ": the problem needs more than 2^31 - 1 blocks");
  if (shared_bytes <= 48 * 1024) return Status();
  return cuda_status(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                          cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)),
                     name);
}

// Launches `kernel` on `blocks` blocks of `threads` threads. Reports a launch that failed, not an earlier error of the
// stream.
template <class... Params, class... Args>
Status launch(const char* name, void (*kernel)(Params...), int64_t blocks, int threads, int64_t shared_bytes,
              void* stream, const Args&... args) {
  const Status status = prepare_launch(name, kernel, blocks, shared_bytes);
  if (!status.ok()) return status;
  kernel<<<static_cast<unsigned>(blocks), threads, shared_bytes, static_cast<cudaStream_t>(stream)>>>(args...);
  return cuda_status(cudaGetLastError(), name);
}

// The same with each `cluster` neighbouring blocks as a cluster, for sm_90 and later, after prepare_launch; `blocks` is
// a multiple of `cluster`.
template <class... Params, class... Args>
Status launch_clusters(const char* name, void (*kernel)(Params...), int64_t blocks, int threads, int64_t shared_bytes,
                       int cluster, void* stream, const Args&... args) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = static_cast<unsigned>(cluster);
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cuda_status(cudaLaunchKernelEx(&config, kernel, args...), name);
}

// The block's dynamic shared memory, 16-byte aligned.
__device__ __forceinline__ unsigned char* dynamic_shared() {
  extern __shared__ __align__(16) unsigned char c2f_dynamic_shared[];
  return c2f_dynamic_shared;
}

}  // namespace c2f

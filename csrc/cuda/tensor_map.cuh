// Tensor maps: how the copy engine of sm_90 sees an operand. Encoded by the driver, which is found at run time: nothing
// links to it, and the library loads without one.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <string>

#include "c2f/common.h"
#include "cuda/tensor_view.h"

namespace c2f {

using TensorMap = CUtensorMap;  // 128 bytes, a __grid_constant__ argument of a kernel

// The driver's function; null: it has none.
inline decltype(&cuTensorMapEncodeTiled) find_encoder() {
  void* function = nullptr;
#if CUDART_VERSION >= 12050
  const cudaError_t error =
      cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, nullptr);
#else
  const cudaError_t error = cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &function, cudaEnableDefault, nullptr);
#endif
  return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(error == cudaSuccess ? function : nullptr);
}

// Needs the device's context to be current in this thread.
inline Status encode_tensor_map(const TensorView& view, DType dtype, TensorMap* map) {
  static const auto encode = find_encoder();
  if (encode == nullptr) return Status::error("the driver has no cuTensorMapEncodeTiled");
  cuuint64_t size[4], stride[3];
  for (int k = 0; k < 4; ++k) size[k] = static_cast<cuuint64_t>(view.size[k]);
  for (int k = 0; k < 3; ++k) stride[k] = static_cast<cuuint64_t>(view.stride[k]);
  const cuuint32_t box[4] = {64, 1, static_cast<cuuint32_t>(view.rows), 1}, every[4] = {1, 1, 1, 1};
  const CUresult result = encode(
      map, dtype == DType::kFloat16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4,
      const_cast<void*>(view.data), size, stride, box, every, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
      CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);  // "none": zeros
  if (result == CUDA_SUCCESS) return Status();
  return Status::error("cuTensorMapEncodeTiled refused a tensor: error " + std::to_string(result));
}

}  // namespace c2f

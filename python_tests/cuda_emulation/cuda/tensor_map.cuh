// Replaces csrc/cuda/tensor_map.cuh: keeps what the driver would encode, and holds it to what the driver demands.
#pragma once

#include "c2f/common.h"
#include "cuda/tensor_view.h"
#include "hopper.h"

namespace c2f {

using TensorMap = emulation::TensorMap;

inline Status encode_tensor_map(const TensorView& view, DType dtype, TensorMap* map) {
  bool valid = dtype != DType::kFloat32 && reinterpret_cast<uintptr_t>(view.data) % 16 == 0;
  valid = valid && 1 <= view.rows && view.rows <= 256;
  for (const int64_t size : view.size) valid = valid && 1 <= size && size <= int64_t{1} << 32;
  for (int k = 0; k < 3; ++k) {
    valid = valid && view.stride[k] % 16 == 0 && 0 < view.stride[k] && view.stride[k] < int64_t{1} << 40;
  }
  if (!valid) return Status::error("cuTensorMapEncodeTiled: invalid value");
  map->view = view;
  map->encoded = true;
  return Status();
}

}  // namespace c2f

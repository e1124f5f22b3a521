// Types shared by every kernel contract. Standard library only: no torch, no Python, no CUDA header.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "c2f/dtype.h"

namespace c2f {

inline constexpr size_t size_of(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

// Outcome of a plan, launch or run. Kernels never throw, print, exit or synchronise; the bindings turn a bad status
// into one Python exception.
class [[nodiscard]] Status {
 public:
  Status() = default;
  static Status error(std::string message) {
    Status status;
    status.message_ = std::move(message);
    return status;
  }
  bool ok() const { return message_.empty(); }
  const std::string& message() const { return message_; }

 private:
  std::string message_;
};

}  // namespace c2f

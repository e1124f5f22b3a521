// Types shared by every kernel contract. Standard library only: no torch, no Python, no CUDA header.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

namespace c2f {

// Storage types a kernel reads and writes. Arithmetic is float32 throughout; float64 belongs to the Python reference.
enum class DType : int32_t { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2 };

inline constexpr size_t size_of(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

// Outcome of a plan, launch or run. Kernels never throw, print, exit or synchronise; the bindings turn a bad status into one
// Python exception.
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

// Scratch memory cut into pieces: the function that asks for the bytes and the one that uses them share one layout.
#pragma once

#include <cstdint>

namespace c2f {

inline constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Hands out 64-byte aligned pieces of a buffer. With a null base it only counts: the plan and the run share one layout.
class Arena {
 public:
  explicit Arena(void* base) : base_(static_cast<char*>(base)) {}

  template <typename T>
  T* take(int64_t count) {
    char* at = base_ == nullptr ? nullptr : base_ + used_;
    used_ += ceil_div(count * static_cast<int64_t>(sizeof(T)), 64) * 64;
    return reinterpret_cast<T*>(at);
  }

  int64_t used() const { return used_; }

 private:
  char* base_;
  int64_t used_ = 0;
};

}  // namespace c2f

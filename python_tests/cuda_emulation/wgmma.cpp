// wgmma of hopper.h. A product is computed when it is waited for; until then its accumulator is NaN, and touching its
// operands an error.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <limits>
#include <map>
#include <memory>
#include <vector>

#include "cuda_runtime.h"
#include "fibers.h"
#include "hopper.h"
#include "in_flight.h"

namespace emulation {
namespace {

constexpr int kWarpgroup = 128;

// One wgmma of a warpgroup.
struct Product {
  bool half;
  int n;
  bool transpose_b;
  uint64_t descriptor_a, descriptor_b;
  Range a_range, b_range;
  int issued = 0, waited = 0;  // threads
  std::vector<float> a, b;     // [64][16], [n][16], once read
};

struct Thread {
  struct Issued {
    std::shared_ptr<Product> product;
    float* d;
    bool accumulate;
  };
  std::deque<std::vector<Issued>> groups;  // committed, oldest first
  std::vector<Issued> open;
  std::map<float*, std::vector<float>> accumulators;  // in flight; the array itself is NaN
  bool fenced = false;
  size_t products = 0;  // that it has issued
};

std::vector<Thread> threads;                                  // of the cluster
std::vector<std::vector<std::shared_ptr<Product>>> products;  // of each of its warpgroups, in order

Thread& self() { return threads[running_block() * threads_of_block() + running_thread()]; }
int warpgroup() { return (running_block() * threads_of_block() + running_thread()) / kWarpgroup; }

// The fields of a descriptor, in bytes.
struct Descriptor {
  uint32_t address, leading, stride;
  bool mn_major;

  Descriptor(uint64_t bits, bool mn_major_) : mn_major(mn_major_) {
    address = static_cast<uint32_t>(bits & 0x3fff) << 4;
    leading = static_cast<uint32_t>(bits >> 16 & 0x3fff) << 4;
    stride = static_cast<uint32_t>(bits >> 32 & 0x3fff) << 4;
    if (bits >> 62 != 1) fail("matrix descriptor: only the 128-byte swizzle is emulated");
    if ((bits >> 49 & 7) != 0) fail("matrix descriptor: a base offset, but atoms are aligned");
    if ((bits & 0x3ff1c000c000c000) != 0) fail("matrix descriptor: reserved bits are set");
    if (mn_major ? address % kAtomBytes != 0 : address % kAtomBytes >= kRowBytes || address % 32 != 0) {
      fail("matrix descriptor: the start is inside an atom");
    }
    if (stride % kAtomBytes != 0) fail("matrix descriptor: atoms are not aligned");
    if (mn_major && leading % kAtomBytes != 0) fail("matrix descriptor: atoms are not aligned");
  }
  // Where element (i of M or N, k) is: 64 of M or N, or all 16 of K, lie in a row of the swizzle.
  uint32_t at(int i, int k) const {
    const uint32_t linear = mn_major ? address + i % 64 * 2 + i / 64 * leading + k % 8 * kRowBytes + k / 8 * stride
                                     : address + i % 8 * kRowBytes + i / 8 * stride + k * 2;
    return swizzled(linear);
  }
  Range range(int rows) const {
    Range all{std::numeric_limits<uint32_t>::max(), 0};
    for (int i = 0; i < rows; ++i) {
      for (int k = 0; k < 16; ++k) {
        all.begin = std::min(all.begin, at(i, k));
        all.end = std::max(all.end, at(i, k) + 2);
      }
    }
    return all;
  }
  std::vector<float> read(int block, int rows, bool half) const {
    std::vector<float> values(rows * 16);
    for (int i = 0; i < rows; ++i) {
      for (int k = 0; k < 16; ++k) {
        uint16_t bits;
        std::memcpy(&bits, at_window(block, at(i, k), 2), 2);
        values[i * 16 + k] = half ? __half2float(__half{bits}) : __bfloat162float(__nv_bfloat16{bits});
      }
    }
    return values;
  }
};

// This thread's part of one product.
void complete(Thread::Issued& issued) {
  Product& product = *issued.product;
  wait_until([shared = issued.product] { return shared->issued == kWarpgroup; });
  if (product.a.empty()) {
    product.a = Descriptor(product.descriptor_a, true).read(running_block(), 64, product.half);
    product.b = Descriptor(product.descriptor_b, product.transpose_b).read(running_block(), product.n, product.half);
  }
  Thread& thread = self();
  std::vector<float>& sums = thread.accumulators.at(issued.d);
  const int lane = running_thread() % kWarpSize, warp = running_thread() % kWarpgroup / kWarpSize;
  for (int index = 0; index < product.n / 2; ++index) {
    const int row = 16 * warp + lane / 4 + index / 2 % 2 * 8, column = index / 4 * 8 + lane % 4 * 2 + index % 2;
    float sum = issued.accumulate ? sums[index] : 0.f;
    for (int k = 0; k < 16; ++k) sum += product.a[row * 16 + k] * product.b[column * 16 + k];
    sums[index] = sum;
  }
  ++product.waited;
}

}  // namespace

bool being_read(int block, Range range) {
  const int warpgroups = threads_of_block() / kWarpgroup;
  for (int w = block * warpgroups; w < (block + 1) * warpgroups; ++w) {
    for (const auto& product : products[w]) {
      if (product->waited < kWarpgroup && (product->a_range.meets(range) || product->b_range.meets(range))) return true;
    }
  }
  return false;
}

void begin_products() {
  const int count = blocks_of_cluster() * threads_of_block();
  threads.assign(count, Thread());
  products.assign((count + kWarpgroup - 1) / kWarpgroup, {});
}

void end_products() {
  for (const Thread& thread : threads) {
    if (!thread.groups.empty() || !thread.open.empty()) fail("the kernel ends with wgmma in flight");
  }
}

void wgmma_fence() {
  if (!leaves_out("wgmma fence")) self().fenced = true;
}

void wgmma(bool half, int n, bool transpose_b, float* d, uint64_t descriptor_a, uint64_t descriptor_b,
           bool accumulate) {
  if (n % 8 != 0 || n < 8 || n > 256) fail("wgmma: n must be 8 to 256 in steps of 8");
  Thread& thread = self();
  if (!thread.fenced) fail("wgmma: registers were used and not fenced");
  auto& order = products[warpgroup()];
  if (thread.products == order.size()) {
    const Descriptor a(descriptor_a, true), b(descriptor_b, transpose_b);
    order.push_back(
        std::make_shared<Product>(Product{half, n, transpose_b, descriptor_a, descriptor_b, a.range(64), b.range(n)}));
  }
  const auto& product = order[thread.products++];
  if (product->half != half || product->n != n || product->transpose_b != transpose_b ||
      product->descriptor_a != descriptor_a || product->descriptor_b != descriptor_b) {
    fail("wgmma: the warps of a warpgroup differ");
  }
  if (arriving(running_block(), product->a_range) || arriving(running_block(), product->b_range)) {
    fail("wgmma: reads what a copy in flight has not filled");
  }
  ++product->issued;
  if (thread.accumulators.find(d) == thread.accumulators.end()) {
    thread.accumulators.emplace(d, std::vector<float>(d, d + n / 2));
    std::fill(d, d + n / 2, std::numeric_limits<float>::quiet_NaN());
  }
  thread.open.push_back({product, d, accumulate});
}

void wgmma_commit() {
  self().groups.push_back(std::move(self().open));
  self().open.clear();
}

void wgmma_wait(int pending) {
  if (leaves_out("wgmma wait")) return;
  Thread& thread = self();
  while (thread.groups.size() > static_cast<size_t>(pending)) {
    for (Thread::Issued& issued : thread.groups.front()) complete(issued);
    thread.groups.pop_front();
  }
  if (!thread.groups.empty() || !thread.open.empty()) return;
  for (const auto& [d, values] : thread.accumulators) std::copy(values.begin(), values.end(), d);
  thread.accumulators.clear();
  thread.fenced = false;
}

}  // namespace emulation

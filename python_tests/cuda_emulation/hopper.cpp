// See hopper.h. Data moves as late as the protocol allows: a copy lands when no thread can go on without it, a product
// is computed when it is waited for. Until then its target is NaN, and reading or writing what is in flight is an
// error.
#include "hopper.h"

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

namespace emulation {

int64_t fetched_bytes = 0;

namespace {

constexpr int kWarpgroup = 128;
constexpr uint32_t kRowBytes = 128, kAtomBytes = 1024;  // of the 128-byte swizzle

std::string left_out;

struct Barrier {
  int arrivals = 0, pending = 0;
  int64_t bytes = 0;  // announced and not yet come
  uint32_t parity = 0;

  void settle() {
    if (pending < 0) fail("mbarrier: more arrivals than it was initialised for");
    if (bytes >= 1 << 20 || bytes <= -(1 << 20)) fail("mbarrier: the transaction count is out of range");
    if (pending > 0 || bytes != 0) return;
    parity ^= 1;
    pending = arrivals;
  }
};

struct Copy {
  int block;  // to which it goes
  uint32_t shared, barrier;
  const TensorMap* map;
  int x[4];
  int64_t bytes() const { return int64_t{map->view.rows} * kRowBytes; }
};

// A range of bytes of shared memory.
struct Range {
  uint32_t begin, end;
  bool meets(uint32_t other, int64_t bytes) const { return begin < other + bytes && other < end; }
};

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
  int registers = 0;
};

struct BlockState {
  std::map<uint32_t, Barrier> barriers;
  bool unfenced = false;
  int free_registers = 0;
};

std::vector<Thread> threads;
std::vector<BlockState> states;
std::vector<std::vector<std::shared_ptr<Product>>> products;  // of each warpgroup of the cluster, in order
std::deque<Copy> copies;
int met = 0, meetings = 0;  // threads at the meeting of the cluster, meetings so far

Thread& self() { return threads[running_block() * threads_of_block() + running_thread()]; }
int warpgroup() { return (running_block() * threads_of_block() + running_thread()) / kWarpgroup; }
bool leaves_out(const char* step) { return left_out == step; }

Barrier& barrier_at(int block, uint32_t address) {
  if (address % 8 != 0) fail("mbarrier: misaligned");
  at_window(block, address, 8);
  if (exited(block)) fail("mbarrier: its block has ended");
  const auto found = states[block].barriers.find(address);
  if (found == states[block].barriers.end()) fail("mbarrier: used before it was initialised");
  return found->second;
}

uint32_t swizzled(uint32_t address) { return address ^ (address / kRowBytes % 8) << 4; }

}  // namespace

void sabotage(const std::string& step) { left_out = step; }

void begin_cluster() {
  const int count = blocks_of_cluster() * threads_of_block();
  threads.assign(count, Thread());
  states.assign(blocks_of_cluster(), BlockState());
  products.assign((count + kWarpgroup - 1) / kWarpgroup, {});
  copies.clear();
  met = meetings = 0;
  // What every thread of a full register file can have, in the steps in which it is given out.
  for (Thread& thread : threads) thread.registers = 65536 / threads_of_block() / 8 * 8;
  for (BlockState& state : states) state.free_registers = 65536 - threads_of_block() * threads[0].registers;
}

void end_cluster() {
  if (!copies.empty()) fail("the kernel ends with tensor-map copies in flight");
  for (const Thread& thread : threads) {
    if (!thread.groups.empty() || !thread.open.empty()) fail("the kernel ends with wgmma in flight");
  }
  for (const BlockState& state : states) {
    for (const auto& [address, barrier] : state.barriers) {
      if (barrier.bytes != 0) fail("mbarrier: bytes that came and those announced differ");
    }
  }
}

// mbarrier.

void barrier_init(uint32_t barrier, uint32_t arrivals) {
  if (barrier % 8 != 0) fail("mbarrier: misaligned");
  if (arrivals < 1) fail("mbarrier: no arrivals");
  at_window(running_block(), barrier, 8);
  Barrier fresh;
  fresh.arrivals = fresh.pending = static_cast<int>(arrivals);
  if (!states[running_block()].barriers.emplace(barrier, fresh).second) fail("mbarrier: initialised twice");
  states[running_block()].unfenced = true;
}

void barrier_init_fence() {
  if (!leaves_out("init fence")) states[running_block()].unfenced = false;
}

void barrier_expect(uint32_t barrier, uint32_t bytes) {
  Barrier& b = barrier_at(running_block(), barrier);
  b.bytes += leaves_out("expect") ? bytes / 2 : bytes;
  --b.pending;
  b.settle();
}

void barrier_arrive(uint32_t barrier, uint32_t rank) {
  if (rank >= static_cast<uint32_t>(blocks_of_cluster())) fail("mbarrier: no such block in the cluster");
  if (leaves_out("release")) return;
  Barrier& b = barrier_at(static_cast<int>(rank), barrier);
  --b.pending;
  b.settle();
}

void barrier_wait(uint32_t barrier, uint32_t parity) {
  const int block = running_block();
  const bool full = barrier_at(block, barrier).arrivals == 1;
  if (leaves_out(full ? "full wait" : "empty wait")) return;
  wait_until([block, barrier, parity] { return states[block].barriers.at(barrier).parity != parity; });
}

// Tensor-map copies.

void load_box(uint32_t blocks, uint32_t shared, const TensorMap* map, uint32_t barrier, const int (&x)[4]) {
  if (!map->encoded) fail("tensor map: not encoded");
  if (reinterpret_cast<uintptr_t>(map) % 64 != 0) fail("tensor map: misaligned");
  // The engine asks for 128 bytes; the swizzle's pattern is that of the descriptors only from whole atoms on.
  if (shared % kAtomBytes != 0) fail("tensor-map copy: misaligned target");
  if (blocks == 0 || blocks >> blocks_of_cluster() != 0) fail("tensor-map copy: no such block in the cluster");
  for (int block = 0; block < blocks_of_cluster(); ++block) {
    if ((blocks >> block & 1) == 0) continue;
    Copy copy{block, shared, barrier, map, {x[0], x[1], x[2], x[3]}};
    barrier_at(block, barrier);
    std::memset(at_window(block, shared, copy.bytes()), 0xff, copy.bytes());
    for (const Copy& other : copies) {
      if (other.block == block &&
          Range{other.shared, static_cast<uint32_t>(other.shared + other.bytes())}.meets(shared, copy.bytes())) {
        fail("tensor-map copy: its target is that of a copy in flight");
      }
    }
    const int warpgroups = threads_of_block() / kWarpgroup;
    for (int w = block * warpgroups; w < (block + 1) * warpgroups; ++w) {
      for (const auto& product : products[w]) {
        if (product->waited < kWarpgroup &&
            (product->a_range.meets(shared, copy.bytes()) || product->b_range.meets(shared, copy.bytes()))) {
          fail("tensor-map copy: its target is being read");
        }
      }
    }
    copies.push_back(copy);
  }
  const ::c2f::TensorView& view = map->view;
  for (int row = 0; row < view.rows; ++row) {  // the part inside the tensor is fetched once for all blocks
    const bool inside = x[1] >= 0 && x[1] < view.size[1] && x[2] + row >= 0 && x[2] + row < view.size[2] && x[3] >= 0 &&
                        x[3] < view.size[3];
    if (inside) fetched_bytes += 2 * std::max<int64_t>(std::min<int64_t>(view.size[0] - x[0], 64), 0);
  }
}

bool land_copy(bool newest) {
  if (copies.empty()) return false;
  const Copy copy = newest ? copies.back() : copies.front();
  newest ? copies.pop_back() : copies.pop_front();
  const ::c2f::TensorView& view = copy.map->view;
  for (int row = 0; row < view.rows; ++row) {
    for (int e = 0; e < 64; ++e) {
      const int64_t at[4] = {copy.x[0] + int64_t{e}, copy.x[1], copy.x[2] + int64_t{row}, copy.x[3]};
      bool inside = true;
      for (int k = 0; k < 4; ++k) inside = inside && at[k] >= 0 && at[k] < view.size[k];
      uint16_t value = 0;
      if (inside) {
        const int64_t offset = 2 * at[0] + at[1] * view.stride[0] + at[2] * view.stride[1] + at[3] * view.stride[2];
        std::memcpy(&value, static_cast<const unsigned char*>(view.data) + offset, 2);
      }
      std::memcpy(at_window(copy.block, swizzled(copy.shared + row * kRowBytes + 2 * e), 2), &value, 2);
    }
  }
  Barrier& barrier = barrier_at(copy.block, copy.barrier);
  barrier.bytes -= copy.bytes();
  barrier.settle();
  return true;
}

// Clusters and registers.

int cluster_rank() { return running_block(); }

void cluster_sync() {
  if (states[running_block()].unfenced) fail("barrier.cluster: barriers were initialised and not fenced");
  if (leaves_out("meeting")) return;
  const int mine = meetings;
  if (++met == blocks_of_cluster() * threads_of_block()) {
    met = 0;
    ++meetings;
  }
  wait_until([mine] { return meetings > mine; });
}

void set_registers(int registers, bool more) {
  if (registers < 24 || registers > 256 || registers % 8 != 0)
    fail("setmaxnreg: registers must be 24 to 256 in steps of 8");
  Thread& thread = self();
  const int change = registers - thread.registers;
  if (more ? change < 0 : change > 0) fail("setmaxnreg: inc takes, dec gives");
  const int block = running_block();
  wait_until([block, change] { return states[block].free_registers >= change; });
  states[block].free_registers -= change;
  thread.registers = registers;
}

// wgmma.

namespace {

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
  for (const Copy& copy : copies) {
    if (copy.block == running_block() &&
        (product->a_range.meets(copy.shared, copy.bytes()) || product->b_range.meets(copy.shared, copy.bytes()))) {
      fail("wgmma: reads what a copy in flight has not filled");
    }
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

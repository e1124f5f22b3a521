// Barriers, copies, clusters and registers of hopper.h. A copy lands when no thread can go on without it; until then
// its target is NaN, and reading or writing it an error.
#include "hopper.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <vector>

#include "cuda_runtime.h"
#include "fibers.h"
#include "in_flight.h"

namespace emulation {

int64_t fetched_bytes = 0;

namespace {

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
  Range range() const { return {shared, static_cast<uint32_t>(shared + bytes())}; }
};

struct BlockState {
  std::map<uint32_t, Barrier> barriers;
  bool unfenced = false;
  int free_registers = 0;
  std::vector<int> registers;  // of each thread
};

std::vector<BlockState> states;
std::deque<Copy> copies;
int met = 0, meetings = 0;  // threads at the meeting of the cluster, meetings so far

Barrier& barrier_at(int block, uint32_t address) {
  if (address % 8 != 0) fail("mbarrier: misaligned");
  at_window(block, address, 8);
  if (exited(block)) fail("mbarrier: its block has ended");
  const auto found = states[block].barriers.find(address);
  if (found == states[block].barriers.end()) fail("mbarrier: used before it was initialised");
  return found->second;
}

}  // namespace

bool leaves_out(const char* step) { return left_out == step; }

bool arriving(int block, Range range) {
  return std::any_of(copies.begin(), copies.end(),
                     [&](const Copy& c) { return c.block == block && c.range().meets(range); });
}

void sabotage(const std::string& step) { left_out = step; }

void begin_cluster() {
  states.assign(blocks_of_cluster(), BlockState());
  copies.clear();
  met = meetings = 0;
  // What every thread of a full register file can have, in the steps in which it is given out.
  const int each = 65536 / threads_of_block() / 8 * 8;
  for (BlockState& state : states) {
    state.registers.assign(threads_of_block(), each);
    state.free_registers = 65536 - threads_of_block() * each;
  }
  begin_products();
}

void end_cluster() {
  if (!copies.empty()) fail("the kernel ends with tensor-map copies in flight");
  for (const BlockState& state : states) {
    for (const auto& [address, barrier] : state.barriers) {
      if (barrier.bytes != 0) fail("mbarrier: bytes that came and those announced differ");
    }
  }
  end_products();
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
    if (arriving(block, copy.range())) fail("tensor-map copy: its target is that of a copy in flight");
    if (being_read(block, copy.range())) fail("tensor-map copy: its target is being read");
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
  const int block = running_block();
  int& mine = states[block].registers[running_thread()];
  const int change = registers - mine;
  if (more ? change < 0 : change > 0) fail("setmaxnreg: inc takes, dec gives");
  wait_until([block, change] { return states[block].free_registers >= change; });
  states[block].free_registers -= change;
  mine = registers;
}

}  // namespace emulation

// The scheduler of the emulation and its Python module, which has the functions of c2f_ops._C that launch CUDA kernels.
#include "fibers.h"

#include <pybind11/pybind11.h>
#include <ucontext.h>

#include <cstdlib>
#include <deque>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "bindings/bindings.h"
#include "cuda_runtime.h"
#include "hopper.h"
#include "schedule.h"

EmulatedIndex threadIdx, blockIdx;

namespace emulation {

int64_t shared_limit = 227 << 10;

namespace {

constexpr size_t kStackBytes = 256 * 1024;

struct Copy {
  unsigned char* target;
  const unsigned char* source;
  int bytes, filled;
};

struct Fiber {
  ucontext_t context;
  std::unique_ptr<unsigned char[]> stack{new unsigned char[kStackBytes]};
  bool waits = false, done = false;
  std::function<bool()> ready;           // what it waits for, beside `waits`
  std::deque<std::vector<Copy>> groups;  // committed, oldest first
  std::vector<Copy> open;                // copies since the last commit
};

struct Warp {
  int arrived = 0;
  const char* operation = nullptr;
  unsigned char inputs[kWarpSize][kPayloadBytes], outputs[kWarpSize][kPayloadBytes];
};

struct Block {
  std::vector<unsigned char> shared;
  int at_barrier = 0, done = 0;
};

// The window of a block's shared memory begins with what the system keeps; the rest is 16-byte aligned, no more.
constexpr uint32_t kFirstAddress = 1024 + 16;

bool descending = false;
int count = 0;  // threads of a running block
int64_t shared_size = 0;
int running = 0;  // fiber: thread of the cluster
bool inside = false;
std::vector<Fiber> fibers;
std::vector<Warp> warps;
std::vector<Block> blocks;
ucontext_t scheduler;
void (*entry)(void*);
void* entry_argument;
std::string failure;

void start() {
  entry(entry_argument);
  fibers[running].done = true;
  ++blocks[running / count].done;
  swapcontext(&fibers[running].context, &scheduler);
}

void yield() {
  fibers[running].waits = true;
  swapcontext(&fibers[running].context, &scheduler);
}

void land(const Copy& copy) {
  std::memcpy(copy.target, copy.source, copy.bytes);
  std::memset(copy.target + copy.bytes, 0, copy.filled - copy.bytes);
}

}  // namespace

// Leaves the kernel for good: run_cluster abandons the fibers and throws.
void fail(const char* what) {
  if (!inside) throw std::runtime_error(std::string("emulation: ") + what);
  failure = what;
  setcontext(&scheduler);
  std::abort();
}

void meet_warp(const char* operation, Combine combine, void* payload, int bytes) {
  const int lane = running % kWarpSize, first = running - lane;
  Warp& warp = warps[running / kWarpSize];
  if (warp.arrived == 0) warp.operation = operation;
  if (std::string(warp.operation) != operation) fail("lanes of a warp meet in different operations");
  std::memcpy(warp.inputs[lane], payload, bytes);
  if (++warp.arrived < kWarpSize) {
    yield();
  } else {
    warp.arrived = 0;
    combine(warp.inputs, warp.outputs);
    for (int other = 0; other < kWarpSize; ++other) fibers[first + other].waits = false;
  }
  std::memcpy(payload, warp.outputs[lane], bytes);
}

void meet_block() {
  Block& block = blocks[running_block()];
  if (++block.at_barrier < count) return yield();
  block.at_barrier = 0;
  for (int k = 0; k < count; ++k) fibers[running_block() * count + k].waits = false;
}

int running_thread() { return running % count; }
int running_block() { return running / count; }
int threads_of_block() { return count; }
int blocks_of_cluster() { return static_cast<int>(blocks.size()); }
bool exited(int block) { return blocks[block].done == count; }

unsigned char* at_window(int block, uint32_t address, int64_t bytes) {
  if (address < kFirstAddress || address + bytes > kFirstAddress + shared_size) fail("outside of shared memory");
  std::vector<unsigned char>& shared = blocks[block].shared;
  return shared.data() + (1024 - reinterpret_cast<uintptr_t>(shared.data()) % 1024) % 1024 + address;
}

unsigned char* dynamic_shared() { return at_window(running_block(), kFirstAddress, 0); }

uint32_t shared_window(const void* pointer) {
  return static_cast<uint32_t>(static_cast<const unsigned char*>(pointer) - dynamic_shared()) + kFirstAddress;
}

void wait_until(std::function<bool()> ready) {
  if (ready()) return;
  fibers[running].ready = std::move(ready);
  swapcontext(&fibers[running].context, &scheduler);
}

void copy_later(void* target, const void* source, int bytes, int filled) {
  std::memset(target, 0xff, filled);  // NaN until it lands
  fibers[running].open.push_back(
      {static_cast<unsigned char*>(target), static_cast<const unsigned char*>(source), bytes, filled});
}

void commit() {
  fibers[running].groups.push_back(std::move(fibers[running].open));
  fibers[running].open.clear();
}

void wait(int pending) {
  auto& groups = fibers[running].groups;
  while (groups.size() > static_cast<size_t>(pending)) {
    for (const Copy& copy : groups.front()) land(copy);
    groups.pop_front();
  }
}

void run_cluster(unsigned first_block, int cluster, int threads, int64_t shared_bytes, void (*body)(void*),
                 void* argument) {
  if (threads % kWarpSize != 0) throw std::runtime_error("emulation: only full warps");
  if (shared_bytes > shared_limit) throw std::runtime_error("emulation: more shared memory than a block can have");
  const int total = cluster * threads;
  count = threads;
  entry = body;
  entry_argument = argument;
  shared_size = shared_bytes;
  failure.clear();
  blocks.assign(cluster, Block());
  for (Block& block : blocks) block.shared.assign(kFirstAddress + shared_bytes + 1024, 0xff);
  warps.assign(total / kWarpSize, Warp());
  if (fibers.size() < static_cast<size_t>(total)) fibers = std::vector<Fiber>(total);
  for (int k = 0; k < total; ++k) {
    Fiber& fiber = fibers[k];
    fiber.waits = fiber.done = false;
    fiber.ready = nullptr;
    fiber.groups.clear();
    fiber.open.clear();
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, start, 0);
  }
  begin_cluster();
  for (bool progress = true; progress;) {
    progress = false;
    for (int k = 0; k < total; ++k) {
      running = descending ? total - 1 - k : k;
      Fiber& fiber = fibers[running];
      if (fiber.done || fiber.waits || (fiber.ready && !fiber.ready())) continue;
      fiber.ready = nullptr;
      progress = true;
      threadIdx.x = static_cast<unsigned>(running % count);
      blockIdx.x = first_block + static_cast<unsigned>(running / count);
      inside = true;
      swapcontext(&scheduler, &fiber.context);
      inside = false;
      if (!failure.empty()) throw std::runtime_error("emulation: " + failure);
    }
    progress = progress || land_copy(descending);  // as late as possible: when nobody can go on without it
  }
  for (int k = 0; k < total; ++k) {
    if (!fibers[k].done) throw std::runtime_error("emulation: threads wait for others that never come");
    for (const auto& group : fibers[k].groups) {
      if (!group.empty()) throw std::runtime_error("emulation: the kernel ends with copies in flight");
    }
  }
  end_cluster();
}

}  // namespace emulation

PYBIND11_MODULE(c2f_cuda_emulation, m) {
  m.def(
      "run_descending", [](bool value) { emulation::descending = value; },
      "Order in which the threads of a block run.");
  m.def("limit_shared", [](int64_t bytes) { emulation::shared_limit = bytes; }, "Shared memory that a block can have.");
  m.def("sabotage", &emulation::sabotage, "Leave out one kind of step of the protocol; empty: none.");
  m.def(
      "fetched_bytes", [] { return emulation::fetched_bytes; }, "What tensor-map copies have read from memory so far.");
  emulation::bind_schedule(m);
  c2f::bind_class_attentive_supcon_cuda(m);
  c2f::bind_multilinear_pool_cuda(m);
  c2f::bind_signed_sqrt_normalize_cuda(m);
  c2f::bind_falcon_loss_cuda(m);
}

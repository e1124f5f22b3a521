// The scheduler of the emulation and its Python module, which has the functions of c2f_ops._C that launch CUDA kernels.
#include <pybind11/pybind11.h>
#include <ucontext.h>

#include <cstdlib>
#include <deque>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "bindings/bindings.h"
#include "cuda_runtime.h"

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
  std::deque<std::vector<Copy>> groups;  // committed, oldest first
  std::vector<Copy> open;                // copies since the last commit
};

struct Warp {
  int arrived = 0;
  const char* operation = nullptr;
  unsigned char inputs[kWarpSize][kPayloadBytes], outputs[kWarpSize][kPayloadBytes];
};

bool descending = false;
int count = 0;  // threads of the running block
int running = 0, at_barrier = 0;
std::vector<Fiber> fibers;
std::vector<Warp> warps;
std::vector<unsigned char> shared;
ucontext_t scheduler;
void (*entry)(void*);
void* entry_argument;
std::string failure;

void start() {
  entry(entry_argument);
  fibers[running].done = true;
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

// Leaves the kernel for good: run_block abandons the fibers and throws.
void fail(const char* what) {
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
  if (++at_barrier < count) return yield();
  at_barrier = 0;
  for (int k = 0; k < count; ++k) fibers[k].waits = false;
}

unsigned char* dynamic_shared() { return shared.data() + (16 - reinterpret_cast<uintptr_t>(shared.data()) % 16) % 16; }

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

void run_block(unsigned block, int threads, int64_t shared_bytes, void (*body)(void*), void* argument) {
  if (threads % kWarpSize != 0) throw std::runtime_error("emulation: only full warps");
  blockIdx.x = block;
  count = threads;
  entry = body;
  entry_argument = argument;
  at_barrier = 0;
  failure.clear();
  shared.assign(shared_bytes + 16, 0xff);
  warps.assign(threads / kWarpSize, Warp());
  if (fibers.size() < static_cast<size_t>(threads)) fibers = std::vector<Fiber>(threads);
  for (int k = 0; k < threads; ++k) {
    Fiber& fiber = fibers[k];
    fiber.waits = fiber.done = false;
    fiber.groups.clear();
    fiber.open.clear();
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, start, 0);
  }
  for (bool progress = true; progress;) {
    progress = false;
    for (int k = 0; k < threads; ++k) {
      running = descending ? threads - 1 - k : k;
      Fiber& fiber = fibers[running];
      if (fiber.done || fiber.waits) continue;
      progress = true;
      threadIdx.x = static_cast<unsigned>(running);
      swapcontext(&scheduler, &fiber.context);
      if (!failure.empty()) throw std::runtime_error("emulation: " + failure);
    }
  }
  for (int k = 0; k < threads; ++k) {
    if (!fibers[k].done) throw std::runtime_error("emulation: threads wait for others that never come");
    for (const auto& group : fibers[k].groups) {
      if (!group.empty()) throw std::runtime_error("emulation: the kernel ends with copies in flight");
    }
  }
}

}  // namespace emulation

PYBIND11_MODULE(c2f_cuda_emulation, m) {
  m.def(
      "run_descending", [](bool value) { emulation::descending = value; },
      "Order in which the threads of a block run.");
  m.def(
      "limit_shared", [](int64_t bytes) { emulation::shared_limit = bytes; }, "Shared memory that a block can have.");
  c2f::bind_class_attentive_supcon_cuda(m);
  c2f::bind_multilinear_pool_cuda(m);
  c2f::bind_signed_sqrt_normalize_cuda(m);
  c2f::bind_falcon_loss_cuda(m);
}

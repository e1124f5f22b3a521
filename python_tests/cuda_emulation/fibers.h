// What the emulation of Hopper's instructions (hopper.cpp) and the scheduler (fibers.cpp) know of each other.
#pragma once

#include <cstdint>
#include <functional>

namespace emulation {

// fibers.cpp
int running_thread();  // of its block
int running_block();   // of its cluster
int threads_of_block();
int blocks_of_cluster();
bool exited(int block);  // all its threads have ended
// Shared memory of a block as the 32-bit addresses of its window see it; fails where the block has none.
unsigned char* at_window(int block, uint32_t address, int64_t bytes);
// Lets others run until ready() is true.
void wait_until(std::function<bool()> ready);

// hopper.cpp
void begin_cluster();
// Completes one more asynchronous copy, the oldest or the newest; false: there is none.
bool land_copy(bool newest);
// Fails where something is left undone.
void end_cluster();

}  // namespace emulation

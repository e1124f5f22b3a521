// The OpenMP runtime that the process already runs, torch's, reached by name: none is linked.
#pragma once

#include <functional>

namespace c2f {

// Runs body() on every thread of the caller's OpenMP team, up to `num_threads`, the caller among them, and returns when
// all are done. False where there is no runtime, or where it does not work: in a forked child. Nothing was run then.
bool run_on_team(int num_threads, const std::function<void()>& body);

}  // namespace c2f

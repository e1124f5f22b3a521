// What the two steps of solve_relations share: the problem, and a relation with its prices.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <vector>

#include "c2f/relations.h"

namespace c2f {

inline constexpr int64_t kNoArc = int64_t{1} << 62;  // cost of an arc that does not exist

// Cost of the r-th row in column j, kNoArc past the upper bound.
inline int64_t slot_cost(const RelationProblem& p, int64_t j, int64_t r) {
  if (r > p.upper[j]) return kNoArc;
  if (r <= p.lower[j]) return -2 * p.window * p.unit;
  const double steps = std::nearbyint((2.0 * static_cast<double>(r) + p.level[j]) * p.slope);
  const double window = static_cast<double>(p.window);
  return static_cast<int64_t>(std::min(std::max(steps, -window), window)) * p.unit;
}

// Asks problem.stop at most every 20 ms.
class StopClock {
 public:
  explicit StopClock(const RelationProblem& problem) : problem_(problem), next_(Clock::now() + kPeriod) {}
  bool stopped() {
    if (problem_.stop == nullptr || Clock::now() < next_) return false;
    next_ = Clock::now() + kPeriod;
    return problem_.stop(problem_.stop_context);
  }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::milliseconds kPeriod{20};
  const RelationProblem& problem_;
  Clock::time_point next_;
};

// Turns an optimal relation into the lexicographically smallest one; solution->g and n change, prices stay valid.
// False: stopped.
bool make_lowest(const RelationProblem& problem, StopClock* clock, RelationSolution* solution);

}  // namespace c2f

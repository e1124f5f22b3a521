// solve_relations: the cheapest fine-to-coarse relation, exactly.
//
//   minimise  sum_i cost[i, g_i] + sum_j sum_{r = 1 .. n_j} slot_j(r)        n_j = #{i : g_i = j}, lower_j <= n_j <= upper_j
//
//   slot_j(r) = clip(rint((2 r + level_j) * slope), -window, window) * unit   for lower_j < r <= upper_j
//             = -2 * window * unit                                            for r <= lower_j
//
// over all maps g from K_F rows to K_C columns. slot_j never falls in r, so the sum over n_j is convex and the problem is a minimum
// cost flow on K_C + 1 nodes. The product in slot_j has one rounding, which contraction cannot change.
//
// Needs K_F >= K_C >= 1, 0 <= lower_j <= upper_j <= K_F, sum lower <= K_F <= sum upper, and in each row
// max cost - min cost < window * unit: then a bound is worth more than any row, as the slots below lower_j are cheaper than
// whatever one row can gain. 16 * window * unit <= 2^62 keeps every path length in int64. No argument is written but the
// results.
//
// Results: of all optimal g the one that is smallest in lexicographic order (row 0 first), so it does not depend on the
// start, the order of operations or the machine. Prices v prove it: v_k + cost[i, k] is least at k = g_i for every row, and
// slot_j(n_j) <= v_j <= slot_j(n_j + 1) where these slots exist. They are one of many such vectors.
//
// Starts: candidates for v, of which the one is taken that leaves the fewest rows in columns that are too full; any values
// do, they decide about time alone. Memory: K_C (K_C + 8) int64 and lists of rows.
#pragma once

#include "c2f/common.h"

namespace c2f {

struct RelationProblem {
  int64_t num_fine = 0, num_coarse = 0;
  const int64_t* cost = nullptr;    // [K_F, K_C], rows one after another
  const double* level = nullptr;    // [K_C]
  double slope = 0;                 // >= 0
  int64_t window = 1, unit = 1;
  const int64_t* lower = nullptr;   // [K_C]
  const int64_t* upper = nullptr;   // [K_C]
  int64_t num_starts = 0;           // >= 1
  const int64_t* starts = nullptr;  // [num_starts, K_C], within +-4 * window * unit

  // Asked every few milliseconds; true ends the solve with the error "interrupted". May be null.
  bool (*stop)(void* context) = nullptr;
  void* stop_context = nullptr;
};

struct RelationSolution {
  int32_t* g = nullptr;      // [K_F]
  int64_t* n = nullptr;      // [K_C]
  int64_t* price = nullptr;  // [K_C]
  int64_t start = 0;         // index of the start that was taken
  int64_t paths = 0;         // shortest paths it took from there
};

Status solve_relations(const RelationProblem& problem, RelationSolution* solution);

}  // namespace c2f

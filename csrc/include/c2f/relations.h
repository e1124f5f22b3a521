// solve_relations: the cheapest fine-to-coarse relation, exactly.
//
//   minimise  sum_i cost[i, g_i] + sum_j sum_{r = 1 .. n_j} slot_j(r)
//   where     n_j = #{i : g_i = j}, lower_j <= n_j <= upper_j
//
//   slot_j(r) = clip(rint((2 r + level_j) * slope), -window, window) * unit   for lower_j < r <= upper_j
//             = -2 * window * unit                                            for r <= lower_j
//
// over all maps g from K_F rows to K_C columns. slot_j never falls in r, so this is a minimum cost flow on K_C + 1
// nodes. 2 r is exact, so contraction cannot change a slot.
//
// Needs K_F >= 1, K_C >= 1, K_F < 2^31, 0 <= lower_j <= upper_j, sum lower <= K_F <= sum upper, slope >= 0 and, in each
// row, max cost - min cost < window * unit: then no row can gain what a slot at the lower bound is worth.
// 16 * window * unit <= 2^62 keeps the length of every path in int64.
//
// g is of all optimal maps the lexicographically smallest (row 0 first), so it depends neither on the start nor on the
// order of operations nor on the machine. The prices v prove it optimal: v_k + cost[i, k] is least at k = g_i for every
// row, and slot_j(n_j) <= v_j <= slot_j(n_j + 1) where these slots exist. Optimal prices are not unique.
//
// Any start gives the same g; a good one (prices of a similar problem) saves time. Scratch: 12 bytes a cell of K_C^2,
// lists of rows; where rows tie, 4 bytes a cell of K_C^2 and a bit a cell of K_F K_C.
#pragma once

#include "c2f/common.h"

namespace c2f {

enum class RelationStart : int32_t { kGiven = 0, kLevel = 1, kHalf = 2 };

struct RelationProblem {
  int64_t num_fine = 0, num_coarse = 0;
  const int64_t* cost = nullptr;  // [K_F, K_C], columns adjacent
  int64_t row_stride = 0;         // elements from row to row
  const double* level = nullptr;  // [K_C]
  double slope = 0;
  int64_t window = 1, unit = 1;
  const int64_t* lower = nullptr;  // [K_C]
  const int64_t* upper = nullptr;  // [K_C]
  const int64_t* start = nullptr;  // [K_C] prices within +-4 * window * unit, or null

  // Asked every 20 ms or so; true ends the solve with the error "interrupted". May be null.
  bool (*stop)(void* context) = nullptr;
  void* stop_context = nullptr;
};

struct RelationSolution {
  int32_t* g = nullptr;      // [K_F]
  int64_t* n = nullptr;      // [K_C]
  int64_t* price = nullptr;  // [K_C]
  // What came first: the given start, all prices 0, or the prices of every second row's problem.
  RelationStart start = RelationStart::kLevel;
  int64_t paths = 0;  // shortest paths from there
};

Status solve_relations(const RelationProblem& problem, RelationSolution* solution);

}  // namespace c2f

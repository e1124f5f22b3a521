// solve_relations by shortest paths. Every row stands in a column that is cheapest for it at the current prices;
// columns that hold more rows than they have open slots send one row at a time along a shortest path to a column with a
// free slot.
//
// Nodes are the columns and, last, the market t, which opens and closes slots. Length of an arc before prices:
//   j -> k   min over rows i of j of cost[i, k] - cost[i, j]   a row moves
//   j -> t   slot_j(n_j + 1)                                   j opens a slot
//   t -> j   -slot_j(n_j)                                      j closes a slot
// length + v_to - v_from >= 0 at all times (v_t = 0): Dijkstra's condition, and the proof of optimality once no column
// holds more or fewer rows than slots.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "cpu/relation_state.h"

namespace c2f {
namespace {

constexpr int64_t kGather = 4;     // cost of a strided load over that of a sequential one
constexpr int64_t kFewRows = 128;  // problems below are solved as they are
constexpr int64_t kDone = std::numeric_limits<int64_t>::max();

// Distances over a node at `offset` with arcs of these lengths; returns the least among nodes that are not done. Not
// inlined: its pointers need the registers.
[[gnu::noinline]] int64_t relax(int64_t size, const int64_t* __restrict__ length, const int64_t* __restrict__ price,
                                const int64_t* __restrict__ done, int64_t offset, int64_t* __restrict__ distance) {
  int64_t least = kDone;
  for (int64_t k = 0; k < size; ++k) {
    const int64_t d = std::min(distance[k], length[k] + price[k] + offset);
    distance[k] = d;
    least = std::min(least, d | done[k]);
  }
  return least;
}

class Solver {
 public:
  Solver(const RelationProblem& problem, RelationSolution* solution)
      : p_(problem), out_(*solution), C_(problem.num_coarse), nodes_(C_ + 1), stride_((nodes_ + 7) / 8 * 8) {
    price_.assign(stride_, 0);
    excess_.resize(nodes_);
  }

  // Puts each row into its cheapest column at prices v and opens slots for them as far as the prices allow. Returns how
  // many rows and slots are left to move.
  int64_t place(const int64_t* v) {
    std::copy(v, v + C_, price_.begin());
    price_[C_] = 0;
    std::fill(excess_.begin(), excess_.end(), 0);
    for (int64_t i = 0; i < p_.num_fine; ++i) {
      const int64_t* cost = cost_of(i);
      int64_t least = cost[0] + price_[0], best = 0;
      for (int64_t k = 1; k < C_; ++k) {
        const int64_t x = cost[k] + price_[k];
        best = x < least ? k : best;
        least = std::min(x, least);
      }
      out_.g[i] = static_cast<int32_t>(best);
      ++excess_[best];
    }
    int64_t open = 0, left = 0;
    for (int64_t j = 0; j < C_; ++j) {
      // Slots below the price are open, those at the price may be.
      out_.n[j] = std::min(std::max(excess_[j], slots_below(j, price_[j])), slots_below(j, price_[j] + 1));
      excess_[j] -= out_.n[j];
      open += out_.n[j];
      left += std::max<int64_t>(excess_[j], 0);
    }
    excess_[C_] = open - p_.num_fine;
    return left + std::max<int64_t>(excess_[C_], 0);
  }

  // From the last `place` to the optimum.
  Status run(StopClock* clock) {
    rows_.resize(C_);
    for (int64_t i = 0; i < p_.num_fine; ++i) rows_[out_.g[i]].push_back(static_cast<int32_t>(i));
    arc_.assign(nodes_ * stride_, kNoArc);
    mover_.resize(C_ * C_);
    fresh_.assign(nodes_, 0);
    distance_.resize(stride_);
    done_.resize(stride_);
    for (int64_t j = 0; j < C_; ++j) update_slots(j);
    for (int64_t source = 0; source < nodes_; ++source) {
      for (; excess_[source] > 0; ++out_.paths) {
        if (clock->stopped()) return Status::error("interrupted");
        if (!find_path(source)) return Status::error("solve_relations: no relation keeps the bounds");
        move_rows();
        update_prices();
      }
    }
    std::copy(price_.begin(), price_.begin() + C_, out_.price);
    return {};
  }

 private:
  const int64_t* cost_of(int64_t row) const { return p_.cost + row * p_.row_stride; }
  int64_t* arcs_from(int64_t node) { return arc_.data() + node * stride_; }
  int32_t* movers_from(int64_t column) { return mover_.data() + column * C_; }

  int64_t slots_below(int64_t j, int64_t price) const {
    int64_t low = 0, high = p_.upper[j];
    while (low < high) {
      const int64_t r = low + (high - low + 1) / 2;
      if (slot_cost(p_, j, r) < price) {
        low = r;
      } else {
        high = r - 1;
      }
    }
    return low;
  }

  void update_slots(int64_t j) {
    arcs_from(j)[C_] = slot_cost(p_, j, out_.n[j] + 1);
    arcs_from(C_)[j] = out_.n[j] > 0 ? -slot_cost(p_, j, out_.n[j]) : kNoArc;
  }

  // Lengths of the arcs out of a node; those of a column are made when first needed and follow its rows from then on.
  const int64_t* lengths_from(int64_t node) {
    if (node < C_ && !fresh_[node]) {
      std::fill(arcs_from(node), arcs_from(node) + C_, kNoArc);
      for (const int32_t row : rows_[node]) offer_moves(node, row);
      fresh_[node] = 1;
    }
    return arcs_from(node);
  }

  void offer_moves(int64_t column, int32_t row) {
    int64_t* __restrict__ arc = arcs_from(column);
    int32_t* __restrict__ mover = movers_from(column);
    const int64_t* __restrict__ cost = cost_of(row);
    const int64_t own = cost[column];
    for (int64_t k = 0; k < C_; ++k) {
      const int64_t length = cost[k] - own;
      mover[k] = length < arc[k] ? row : mover[k];
      arc[k] = std::min(length, arc[k]);
    }
  }

  // After `row` has left: the arcs that were its moves go to the remaining rows; if they are many, all arcs are made
  // anew.
  void withdraw_moves(int64_t column, int32_t row) {
    int64_t* arc = arcs_from(column);
    int32_t* mover = movers_from(column);
    orphans_.clear();
    for (int64_t k = 0; k < C_; ++k) {
      if (mover[k] == row) orphans_.push_back(k);
    }
    if (static_cast<int64_t>(orphans_.size()) * kGather > C_) {
      fresh_[column] = 0;
      return;
    }
    for (const int64_t k : orphans_) arc[k] = kNoArc;
    for (const int32_t other : rows_[column]) {
      const int64_t* cost = cost_of(other);
      for (const int64_t k : orphans_) {
        const int64_t length = cost[k] - cost[column];
        if (length < arc[k]) {
          arc[k] = length;
          mover[k] = other;
        }
      }
    }
  }

  // Dijkstra from `source` to the first node with a free slot: order_ are the nodes by distance, the target last.
  bool find_path(int64_t source) {
    std::fill(distance_.begin(), distance_.end(), kNoArc);
    std::fill(done_.begin(), done_.begin() + nodes_, 0);
    std::fill(done_.begin() + nodes_, done_.end(), kDone);
    order_.assign(1, source);
    distance_[source] = 0;
    for (int64_t node = source; excess_[node] >= 0;) {
      done_[node] = kDone;
      const int64_t offset = distance_[node] - price_[node];
      const int64_t least = relax(stride_, lengths_from(node), price_.data(), done_.data(), offset, distance_.data());
      if (least >= kNoArc / 2) return false;
      for (node = 0; (distance_[node] | done_[node]) != least;) ++node;
      order_.push_back(node);
    }
    return true;
  }

  // Moves one row over each arc of the path, from its end to its start.
  void move_rows() {
    int64_t to = static_cast<int64_t>(order_.size()) - 1;
    ++excess_[order_[to]];
    while (to > 0) {
      const int64_t y = order_[to], passed = distance_[y] - price_[y];
      int64_t from = 0;
      while (distance_[order_[from]] - price_[order_[from]] + arcs_from(order_[from])[y] != passed) ++from;
      const int64_t x = order_[from];
      if (x == C_ || y == C_) {
        const int64_t j = x == C_ ? y : x;
        out_.n[j] += x == C_ ? -1 : 1;
        update_slots(j);
      } else {
        move_row(x, y);
      }
      to = from;
    }
    --excess_[order_[0]];
  }

  void move_row(int64_t x, int64_t y) {
    const int32_t row = movers_from(x)[y];
    out_.g[row] = static_cast<int32_t>(y);
    rows_[x].erase(std::find(rows_[x].begin(), rows_[x].end(), row));
    rows_[y].push_back(row);
    if (fresh_[x]) withdraw_moves(x, row);
    if (fresh_[y]) offer_moves(y, row);
  }

  // Nodes nearer than the target get dearer by the difference; then the market is brought back to 0.
  void update_prices() {
    const int64_t target = distance_[order_.back()];
    for (const int64_t node : order_) price_[node] += target - distance_[node];
    const int64_t market = price_[C_];
    if (market == 0) return;
    for (int64_t k = 0; k < nodes_; ++k) price_[k] -= market;
  }

  const RelationProblem& p_;
  RelationSolution& out_;
  const int64_t C_, nodes_, stride_;
  std::vector<int64_t> arc_;                      // [nodes, stride]
  std::vector<int32_t> mover_;                    // [C, C] the row behind an arc between columns
  std::vector<char> fresh_;                       // [nodes] whether the arcs out of a column are those of its rows
  std::vector<int64_t> price_, distance_, done_;  // [stride] done: 0 or kDone
  std::vector<int64_t> excess_;                   // [nodes] rows less open slots; of the market, open slots less rows
  std::vector<std::vector<int32_t>> rows_;        // [C]
  std::vector<int64_t> order_, orphans_;
};

Status solve(const RelationProblem& problem, StopClock* clock, RelationSolution* solution);

// Prices of the problem with every second row and half the slots, for which g and n of `solution` serve as scratch.
Status solve_half(const RelationProblem& problem, StopClock* clock, RelationSolution* solution) {
  const int64_t C = problem.num_coarse;
  std::vector<double> level(problem.level, problem.level + C);
  std::vector<int64_t> lower(problem.lower, problem.lower + C), upper(problem.upper, problem.upper + C);
  for (int64_t j = 0; j < C; ++j) {
    level[j] = (level[j] - 1) / 2;  // slot r stands for slots 2 r - 1 and 2 r
    lower[j] /= 2;
    upper[j] = (upper[j] + 1) / 2;
  }
  RelationProblem half = problem;
  half.num_fine = (problem.num_fine + 1) / 2;
  half.row_stride = 2 * problem.row_stride;
  half.level = level.data();
  half.slope = 2 * problem.slope;
  half.lower = lower.data();
  half.upper = upper.data();
  return solve(half, clock, solution);
}

Status solve(const RelationProblem& problem, StopClock* clock, RelationSolution* solution) {
  Solver solver(problem, solution);
  const std::vector<int64_t> zero(problem.num_coarse, 0);
  std::vector<int64_t> prices = zero;
  RelationStart start = RelationStart::kLevel;
  int64_t left = kDone;
  const auto try_start = [&](RelationStart candidate, const int64_t* v) {
    const int64_t left_there = solver.place(v);
    if (left_there < left) {
      left = left_there;
      start = candidate;
      prices.assign(v, v + problem.num_coarse);
    } else {
      solver.place(prices.data());
    }
  };
  if (problem.start != nullptr) try_start(RelationStart::kGiven, problem.start);
  if (left > 0) try_start(RelationStart::kLevel, zero.data());
  if (left > problem.num_fine / 4 && problem.num_fine >= kFewRows) {
    const Status status = solve_half(problem, clock, solution);
    if (!status.ok()) return status;
    const std::vector<int64_t> half(solution->price, solution->price + problem.num_coarse);
    try_start(RelationStart::kHalf, half.data());
  }
  solution->start = start;
  solution->paths = 0;
  return solver.run(clock);
}

}  // namespace

Status solve_relations(const RelationProblem& problem, RelationSolution* solution) {
  StopClock clock(problem);
  const Status status = solve(problem, &clock, solution);
  if (!status.ok()) return status;
  return make_lowest(problem, &clock, solution) ? Status() : Status::error("interrupted");
}

}  // namespace c2f

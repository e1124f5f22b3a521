// solve_relations by shortest paths. Every row stands in a column that is cheapest for it at the current prices; columns that
// hold more rows than they have open slots send one row at a time along a shortest path to a column with a free slot.
//
// Nodes are the columns and, last, the market t, which opens and closes slots. Length of an arc before prices:
//   j -> k   min over rows i of j of cost[i, k] - cost[i, j]   a row moves
//   j -> t   slot_j(n_j + 1)                                   j opens a slot
//   t -> j   -slot_j(n_j)                                      j closes a slot
// length + v_to - v_from >= 0 at all times (v_t = 0): Dijkstra's condition, and the proof of optimality once no column holds more
// or fewer rows than slots.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "cpu/relation_state.h"

namespace c2f {
namespace {

constexpr int64_t kDone = std::numeric_limits<int64_t>::max();

class Solver {
 public:
  Solver(const RelationProblem& problem, RelationSolution* solution)
      : p_(problem), out_(*solution), C_(problem.num_coarse), nodes_(C_ + 1), stride_((nodes_ + 7) / 8 * 8) {
    arc_.assign(nodes_ * stride_, kNoArc);
    fresh_.assign(nodes_, 0);
    price_.assign(stride_, 0);
    distance_.resize(stride_);
    done_.resize(stride_);
    excess_.resize(nodes_);
    rows_.resize(C_);
  }

  Status run(StopClock* clock) {
    choose_start();
    for (int64_t j = 0; j < C_; ++j) update_slots(j);
    for (int64_t source = 0; source < nodes_; ++source) {
      for (; excess_[source] > 0; ++out_.paths) {
        if (clock->stopped()) return Status::error("interrupted");
        if (!find_path(source)) return Status::error("no relation keeps the bounds");
        move_rows();
        update_prices();
      }
    }
    std::copy(price_.begin(), price_.begin() + C_, out_.price);
    return {};
  }

 private:
  // Puts each row into its cheapest column at prices v and opens slots for them as far as the prices allow. Returns the number of
  // rows and slots that are left to move.
  int64_t place(const int64_t* v) {
    std::fill(excess_.begin(), excess_.end(), 0);
    for (int64_t i = 0; i < p_.num_fine; ++i) {
      const int64_t* cost = p_.cost + i * C_;
      int64_t least = cost[0] + v[0], best = 0;
      for (int64_t k = 1; k < C_; ++k) {
        const int64_t x = cost[k] + v[k];
        best = x < least ? k : best;
        least = std::min(x, least);
      }
      out_.g[i] = static_cast<int32_t>(best);
      ++excess_[best];
    }
    int64_t open = 0, left = 0;
    for (int64_t j = 0; j < C_; ++j) {
      // Slots below the price are open, those at the price may be.
      out_.n[j] = std::min(std::max(excess_[j], slots_below(j, v[j])), slots_below(j, v[j] + 1));
      excess_[j] -= out_.n[j];
      open += out_.n[j];
      left += std::max<int64_t>(excess_[j], 0);
    }
    excess_[C_] = open - p_.num_fine;
    return left + std::max<int64_t>(excess_[C_], 0);
  }

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

  void choose_start() {
    int64_t least = kDone;
    for (int64_t s = 0; s < p_.num_starts; ++s) {
      const int64_t left = place(p_.starts + s * C_);
      if (left < least) {
        least = left;
        out_.start = s;
      }
    }
    const int64_t* v = p_.starts + out_.start * C_;
    if (out_.start + 1 < p_.num_starts) place(v);
    std::copy(v, v + C_, price_.begin());
    for (int64_t i = 0; i < p_.num_fine; ++i) rows_[out_.g[i]].push_back(static_cast<int32_t>(i));
  }

  int64_t* arcs_from(int64_t node) { return arc_.data() + node * stride_; }

  void update_slots(int64_t j) {
    arcs_from(j)[C_] = slot_cost(p_, j, out_.n[j] + 1);
    arcs_from(C_)[j] = out_.n[j] > 0 ? -slot_cost(p_, j, out_.n[j]) : kNoArc;
  }

  // Lengths of the arcs out of a node; those of a column are computed when its rows have changed.
  const int64_t* lengths_from(int64_t node) {
    int64_t* arc = arcs_from(node);
    if (node == C_ || fresh_[node]) return arc;
    std::fill(arc, arc + C_, kNoArc);
    for (const int32_t i : rows_[node]) {
      const int64_t* cost = p_.cost + i * C_;
      const int64_t own = cost[node];
      for (int64_t k = 0; k < C_; ++k) arc[k] = std::min(arc[k], cost[k] - own);
    }
    fresh_[node] = 1;
    return arc;
  }

  // Dijkstra from `source` to the first node with a free slot: order_ are the nodes in order of distance, the target last.
  bool find_path(int64_t source) {
    std::fill(distance_.begin(), distance_.end(), kNoArc);
    std::fill(done_.begin(), done_.begin() + nodes_, 0);
    std::fill(done_.begin() + nodes_, done_.end(), kDone);
    order_.assign(1, source);
    distance_[source] = 0;
    for (int64_t node = source; excess_[node] >= 0;) {
      done_[node] = kDone;
      const int64_t least = relax(lengths_from(node), distance_[node] - price_[node]);
      if (least >= kNoArc / 2) return false;
      for (node = 0; (distance_[node] | done_[node]) != least;) ++node;
      order_.push_back(node);
    }
    return true;
  }

  // Distances over a node with these arcs; returns the least of a node that is not done.
  int64_t relax(const int64_t* __restrict__ length, int64_t offset) {
    int64_t* __restrict__ distance = distance_.data();
    const int64_t* __restrict__ price = price_.data();
    const int64_t* __restrict__ done = done_.data();
    int64_t least = kDone;
    for (int64_t k = 0; k < stride_; ++k) {
      distance[k] = std::min(distance[k], length[k] + price[k] + offset);
      least = std::min(least, distance[k] | done[k]);
    }
    return least;
  }

  // Moves one row over each arc of the path, from its end to its start.
  void move_rows() {
    int64_t to = static_cast<int64_t>(order_.size()) - 1;
    ++excess_[order_[to]];
    while (to > 0) {
      const int64_t y = order_[to];
      int64_t from = 0;
      while (distance_[order_[from]] + arcs_from(order_[from])[y] + price_[y] - price_[order_[from]] != distance_[y]) ++from;
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
    std::vector<int32_t>& rows = rows_[x];
    const int64_t length = arcs_from(x)[y];
    auto row = rows.begin();
    while (p_.cost[*row * C_ + y] - p_.cost[*row * C_ + x] != length) ++row;
    out_.g[*row] = static_cast<int32_t>(y);
    rows_[y].push_back(*row);
    rows.erase(row);
    fresh_[x] = fresh_[y] = 0;
  }

  // Nodes nearer than the target get dearer by the difference, and the market is brought back to 0.
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
  std::vector<int64_t> arc_;                     // [nodes, stride]
  std::vector<char> fresh_;                      // [nodes]
  std::vector<int64_t> price_, distance_, done_;  // [stride]; done: 0, or kDone
  std::vector<int64_t> excess_, order_;
  std::vector<std::vector<int32_t>> rows_;
};

}  // namespace

Status solve_relations(const RelationProblem& problem, RelationSolution* solution) {
  StopClock clock(problem);
  const Status status = Solver(problem, solution).run(&clock);
  if (!status.ok()) return status;
  return make_lowest(problem, &clock, solution) ? Status() : Status::error("interrupted");
}

}  // namespace c2f
